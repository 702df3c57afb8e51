"""The hook backends against plain forward hooks on an unpadded row a route, and what they may not leave behind."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

import mechmask as mm
from mechmask.errors import ReadingError
from mechmask.models.model import adapted_layers
from mechmask.models.packing import batches
from mechmask.models.routes import encode_contests
from mechmask.read.backends import Backend, backend_of
from mechmask.read.backends.nnsight import NnsightBackend

BACKENDS = ("transformer_lens", "nnsight")

# Blocks, and in a block: what projects the heads, what adds the attention, what adds the MLP.
LLAMA = ("model.layers", "self_attn.o_proj", "self_attn.o_proj", "mlp")
GEMMA = ("model.layers", "self_attn.o_proj", "post_attention_layernorm", "post_feedforward_layernorm")
WHERE = {
    "gpt2": ("transformer.h", "attn.c_proj", "attn.c_proj", "mlp"),
    "gptj": ("transformer.h", "attn.out_proj", "attn.out_proj", "mlp"),
    "gpt_neox": ("gpt_neox.layers", "attention.dense", "attention.dense", "mlp"),
    "opt": ("model.decoder.layers", "self_attn.out_proj", "self_attn.out_proj", "fc2"),
    "phi": ("model.layers", "self_attn.dense", "self_attn.dense", "mlp"),
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
}


@torch.no_grad()
def plain_parts(module, family, ids):
    """Residuals, attention, MLP and heads ``[layer or block, position, ...]`` of one row, by plain hooks."""
    blocks, projects, adds_attention, adds_mlp = WHERE.get(family, LLAMA)
    kept = {"residuals": [], "attention": [], "mlp": [], "heads": []}
    first = lambda value: value[0] if isinstance(value, tuple) else value  # noqa: E731
    flat = lambda value: first(value).reshape(len(ids), -1)  # noqa: E731

    def entering(where):
        return lambda m, args, kwargs: kept[where].append(flat(args or kwargs["hidden_states"]))

    def leaving(where):
        return lambda m, args, output: kept[where].append(flat(output))

    handles = []
    for i, block in enumerate(module.get_submodule(blocks)):
        if i == 0:
            handles.append(block.register_forward_pre_hook(entering("residuals"), with_kwargs=True))
        handles += [
            block.register_forward_hook(leaving("residuals")),
            block.get_submodule(projects).register_forward_pre_hook(entering("heads"), with_kwargs=True),
            block.get_submodule(adds_attention).register_forward_hook(leaving("attention")),
            block.get_submodule(adds_mlp).register_forward_hook(leaving("mlp")),
        ]
    try:
        module(torch.tensor([ids]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    found = {name: torch.stack(values).float() for name, values in kept.items()}
    found["heads"] = found["heads"].unflatten(-1, (module.config.num_attention_heads, -1))
    return found


def packed(model, facts):
    contests = encode_contests(model.tokenizer, facts)
    (batch,) = batches(contests, score="sequence")
    assert batch.attention_mask is not None and batch.attention_mask.ndim == 4
    return contests, batch


def seen(backend, model, batch):
    with model.inference():
        residuals, parts = backend.residuals(batch), backend.parts(batch)
    return {"residuals": residuals, **vars(parts)}


def agree_with_hooks(found, model, contests, batch):
    """Each of ``found`` at every node; one plain row for each route."""
    rows = {}
    for query in batch.queries:
        contest, key = contests[query.contest], (query.contest, query.route)
        if key not in rows:
            rows[key] = plain_parts(model.module, model.family, [*contest.prompt, *contest.routes[query.route]])
        position = len(contest.prompt) + query.index - 1
        own = {name: value[:, position] for name, value in rows[key].items()}
        own["embedding"] = own["residuals"][0]
        for name, value in own.items():
            for kept in found:
                at_node = kept[name][query.node] if name == "embedding" else kept[name][:, query.node]
                assert at_node.shape == value.shape, name
                assert (at_node - value).abs().max() < 1e-4, name


@pytest.fixture(scope="module")
def corners(awkward):
    """Three facts, with a common prefix and of Unicode among them: a plain pass a token is what costs here."""
    return awkward[1:2] + awkward[3:4] + awkward[5:6]


@pytest.fixture(scope="module")
def adapted(facts):
    """``adapted(model)``: a LoRA change on every projection, large enough to show, small enough for 1e-4."""

    def make(model):
        config = mm.FinetuneConfig(rank=2, lr=0.01, steps=3, seed=0)
        return mm.finetune(model, facts[:4].contradiction_examples(), config)

    return make


def test_every_part_is_what_plain_hooks_see(tiny, family, corners):
    model = tiny(family)
    contests, batch = packed(model, corners)
    found = [seen(backend_of(name, model), model, batch) for name in BACKENDS]
    agree_with_hooks(found, model, contests, batch)
    for kept in found:
        total = kept["embedding"] + kept["attention"].sum(0) + kept["mlp"].sum(0)
        assert (total - kept["residuals"][-1]).abs().max() < 1e-4


def test_every_part_under_an_applied_adapter(tiny, family, corners, adapted):
    model = tiny(family)
    change = adapted(model)
    contests, batch = packed(model, corners)
    before = [seen(backend_of(name, model), model, batch) for name in BACKENDS]
    with change.applied(model):
        found = [seen(backend_of(name, model), model, batch) for name in BACKENDS]
        agree_with_hooks(found, model, contests, batch)
    for kept, earlier in zip(found, before, strict=True):
        for name in ("residuals", "attention", "mlp", "heads"):
            assert (kept[name] - earlier[name]).abs().max() > 1e-3, name


def test_depth_by_either_backend(tiny, family, awkward):
    model = tiny(family)
    one, other = (mm.read_depth(model, awkward, score="sequence", backend=name) for name in BACKENDS)
    np.testing.assert_allclose(one.logprob, other.logprob, atol=1e-4, rtol=0)
    assert other.attrs["backend"] == "nnsight"
    assert other.attrs["check_error_nats"] < 1e-4


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "phi3"])
def test_depth_under_an_applied_adapter(tiny, family, corners, adapted):
    model = tiny(family)
    change = adapted(model)
    before = mm.read_depth(model, corners, backend="nnsight")
    with change.applied(model):
        one, other = (mm.read_depth(model, corners, backend=name) for name in BACKENDS)
    np.testing.assert_allclose(one.logprob, other.logprob, atol=1e-4, rtol=0)
    assert abs(other.logprob - before.logprob).max() > 0.01
    again = mm.read_depth(model, corners, backend="nnsight")
    np.testing.assert_array_equal(again.logprob, before.logprob)


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_routes_in_rows_of_their_own(tiny, family, corners):
    model = tiny(family, sliding_window=8)
    one, other = (mm.read_depth(model, corners, score="sequence", backend=name) for name in BACKENDS)
    np.testing.assert_allclose(one.logprob, other.logprob, atol=1e-4, rtol=0)


def what_it_is(model):
    module, tokenizer = model.module, model.tokenizer
    return {
        "classes": [(name, type(child), id(child)) for name, child in module.named_modules()],
        "state": [(name, tensor.data_ptr(), id(tensor)) for name, tensor in module.state_dict(keep_vars=True).items()],
        "values": [tensor.clone().numpy().tobytes() for tensor in module.state_dict().values()],
        "asks for gradients": [parameter.requires_grad for parameter in module.parameters()],
        "gradients": [parameter.grad for parameter in module.parameters()],
        "training": [child.training for child in module.modules()],
        "attributes": [sorted(vars(child)) for child in module.modules()],
        "hooks": [
            len(hooks) for child in module.modules() for name, hooks in vars(child).items() if name.endswith("_hooks")
        ],
        "config": copy.deepcopy(module.config.to_dict()),
        "attention": module.config._attn_implementation,
        "generation": module.generation_config.to_dict(),
        "tokenizer": (tokenizer.padding_side, tokenizer.pad_token, len(tokenizer), sorted(vars(tokenizer))),
    }


def test_module_and_tokenizer_are_left_as_they_were(tiny, family, corners):
    model = tiny(family)
    model.tokenizer.padding_side = "right"
    model.module.train()
    next(model.module.parameters()).requires_grad_(False)
    _, batch = packed(model, corners)
    before = what_it_is(model)
    for backend in (*BACKENDS, NnsightBackend(model, "local")):
        seen(backend_of(backend, model), model, batch)
        assert what_it_is(model) == before


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", ["gpt2", "phi3"])
def test_no_random_number_is_drawn(tiny, family, corners, backend):
    """A reading within a run must not move what is drawn after it; TransformerLens draws for what it splits."""
    model = tiny(family)
    _, batch = packed(model, corners)
    state = torch.get_rng_state()
    seen(backend_of(backend, model), model, batch)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_unembedded(tiny, corners, backend):
    """Every position's logits would cost more than the rest of a real model's pass."""
    model = tiny("llama")
    calls = []
    model.anatomy.unembedding.register_forward_hook(lambda *_: calls.append(1))
    model.module(torch.tensor([[5, 9]]))
    assert calls.pop()
    _, batch = packed(model, corners)
    seen(backend_of(backend, model), model, batch)
    assert not calls


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_dry_run_of_the_remote_path(tiny, family, corners):
    model = tiny(family)
    _, batch = packed(model, corners)
    here, dry = (seen(NnsightBackend(model, remote), model, batch) for remote in (False, "local"))
    for name, value in here.items():
        assert torch.equal(value, dry[name]), name
    np.testing.assert_array_equal(
        mm.read_depth(model, corners, backend=NnsightBackend(model, "local")).logprob,
        mm.read_depth(model, corners, backend="nnsight").logprob,
    )


def test_a_backend_sees_weights_that_change_in_place(tiny, corners):
    model = tiny("llama")
    backend = NnsightBackend(model)
    with torch.no_grad():
        model.anatomy.mlp_output(1).weight.mul_(-1)
    contests, batch = packed(model, corners)
    agree_with_hooks([seen(backend, model, batch)], model, contests, batch)


def test_the_mount_on_every_object_is_not_used(tiny, corners):
    """nnsight's users may switch it off (APP.PYMOUNT)."""
    import nnsight
    from nnsight._c import mount, unmount

    if unmount is None or not hasattr(object, "save"):
        pytest.skip("nnsight has mounted nothing here")
    unmount("save")
    try:
        assert not hasattr(object, "save")
        model = tiny("llama")
        _, batch = packed(model, corners)
        assert len(seen(NnsightBackend(model), model, batch)["residuals"]) == model.n_layers + 1
    finally:
        mount(nnsight.save, "save")


