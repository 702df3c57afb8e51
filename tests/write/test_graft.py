"""Grafts against models put together by hand, block by block."""

from __future__ import annotations

import pytest
import torch

from mechmask import FinetuneConfig, edit, finetune, load_change
from mechmask.write.graft import graft, scaled
from mechmask.write.methods.ft_l import FTLConfig
from mechmask.write.weights import WeightChange

BLOCKS = {
    "gpt2": "transformer.h",
    "gptj": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "opt": "model.decoder.layers",
}
FAST = FinetuneConfig(steps=2, lr=1e-2, rank=4, alpha=8)


def by_hand(before, after, family, layers, scale=1.0):
    """The state of ``before`` with some blocks moved towards those of ``after``, by their names."""
    prefixes = tuple(f"{BLOCKS.get(family, 'model.layers')}.{layer}." for layer in layers)
    other = after.state_dict()
    return {
        name: (weight + scale * (other[name] - weight) if scale != 1 else other[name].clone())
        if name.startswith(prefixes)
        else weight.clone()
        for name, weight in before.state_dict().items()
    }


def merged(module, change, family, layers=None, scale=1.0):
    """The state of a module with an adapter's product added by hand, in some blocks."""
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    prefixes = tuple(f"{BLOCKS.get(family, 'model.layers')}.{layer}." for layer in layers or ())
    strength = change.config.lora_alpha / change.config.r * scale
    for name, down in change.tensors.items():
        if "lora_A" in name and (layers is None or name.startswith(prefixes)):
            update = strength * change.tensors[name.replace("lora_A", "lora_B")] @ down
            weight = name.replace("lora_A.weight", "weight")
            state[weight] += update.T if family == "gpt2" else update
    return state


@pytest.fixture(scope="module")
def adapters(tiny, facts):
    """``adapters(family)``: a model and two adapters on it, of one shape."""
    made = {}

    def make(family):
        if family not in made:
            model = tiny(family)
            examples = facts.install_examples(), facts.contradiction_examples()
            made[family] = model, *(finetune(model, each, FAST) for each in examples)
        return made[family]

    return make


@pytest.fixture
def logits_under(tiny, logits_of):
    """``logits_under(family, state)``: of a fresh module with that state."""

    def logits(family, state):
        module = tiny(family).module
        module.load_state_dict(state)
        return logits_of(module)

    return logits


def test_all_blocks_grafted_is_the_other_model(tiny, family, logits_of, traced):
    """Where the two differ in their blocks alone."""
    before, after = tiny(family), tiny(family, torch.float32, 1)
    outside = {n: t for n, t in before.module.state_dict().items() if BLOCKS.get(family, "model.layers") not in n}
    after.module.load_state_dict(outside, strict=False)
    untouched = traced(before.module)
    change = graft(before, after, range(before.n_layers))
    assert not torch.allclose(logits_of(before), logits_of(after), atol=0.1)
    with change.applied(before):
        assert torch.equal(logits_of(before), logits_of(after))
    assert traced(before.module) == untouched


@pytest.mark.parametrize("scale", [1.0, 0.5, -0.3])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "opt"])
def test_some_blocks_of_one_model_in_the_other(tiny, family, scale, logits_of, logits_under):
    before, after = tiny(family), tiny(family, torch.float32, 1)
    wanted = by_hand(before.module, after.module, family, [1], scale)
    change = graft(before, after, [1], scale)
    with change.applied(before):
        found = before.module.state_dict()
        assert all(torch.allclose(found[name], weight, atol=1e-6) for name, weight in wanted.items())
        torch.testing.assert_close(logits_of(before), logits_under(family, wanted), atol=1e-4, rtol=0)
    assert change.details == {"layers": [1], "scale": scale, "before": before.name, "after": after.name}


def test_blocks_1_and_11_are_told_apart(tiny):
    before, after = (tiny("llama", torch.float32, seed, num_hidden_layers=12) for seed in (0, 1))
    change = graft(before, after, [1])
    assert isinstance(change, WeightChange)
    assert {name.split(".")[2] for name in change.after} == {"1"}


def test_the_bits_of_the_other_model_in_half_precision(tiny):
    before, after = tiny("llama", torch.bfloat16), tiny("llama", torch.bfloat16, 1)
    with graft(before, after, [0, 2]).applied(before):
        for block in (0, 2):
            ours, theirs = (model.module.model.layers[block].state_dict() for model in (before, after))
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("family", ["gpt2", "llama", "phi3"])
def test_some_blocks_of_one_adapter_in_the_other(adapters, family, logits_of, logits_under, traced):
    model, old, new = adapters(family)
    untouched = traced(model.module)
    rest = [layer for layer in range(model.n_layers) if layer != 1]
    state = merged(model.module, new, family, [1])
    lower = merged(model.module, old, family, rest)
    state = {n: t if f"{BLOCKS.get(family, 'model.layers')}.1." in n else lower[n] for n, t in state.items()}
    with graft(old, new, [1]).applied(model):
        torch.testing.assert_close(logits_of(model), logits_under(family, state), atol=1e-4, rtol=0)
    assert traced(model.module) == untouched


