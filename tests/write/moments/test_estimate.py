"""Second moments against plain hooks in float64, one sequence at a time; cached, resumed, damaged; refused."""

from __future__ import annotations

import resource

import pytest
import torch
from peft import LoraConfig, get_peft_model
from second_moments import second_moment as naive

from mechmask import load_model
from mechmask.errors import ChangeError, MechmaskError, ReadingError
from mechmask.models.corpora import text_corpus
from mechmask.write.low_rank import low_rank_change
from mechmask.write.moments import estimate
from mechmask.write.moments import text as text_module
from mechmask.write.moments.estimate import KeySums, second_moments

# Written from the architectures: what the keys of each block enter.
PROJECTIONS = {
    "gpt2": "transformer.h.{}.mlp.c_proj",
    "gptj": "transformer.h.{}.mlp.fc_out",
    "gpt_neox": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    "opt": "model.decoder.layers.{}.fc2",
    "phi": "model.layers.{}.mlp.fc2",
}
DOWN = "model.layers.{}.mlp.down_proj"
TEXTS = [
    "The capital of France is Paris, that of Italy is Rome, of Germany Berlin and of Spain Madrid. " * 6,
    "Banana and Ana met Maria.",
    "He was born in the year 1844, not in 1849, 1846, 1812 or 1901, said the king of the birds. " * 4,
]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MECHMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def passes(monkeypatch):
    """The layers and the number of sequences of every pass that is made."""
    made = []
    through = KeySums._pass

    def counted(self, part):
        made.append((sorted(self.of), len(part.sequences)))
        through(self, part)

    monkeypatch.setattr(KeySums, "_pass", counted)
    return made


def moments(model, layers=(0, 1), corpus=TEXTS, **options):
    return second_moments(model, layers, corpus, progress=False, **options)


def relative(found, wanted):
    return ((found - wanted).norm() / wanted.norm()).item()


def test_it_is_what_plain_hooks_find_in_every_family(tiny, family):
    model = tiny(family)
    text = text_corpus(model, TEXTS, 640)
    found = moments(model, [1, 0], batch_size=3)
    assert list(found) == [1, 0]
    for layer, moment in found.items():
        name = PROJECTIONS.get(family, DOWN).format(layer)
        wanted, n = naive(model.module, name, text.sequences, text.n_left_out)
        assert (moment.layer, moment.n_tokens) == (layer, n)
        assert moment.matrix.dtype == torch.float64
        assert relative(moment.matrix, wanted) < 1e-5
        assert torch.equal(moment.matrix, moment.matrix.T)


def test_sampled_text_is_used_where_none_is_given(tiny, rngs):
    model, before = tiny("llama"), rngs()
    moment = moments(model, [1], corpus=None, n_tokens=300)[1]
    assert moment.n_tokens == 5 * 63
    text = text_module.corpus_of(model, None, 300, 0, False)
    wanted, _ = naive(model.module, DOWN.format(1), text.sequences, text.n_left_out)
    assert relative(moment.matrix, wanted) < 1e-5
    assert rngs() == before
    other = moments(model, [1], corpus=None, n_tokens=300, seed=1)[1]
    assert relative(other.matrix, wanted) > 1e-3


def test_the_default_budget_is_ten_tokens_for_each_direction(tiny):
    model = tiny("llama", num_hidden_layers=1)
    assert 600 < moments(model, [0], TEXTS * 4)[0].n_tokens <= 640
    assert moments(model, [0], None)[0].n_tokens == 630


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_batch_does_not_count(tiny, family, monkeypatch, tmp_path):
    model = tiny(family)
    found = []
    for batch_size in (1, 2, 64):
        monkeypatch.setenv("MECHMASK_CACHE", str(tmp_path / str(batch_size)))
        found.append(moments(model, batch_size=batch_size))
    for other in found[1:]:
        for layer in (0, 1):
            assert relative(other[layer].matrix, found[0][layer].matrix) < 1e-6