def test_nnsight_is_imported_when_it_is_asked_for():
    code = "import mechmask.read.depth, mechmask.read.backends.nnsight, sys; assert 'nnsight' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", BACKENDS)
def test_what_a_backend_is(tiny, name):
    model = tiny("gpt2")
    backend = backend_of(name, model)
    assert isinstance(backend, Backend) and backend.name == name
    assert backend_of(backend, model) is backend
    with pytest.raises(ReadingError, match=f"made over GPT2LMHeadModel, .* give the backend's name: backend='{name}'"):
        backend_of(backend, tiny("gpt2"))
    assert not isinstance(object(), Backend)


def test_wrong_arguments_are_refused(tiny, corners, adapted, monkeypatch):
    model = tiny("llama")
    with pytest.raises(ReadingError, match=r"no backend 'jax'\. Known are transformer_lens, nnsight"):
        backend_of("jax", model)
    with pytest.raises(ReadingError, match="remote='ndif' is not known"):
        NnsightBackend(model, "ndif")
    with adapted(model).applied(model), pytest.raises(ReadingError, match="as they are on the Hub"):
        NnsightBackend(model, remote=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ReadingError, match="cannot be found as a Hub id"):
        NnsightBackend(model, remote=True)
    monkeypatch.setitem(sys.modules, "nnsight", None)
    with pytest.raises(ReadingError, match="pip install 'nnsight"):
        mm.read_depth(model, corners, backend="nnsight")


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_what_changes_between_two_readings_is_seen(tiny, family, facts):
    """A bridge is kept from one reading to the next: weights and adapters of the second one have to count."""
    model = tiny(family)
    few = facts[:3]
    change = mm.finetune(model, few.install_examples(), mm.FinetuneConfig(steps=2, lr=2e-2, rank=2))

    def agrees():
        read = mm.read_depth(model, few).logprob.isel(layer=-1)
        xr.testing.assert_allclose(
            read.drop_vars(["layer", "depth"]), mm.read_logits(model, few, "divergence").logprob, atol=1e-4
        )
        return read

    first = agrees()
    with change.applied(model):
        second = agrees()
        with model.without_adapter():
            xr.testing.assert_allclose(agrees(), first, atol=1e-4)
        xr.testing.assert_allclose(agrees(), second, atol=1e-4)
    xr.testing.assert_allclose(agrees(), first, atol=1e-4)
    assert abs(second - first).max() > 0.01
    with torch.no_grad():
        for projection in model.anatomy.projections():
            projection.weight.mul_(1.1)
    assert abs(agrees() - first).max() > 0.01
    model.module.set_input_embeddings(
        torch.nn.Embedding.from_pretrained(model.module.get_input_embeddings().weight * 2)
    )
    agrees()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_hook_of_the_caller_counts_for_as_long_as_it_is_on(tiny, family, facts):
    model = tiny(family)
    few = facts[:3]
    before = mm.read_depth(model, few)
    mlp = model.module.get_submodule(model.anatomy.adds_mlp(1))
    hook = mlp.register_forward_hook(lambda _, args, output: output * 0)
    ablated = mm.read_depth(model, few)
    np.testing.assert_allclose(
        ablated.logprob.isel(layer=-1), mm.read_logits(model, few, "divergence").logprob, atol=1e-4
    )
    assert abs(ablated.logprob - before.logprob).max() > 0.01
    hook.remove()
    xr.testing.assert_identical(mm.read_depth(model, few), before)


def test_the_scale_of_an_adapter_counts(tiny, facts):
    model = tiny("llama")
    few = facts[:3]
    change = mm.finetune(model, few.install_examples(), mm.FinetuneConfig(steps=2, lr=2e-2, rank=2))
    with change.applied(model):
        before = mm.read_depth(model, few)
        for layer in adapted_layers(model.module):
            layer.scaling = {name: 3 * scale for name, scale in layer.scaling.items()}
        assert abs(mm.read_depth(model, few).logprob - before.logprob).max() > 0.01