def test_all_blocks_of_an_adapter_are_the_adapter(adapters, family, logits_of):
    model, old, new = adapters(family)
    with new.applied(model):
        wanted = logits_of(model)
    for change in (graft(old, new, range(model.n_layers)), graft(None, new, range(model.n_layers))):
        with change.applied(model):
            assert torch.equal(logits_of(model), wanted)
    with old.applied(model):
        assert not torch.allclose(logits_of(model), wanted, atol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 0.25, -1.0])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_some_blocks_of_an_adapter_on_the_base(adapters, family, scale, logits_of, logits_under, tmp_path):
    model, _, new = adapters(family)
    change = graft(None, new, [0, 2], scale)
    assert change.blocks == (0, 2)
    wanted = logits_under(family, merged(model.module, new, family, [0, 2], scale))
    change.save(tmp_path / "graft")
    for stored in (change, load_change(tmp_path / "graft")):
        with stored.applied(model):
            carriers = {n.split(".")[2] for n, _ in model.module.named_parameters() if "lora_" in n}
            assert carriers == {"0", "2"}
            torch.testing.assert_close(logits_of(model), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_adapter_scaled(adapters, family, logits_of, logits_under):
    model, _, new = adapters(family)
    wanted = logits_under(family, merged(model.module, new, family, None, -0.5))
    with scaled(new, -0.5).applied(model):
        torch.testing.assert_close(logits_of(model), wanted, atol=1e-4, rtol=0)
    wanted = logits_under(family, merged(model.module, new, family, [1]))
    with scaled(new, 0.0, layers=[0, 2]).applied(model):
        torch.testing.assert_close(logits_of(model), wanted, atol=1e-4, rtol=0)
    with new.applied(model):
        wanted = logits_of(model)
    with scaled(new, 1).applied(model):
        assert torch.equal(logits_of(model), wanted)


def test_the_adapters_are_left_as_they_were(adapters):
    _, old, new = adapters("llama")
    kept = [{n: t.clone() for n, t in change.tensors.items()} for change in (old, new)]
    targets = [set(change.config.target_modules) for change in (old, new)]
    graft(old, new, [1])
    graft(None, new, [1], 2.0)
    scaled(new, 3.0)
    for change, tensors, target in zip((old, new), kept, targets, strict=True):
        assert all(torch.equal(change.tensors[n], t) for n, t in tensors.items())
        assert set(change.config.target_modules) == target


def test_blocks_that_are_not_there(tiny, adapters, refused):
    model, old, new = adapters("llama")
    other = tiny("llama", torch.float32, 1)
    for before, after in ((model, other), (old, new), (None, new)):
        with refused(r"No block is named\. Give at least one"):
            graft(before, after, [])
        with refused(r"There is no block 3 in .*, which has blocks 0 to 2\."):
            graft(before, after, [0, 3])
        with refused("There is no block -1"):
            graft(before, after, [-1])
    with refused("There is no block 1 in the adapter, which has blocks 0, 2"):
        graft(None, graft(None, new, [0, 2]), [1])
    with refused("There is no block 5 in the adapter"):
        scaled(new, 2.0, [5])


def test_models_that_do_not_fit(tiny, refused):
    before = tiny("llama")
    for after in (tiny("llama", num_attention_heads=2), tiny("gpt2"), tiny("llama", rms_norm_eps=1e-3)):
        with refused(r"Blocks of .* do not fit into .*Graft between models of one architecture"):
            graft(before, after, [0])


def test_adapters_that_do_not_fit(tiny, adapters, facts, refused):
    model, old, new = adapters("llama")
    examples = facts.install_examples()
    for field, options in (("lora_alpha", {"alpha": 16}), ("r 4 and 2", {"rank": 2})):
        other = finetune(model, examples, FAST.model_copy(update=options))
        with refused(f"built differently .*{field}"):
            graft(old, other, [0])
    with refused("built differently .factors elsewhere"):
        graft(old, finetune(model, examples, FAST.model_copy(update={"projections": "mlp"})), [0])
    with refused("trained on different weights"):
        graft(old, finetune(tiny("llama", torch.float32, 1), examples, FAST), [0])
    with refused(r"cannot be mixed by a scale.*Use scale=1, or before=None"):
        graft(old, new, [0], 0.5)


def test_what_cannot_be_grafted(tiny, adapters, facts, refused):
    model, _, new = adapters("llama")
    other = tiny("llama", torch.float32, 1)
    weights = edit(model, [facts[0]], "ft_l", FTLConfig(layer=1, clamp=1e-2, steps=1))
    for before, after in ((model, new), (None, other), (model, weights), (weights, weights)):
        with refused("A graft takes two models, two adapters"):
            graft(before, after, [0])
    with refused("has no scale"):
        graft(None, weights, [1], 0.5)
    with refused("There is no block 0 in the change"):
        graft(None, weights, [0])
    with refused("are one module"):
        graft(model, model, [0])
    with refused("changes nothing"):
        graft(model, tiny("llama"), [0])
    with refused("changes nothing"):
        graft(model, other, [0], 0)
    with new.applied(model), refused("has an adapter on"):
        graft(model, other, [0])
    for scale in (float("nan"), float("inf")):
        with refused("is not a number"):
            graft(model, other, [0], scale)
        with refused("is not a number"):
            scaled(new, scale)
    with refused("A scale of 0 leaves nothing"):
        scaled(new, 0)
    with refused("A scale of 0 leaves nothing"):
        graft(None, new, [0], 0)


def test_a_graft_fits_the_model_it_was_made_on_alone(tiny, refused):
    before, after = tiny("llama"), tiny("llama", torch.float32, 1)
    change = graft(before, after, [0])
    with refused("not those that this change was made on"), change.applied(after):
        pass