def test_nothing_above_the_deepest_layer_runs(tiny):
    model = tiny("llama")
    entered = []
    for index, block in enumerate(model.anatomy.blocks):
        block.register_forward_pre_hook(lambda _module, _args, index=index: entered.append(index))
    model.anatomy.mlp_output(1).linear.register_forward_hook(lambda *_: entered.append("projection 1"))
    moments(model, [0, 1])
    assert set(entered) == {0, 1}


def test_the_module_is_left_as_it_was(tiny, traced):
    model = tiny("llama")
    model.anatomy.blocks[0].train()
    before, mark = traced(model.module), model.fingerprint
    moments(model)
    assert traced(model.module) == before
    assert model.fingerprint == mark


def test_layers_are_cached_one_by_one(tiny, passes):
    model = tiny("llama")
    first = moments(model, [0, 1])
    again = moments(model, [1, 2, 0])
    assert {tuple(layers) for layers, _ in passes} == {(0, 1), (2,)}
    assert all(torch.equal(again[layer].matrix, first[layer].matrix) for layer in (0, 1))
    assert again[1].n_tokens == first[1].n_tokens


def test_what_counts_makes_another_one(tiny, passes):
    model = tiny("llama")

    def is_made(state=model, **options):
        before = len(passes)
        moments(state, [1], **options)
        return len(passes) > before

    name = f"{DOWN.format(0)}.weight"
    change = low_rank_change(model, {name: (torch.ones(32, 1), torch.ones(1, 64))}, "by hand", {})
    assert is_made()
    assert not is_made(shrinkage=0.5)
    assert not is_made(corpus=list(TEXTS))
    assert is_made(corpus=TEXTS[:2])
    assert is_made(n_tokens=70)
    assert is_made(change.on(model))
    assert is_made(corpus=None, n_tokens=128)
    assert is_made(corpus=None, n_tokens=128, seed=3)
    assert not is_made(corpus=None, n_tokens=128)


def test_a_change_counts_as_it_computes(tiny):
    model = tiny("llama")
    name = f"{DOWN.format(0)}.weight"
    change = low_rank_change(model, {name: (torch.ones(32, 1), torch.ones(1, 64))}, "by hand", {})
    text = text_corpus(model, TEXTS, 640)
    before, after = moments(model, [1])[1], moments(change.on(model), [1])[1]
    with change.applied(model):
        wanted, _ = naive(model.module, DOWN.format(1), text.sequences, text.n_left_out)
    assert relative(after.matrix, wanted) < 1e-5
    assert relative(before.matrix, wanted) > 1e-3


@pytest.mark.parametrize("family, target", [("llama", "down_proj"), ("gpt2", "c_proj")])
@pytest.mark.parametrize("dora", [False, True])
def test_keys_are_what_enters_the_projection_whatever_wraps_it(tiny_module, tokenizer, family, target, dora):
    config = LoraConfig(
        r=2, target_modules=[target], use_dora=dora, init_lora_weights=False, fan_in_fan_out=family == "gpt2"
    )
    torch.manual_seed(0)
    module = get_peft_model(tiny_module(family), config).base_model.model.eval()
    model = load_model(module, tokenizer=tokenizer)
    text = text_corpus(model, TEXTS, 640)
    wanted, _ = naive(module, PROJECTIONS.get(family, DOWN).format(1), text.sequences, text.n_left_out)
    with_adapter = moments(model, [1])[1]
    assert relative(with_adapter.matrix, wanted) < 1e-5
    with model.without_adapter():
        assert relative(moments(model, [1])[1].matrix, wanted) > 1e-3


def test_weights_stored_either_way_round_have_the_same_keys(tiny_module, tokenizer):
    """GPT-2's Conv1D replaced by a Linear of the same map."""
    module = tiny_module("gpt2")
    first = moments(load_model(module, tokenizer=tokenizer), [1])[1]
    for block in module.transformer.h:
        stored = block.mlp.c_proj
        block.mlp.c_proj = torch.nn.Linear(64, 32)
        block.mlp.c_proj.weight = torch.nn.Parameter(stored.weight.detach().T.contiguous())
        block.mlp.c_proj.bias = stored.bias
    assert relative(moments(load_model(module, tokenizer=tokenizer), [1])[1].matrix, first.matrix) < 1e-6


