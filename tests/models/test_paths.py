"""Attention along paths against each sequence read alone by the plain model."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mechmask.errors import ModelError
from mechmask.models.forward import decoded, may_go_along_paths
from mechmask.models.packing import batches
from mechmask.models.paths import attention_along, can_attend_along_paths, paths_of
from mechmask.models.routes import Contest


def random_forest(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return [int(torch.randint(-1, token, (1,), generator=generator)) if token else -1 for token in range(n)]


def ancestors(parents, token):
    """Of a token, from the root, itself the last."""
    way = []
    while token >= 0:
        way.append(token)
        token = parents[token]
    return way[::-1]


@pytest.mark.parametrize(
    "parents", [[-1], [-1, -1, -1], list(range(-1, 40)), *(random_forest(60, s) for s in range(5))]
)
def test_every_token_is_on_a_path_that_holds_its_ancestors(parents):
    paths = paths_of(parents)
    laid_out = torch.cat([table.flatten() for table in paths.tokens])
    assert laid_out[paths.slots].tolist() == list(range(len(parents)))
    leaves = set(range(len(parents))) - set(parents)
    assert sum(len(table) for table in paths.tokens) == len(leaves)
    for token in range(len(parents)):
        assert paths.upto(token).tolist() == ancestors(parents, token)
    for table in paths.tokens:
        for row in table.tolist():
            way = ancestors(parents, row[-1])
            assert row == way + way[-1:] * (len(row) - len(way))
            assert len(row) < 2 * len(way), "a path is not padded to twice its length"


def _contests(lengths, seed=0):
    """One route each, of so many tokens, with every third beginning shared."""
    generator = torch.Generator().manual_seed(seed)
    trunk = torch.randint(5, 400, (max(lengths),), generator=generator).tolist()
    made = []
    for i, n in enumerate(lengths):
        own = torch.randint(5, 400, (n,), generator=generator).tolist()
        shared = n // 2 if i % 3 else n
        made.append(Contest(str(i), tuple(trunk[:shared] + own[shared:]), {"value": (7,)}, 0, None))
    return made


def _hidden(module, batch):
    with attention_along(module, batch.paths):
        return module.base_model(**batch.inputs(torch.device("cpu"), torch.float32)).last_hidden_state[0]


def _require_alone(module, contests, batch):
    with torch.no_grad():
        hidden = _hidden(module, batch)
        for query in batch.queries:
            prompt = contests[query.contest].prompt
            alone = module.base_model(input_ids=torch.tensor([prompt]), use_cache=False).last_hidden_state[0, -1]
            assert torch.allclose(hidden[batch.columns[query.node]], alone, atol=3e-4), query


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sequences_of_many_lengths_are_as_each_alone(tiny, family, attention):
    model = tiny(family)
    if family == "gemma2" and attention == "sdpa":
        pytest.skip("its attention has a softcap, which sdpa has not")
    if family != "gptj":
        model.module.set_attn_implementation(attention)
    if not can_attend_along_paths(model.module, model.anatomy.attention(0)):
        assert family == "gptj", "which looks up no attention function"
        return
    contests = _contests([3, 12, 5, 1, 40, 12, 9, 20, 11])
    (batch,) = batches(contests, score="sequence", along_paths=True)
    prefixes = {contest.prompt[:n] for contest in contests for n in range(1, len(contest.prompt) + 1)}
    assert batch.input_ids.shape == (1, len(prefixes))
    assert len(batch.paths.tokens) > 1
    for query in batch.queries:
        path = batch.path(query.node)
        assert tuple(batch.input_ids[0, path].tolist()) == contests[query.contest].prompt
    _require_alone(model.module, contests, batch)


@pytest.mark.parametrize(
    "options",
    [{"scale_attn_by_inverse_layer_idx": True}, {"reorder_and_upcast_attn": True}, {"scale_attn_weights": False}],
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_ways_in_which_gpt2_scales(tiny, options, attention):
    module = tiny("gpt2", **options).module
    module.set_attn_implementation(attention)
    contests = _contests([4, 9, 6])
    (batch,) = batches(contests, score="sequence", along_paths=True)
    _require_alone(module, contests, batch)


def test_an_attention_that_takes_its_own_arguments_is_left_alone(tiny):
    module = tiny("llama").module
    attention = module.model.layers[0].self_attn
    assert can_attend_along_paths(module, attention)
    module.config._attn_implementation = "flex_attention"
    assert not can_attend_along_paths(module, attention)
    module.config._attn_implementation = "eager"
    assert not can_attend_along_paths(module, torch.nn.Linear(2, 2)), "whose file has no attention function"


def test_other_models_of_the_same_configuration_are_not_led(tiny):
    module = tiny("llama").module
    other = type(module)(module.config).eval()
    assert other.config is module.config
    ids = torch.arange(5, 12)[None]
    (batch,) = batches(_contests([4, 9, 6]), score="sequence", along_paths=True)
    with torch.no_grad():
        before = other(input_ids=ids).logits
        with attention_along(module, batch.paths):
            assert torch.equal(other(input_ids=ids).logits, before)
            assert module.config is not other.config
        assert module.config is other.config is module.model.layers[0].self_attn.config


def test_another_thread_that_reads_meanwhile_is_refused(tiny):
    module = tiny("llama").module
    (batch,) = batches(_contests([4, 9, 6]), score="sequence", along_paths=True)
    caught = []

    def read():
        try:
            module(input_ids=torch.arange(5, 12)[None])
        except ModelError as error:
            caught.append(str(error))

    with attention_along(module, batch.paths):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert "Another thread" in caught[0]
    read()
    assert len(caught) == 1


def test_a_function_that_stands_in_for_sdpa_is_taken(tiny, monkeypatch):
    """Users exchange it, for a faster kernel say."""
    module = tiny("llama").module
    calls = []
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
    stand_in = {"sdpa": lambda *args, **options: calls.append(1) or sdpa(*args, **options)}
    monkeypatch.setattr(ALL_ATTENTION_FUNCTIONS, "_local_mapping", stand_in)
    (batch,) = batches(_contests([4, 5, 6]), score="sequence", along_paths=True)
    with torch.no_grad():
        _hidden(module, batch)
    assert len(calls) == len(module.model.layers) * len(batch.paths.tokens)


def test_gradients_are_the_same_bits_each_time(smol):
    contests = _contests([12] * 30)
    (batch,) = batches(contests, score="sequence", along_paths=True)
    start = smol.module.get_input_embeddings()(batch.input_ids).detach().requires_grad_()
    gradients = []
    for _ in range(3):
        with attention_along(smol.module, batch.paths):
            out = smol.module.base_model(inputs_embeds=start, position_ids=batch.position_ids, use_cache=False)
        (gradient,) = torch.autograd.grad(out.last_hidden_state.square().sum(), start)
        gradients.append(gradient)
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_gpt2_that_computes_attention_in_float32_where_it_is_eager_is_left_alone(tiny):
    module = tiny("gpt2", reorder_and_upcast_attn=True).module
    for attention, may in (("sdpa", True), ("eager", False)):
        module.set_attn_implementation(attention)
        assert can_attend_along_paths(module, module.transformer.h[0].attn) == may


def test_one_block_with_an_attention_of_its_own_is_enough_to_leave_all_alone(tiny):
    model = tiny("llama")
    contests = _contests([4, 9, 6])
    assert may_go_along_paths(model, contests)
    attention = model.anatomy.attention(1)
    attention.forward = attention.forward  # what stands in for it may want a mask
    assert not may_go_along_paths(model, contests)


def test_a_batch_along_paths_is_not_read_as_one_sequence(tiny):
    module = tiny("llama").module
    batch, other = (next(batches(_contests([4, n]), score="sequence", along_paths=True)) for n in (5, 6))
    with pytest.raises(ModelError, match="attention_along"):
        batch.inputs(torch.device("cpu"), torch.float32)
    with attention_along(module, other.paths), pytest.raises(ModelError, match="attention_along"):
        batch.inputs(torch.device("cpu"), torch.float32)


def test_gradients_of_a_beginning_that_hundreds_share_are_added_in_float32(tiny):
    """In bfloat16 a sum of a thousand like terms stands still long before its end."""
    contests = [Contest(str(i), (5, 6, 7, 8, 20 + i % 400, 9 + i // 400), {"value": (7,)}, 0, None) for i in range(800)]

    def gradient(dtype, **options):
        model = tiny("llama", dtype)
        (batch,) = batches(contests, score="sequence", batch_size=len(contests), **options)
        logprobs = model.anatomy.unembedding(decoded(model, batch)).float().log_softmax(-1)
        weight = model.anatomy.blocks[0].self_attn.v_proj.weight
        return torch.autograd.grad(logprobs[:, 7].mean(), weight)[0].float()

    exact = gradient(torch.float32, along_paths=True)
    errors = [
        float((gradient(torch.bfloat16, **options) - exact).norm() / exact.norm())
        for options in ({"along_paths": True}, {"pack": False})
    ]
    assert errors[0] < 1.2 * errors[1] < 0.06