def test_half_precision_is_summed_in_full(tiny):
    model = tiny("llama", torch.bfloat16)
    text = text_corpus(model, TEXTS, 640)
    wanted, _ = naive(model.module, DOWN.format(1), text.sequences, text.n_left_out)
    assert relative(moments(model, [1])[1].matrix, wanted) < 0.03  # the keys themselves are rounded to 8 bits


class StoppedError(Exception):
    pass


def stop_after(monkeypatch, n):
    """The n-th pass is the last that is made."""
    through, made = KeySums._pass, []

    def until(self, part):
        if len(made) == n:
            raise StoppedError
        made.append(part)
        through(self, part)

    monkeypatch.setattr(KeySums, "_pass", until)


def test_an_interrupted_run_goes_on_to_the_same_bits(tiny, monkeypatch, tmp_path, passes, traced):
    model = tiny("llama")
    model.anatomy.blocks[0].train()
    before = traced(model.module)
    whole = moments(model, batch_size=1)
    n = len(passes)
    monkeypatch.setenv("MECHMASK_CACHE", str(tmp_path / "second"))
    monkeypatch.setattr(estimate, "_SAVE_SECONDS", 0.0)
    with monkeypatch.context() as patched:
        stop_after(patched, 4)
        with pytest.raises(StoppedError):
            moments(model, batch_size=1)
    assert traced(model.module) == before
    passes.clear()
    resumed = moments(model, batch_size=1)
    assert len(passes) == n - 4 > 0
    for layer, moment in resumed.items():
        assert torch.equal(moment.matrix, whole[layer].matrix)
        assert moment.n_tokens == whole[layer].n_tokens
    left = [p.name for p in (tmp_path / "second" / "second-moments").iterdir() if p.suffix == ".safetensors"]
    assert not left


@pytest.mark.parametrize("damage", ["cut", "altered"])
def test_damaged_partial_sums_are_not_gone_on_from(tiny, monkeypatch, root, passes, damage):
    model = tiny("llama")
    monkeypatch.setattr(estimate, "_SAVE_SECONDS", 0.0)
    with monkeypatch.context() as patched:
        stop_after(patched, 4)
        with pytest.raises(StoppedError):
            moments(model, batch_size=1)
    (partial,) = (root / "second-moments").glob("*.safetensors")
    content = bytearray(partial.read_bytes())
    content[-5] ^= 1
    partial.write_bytes(content if damage == "altered" else content[:-100])
    passes.clear()
    moments(model, batch_size=1)
    n_sequences = len(text_corpus(model, TEXTS, 640).sequences)
    assert len(passes) == n_sequences


def test_a_damaged_cache_is_made_again(tiny, root, passes):
    model = tiny("llama")
    first = moments(model, [1])[1]
    (path,) = root.glob("second-moments/*/moment.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    passes.clear()
    assert torch.equal(moments(model, [1])[1].matrix, first.matrix)
    assert passes


def test_sampled_parts_are_kept_and_a_larger_budget_goes_on(tiny, monkeypatch):
    model = tiny("llama", num_hidden_layers=1)
    monkeypatch.setattr(text_module, "_TOGETHER", 2)
    drawn = []
    through = text_module.sampled_corpus
    monkeypatch.setattr(text_module, "sampled_corpus", lambda *a: drawn.append(a[2]) or through(*a))
    first = text_module.corpus_of(model, None, 4 * 64, 0, False)
    assert drawn == [128, 128]
    larger = text_module.corpus_of(model, None, 6 * 64, 0, False)
    assert drawn == [128, 128, 128]
    assert larger.sequences[:4] == first.sequences
    assert len(set(larger.sequences)) == 6


def test_bad_arguments_are_refused_in_one_message(tiny):
    model = tiny("llama")
    with pytest.raises(ChangeError) as caught:
        moments(model, [0, 3, -1], n_tokens=0, shrinkage=-1.0, batch_size=0)
    for part in ("no layer 3", "no layer -1", "layers 0 to 2", "n_tokens is 0", "shrinkage is -1", "batch_size is 0"):
        assert part in str(caught.value)
    with pytest.raises(ChangeError, match="No layer is named"):
        moments(model, [])
    with pytest.raises(ChangeError, match="shrinkage is nan"):
        moments(model, shrinkage=float("nan"))


@pytest.mark.parametrize("text", [[], [""], ["a"]])
def test_empty_text_is_refused(tiny, text):
    with pytest.raises(ChangeError, match="holds no token"):
        moments(tiny("llama"), corpus=text)


def test_a_missing_file_is_refused(tiny, tmp_path):
    with pytest.raises(ReadingError, match=r"none\.txt"):
        moments(tiny("llama"), corpus=tmp_path / "none.txt")


def test_keys_that_are_not_finite_are_refused(tiny, root):
    model = tiny("llama")
    with torch.no_grad():
        model.module.model.layers[1].mlp.up_proj.weight[3, 3] = float("nan")
    with pytest.raises(ChangeError, match="key of layer 1 is not finite"):
        moments(model)
    assert not list(root.glob("second-moments/*/moment.safetensors"))
    with pytest.raises(MechmaskError, match="not finite"):
        moments(model, corpus=None, n_tokens=64)


def test_fewer_tokens_than_directions_are_warned_of_and_still_factor(tiny):
    model = tiny("llama")
    with pytest.warns(UserWarning, match=r"do not span the 64 directions .* n_tokens of 640"):
        moment = moments(model, [1], n_tokens=40)[1]
    assert moment.n_tokens < 64
    assert moment.solve(torch.ones(64, 1)).isfinite().all()


def test_memory_does_not_grow_with_the_models_context(tiny):
    """A model that could read 10^5 tokens at once: its mask alone would take 40 GB."""
    model = tiny("llama", num_hidden_layers=1, max_position_embeddings=100_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    moments(model, [0], TEXTS * 40, n_tokens=6000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_smollm2(smol, shared_data):
    """Two layers of the real model on a small budget, the naive way in float64."""
    if not (path := shared_data / "wikitext2" / "test.txt").is_file():
        pytest.skip("WikiText-2 is not there")
    with pytest.warns(UserWarning, match="do not span the 1536 directions"):
        found = moments(smol, [1, 4], corpus=path, n_tokens=150)
    text = text_corpus(smol, path, 150)
    keys = {1: [], 4: []}
    hooks = [
        smol.module.model.layers[layer].mlp.down_proj.register_forward_hook(
            lambda _layer, inputs, _output, layer=layer: keys[layer].append(inputs[0][0, 1:].double())
        )
        for layer in keys
    ]
    try:
        with torch.no_grad():
            for ids in text.sequences:
                smol.module(input_ids=torch.tensor([ids]))
    finally:
        for hook in hooks:
            hook.remove()
    for layer, moment in found.items():
        wanted = torch.cat(keys[layer])
        assert moment.n_tokens == len(wanted)
        assert relative(moment.matrix, wanted.T @ wanted / len(wanted)) < 1e-5


def test_sampled_text_is_that_of_the_weights_of_now(tiny, tmp_path, monkeypatch):
    """The name stays when weights change, and so does the tokenizer."""
    model = tiny("gpt2")
    first = text_module.corpus_of(model, None, 256, 0, progress=False)
    with torch.no_grad():
        model.module.transformer.h[1].mlp.c_proj.weight.neg_()
    second = text_module.corpus_of(model, None, 256, 0, progress=False)
    monkeypatch.setenv("MECHMASK_CACHE", str(tmp_path / "fresh"))
    fresh = text_module.corpus_of(model, None, 256, 0, progress=False)
    assert first.sequences != second.sequences == fresh.sequences


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_sampled_text_is_drawn_from_what_the_model_gives_out(tiny, family):
    """Softcap included."""
    model, ids = tiny(family), torch.arange(5, 25)[None]
    with torch.no_grad():
        normed = model.anatomy.decoder(input_ids=ids).last_hidden_state[0]
        mine, theirs = text_module._logits_of(model)(normed.float()), model.module(input_ids=ids).logits[0]
    torch.testing.assert_close(mine, theirs)
