"""``patch_residual`` against plain hooks on whole passes, a fact and a layer at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr

import mechmask as mm
from mechmask.errors import ReadingError
from mechmask.measure.depth_score import depth_score
from mechmask.measure.reading import load_reading, save_reading
from mechmask.models.states import active
from mechmask.read.patch import patch_residual

FAMILIES = ["gpt2", "gpt_neox", "llama", "gemma2", "opt", "phi"]


def first(value):
    return value[0] if isinstance(value, tuple) else value


class Naive:
    """One model's residuals in another one: every number by a whole pass of an unpadded row."""

    def __init__(self, source, target, plain, positions="divergence"):
        self.source, self.target, self.plain, self.positions = source, target, plain, positions

    @staticmethod
    def blocks(module):
        n = module.config.num_hidden_layers
        return next(m for m in module.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == n)

    @torch.no_grad()
    def donor(self, module, ids):
        blocks, kept = self.blocks(module), []
        hooks = [
            block.register_forward_pre_hook(
                lambda _, args, kwargs: kept.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
            )
            for block in blocks
        ]
        hooks.append(blocks[-1].register_forward_hook(lambda _, args, output: kept.append(first(output))))
        module(torch.tensor([ids]), use_cache=False)
        for hook in hooks:
            hook.remove()
        return kept

    def put(self, own, given):
        own = own.clone()
        where = slice(None) if self.positions == "all" else -1
        own[:, where] = given[:, where]
        return own

    @torch.no_grad()
    def patched(self, module, ids, layer, given):
        """Log-probabilities at the last position."""
        blocks = self.blocks(module)

        def enter(_, args, kwargs):
            if args:
                return (self.put(args[0], given), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": self.put(kwargs["hidden_states"], given)}

        def leave(_, args, output):
            new = self.put(first(output), given)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        hook = (
            blocks[layer].register_forward_pre_hook(enter, with_kwargs=True)
            if layer < len(blocks)
            else blocks[-1].register_forward_hook(leave)
        )
        logits = module(torch.tensor([ids]), use_cache=False).logits[0, -1]
        hook.remove()
        return logits.float().log_softmax(-1)

    def read(self, facts, routes):
        """``[fact, route, layer]``."""
        with active(self.source) as model:
            oracle = self.plain(model)
            rows = [oracle.ids(fact.prompt) + oracle.value_ids(fact, "old")[: oracle.diverging(fact)] for fact in facts]
            given = [self.donor(model.module, row) for row in rows]
        result = np.full((len(facts), len(routes), len(given[0])), math.nan)
        with active(self.target) as model:
            for i, fact in enumerate(facts):
                for layer, residual in enumerate(given[i]):
                    logprobs = self.patched(model.module, rows[i], layer, residual)
                    for j, route in enumerate(routes):
                        if route in fact.values and oracle.in_divergence(fact, route):
                            token = oracle.value_ids(fact, route)[oracle.diverging(fact)]
                            result[i, j, layer] = logprobs[token]
        return result


def agrees(reading, source, target, facts, plain, positions="divergence"):
    naive = Naive(source, target, plain, positions).read(facts, list(reading.route.values))
    np.testing.assert_allclose(reading.logprob, naive, atol=1e-4, rtol=0)
    assert naive[:, :2].std(axis=2).mean() > 0.02, "layers that agree would hide a layer patched twice"


@pytest.fixture(scope="module")
def corners(awkward):
    """One synthetic fact and the hand-made ones: a pass a layer is what costs here."""
    return awkward[1:]


@pytest.fixture(scope="module")
def two_adapters(tiny, facts):
    """``two_adapters(family)``: a model, and the variants of it that two trainings made."""

    def make(family):
        model = tiny(family)
        config = mm.FinetuneConfig(steps=4, lr=2e-2, rank=4, alpha=8)
        old, new = facts.install_examples(), facts.contradiction_examples()
        return model, *(mm.finetune(model, examples, config).on(model) for examples in (old, new))

    return make


@pytest.mark.parametrize(
    ("family", "positions"), [*((f, "divergence") for f in FAMILIES), ("gpt2", "all"), ("gemma2", "all")]
)
def test_two_models(tiny, family, corners, plain, positions):
    source, target = tiny(family, torch.float32, 1), tiny(family)
    reading = patch_residual(source, target, corners, positions=positions)
    agrees(reading, source, target, corners, plain, positions)
    assert (reading.attrs["embed_alike"], reading.attrs["unembed_alike"]) == (0, 0)
    assert reading.attrs["positions"] == positions
    own = {
        name: mm.read_logits(model, corners, "divergence") for name, model in zip("st", (source, target), strict=True)
    }
    np.testing.assert_allclose(reading.margin_source, own["s"].margin, atol=2e-5)
    np.testing.assert_allclose(reading.margin_target, own["t"].margin, atol=2e-5)


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_prompts_longer_than_the_window(tiny, family, corners, plain):
    """Twins in one row need a mask of their own, which would undo the window."""
    source, target = tiny(family, torch.float32, 1, sliding_window=4), tiny(family, sliding_window=4)
    agrees(patch_residual(source, target, corners), source, target, corners, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_adapters_on_one_model(two_adapters, family, corners, plain):
    model, old, new = two_adapters(family)
    fingerprint = model.fingerprint
    reading = patch_residual(new, old, corners)
    agrees(reading, new, old, corners, plain)
    assert model.fingerprint == fingerprint
    assert (reading.attrs["embed_alike"], reading.attrs["unembed_alike"]) == (1, 1)
    np.testing.assert_allclose(reading.logprob.sel(layer=0), reading.logprob_target, atol=1e-5)
    np.testing.assert_allclose(reading.logprob.isel(layer=-1), reading.logprob_source, atol=1e-5)
    assert abs(reading.margin_source - reading.margin_target).max() > 0.1
    with new.active() as changed:
        np.testing.assert_allclose(
            reading.margin_source, mm.read_logits(changed, corners, "divergence").margin, atol=2e-5
        )
        assert reading.attrs["fingerprint_source"] == changed.fingerprint
    with old.active() as changed:
        assert reading.attrs["fingerprint_target"] == reading.attrs["fingerprint"] == changed.fingerprint


def test_the_depth_score_of_what_was_patched(two_adapters, corners):
    """Of the full model itself it is 0, of the reference 1."""
    model, full, _ = two_adapters("llama")
    reference, none = patch_residual(model, full, corners), patch_residual(full, full, corners)
    encoded = depth_score(reference, reference)
    assert encoded.n_layers.max() > 0
    np.testing.assert_allclose(encoded.score.dropna("fact"), 1)
    np.testing.assert_allclose(depth_score(reference, none).score.dropna("fact"), 0, atol=1e-4)
    assert encoded.attrs["model_reference"] == model.name
    with pytest.raises(ReadingError, match="differ in fingerprint_target"):
        depth_score(reference, patch_residual(full, model, corners))


def test_a_change_of_weights_against_the_model_itself(tiny, corners, facts, plain):
    """The residuals are the same up to the edited block, so that patching them there is no patching."""
    model = tiny("gpt2")
    source = mm.edit(model, [facts[0]], "ft_l", mm.FTLConfig(layer=1, clamp=5e-2, lr=1e-2, steps=5)).on(model)
    reading = patch_residual(source, model, corners)
    agrees(reading, source, model, corners, plain)
    for layer in (0, 1):
        np.testing.assert_allclose(reading.margin.sel(layer=layer), reading.margin_target, atol=1e-5)
    for layer in (2, 3):
        assert abs(reading.margin.sel(layer=layer) - reading.margin_target).max() > 0.05


def test_a_change_of_the_embedding_shows_at_layer_0(tiny, corners, plain):
    model, other = tiny("llama"), tiny("llama")
    with torch.no_grad():
        other.module.get_input_embeddings().weight.mul_(1.5)
    reading = patch_residual(other, model, corners)
    agrees(reading, other, model, corners, plain)
    assert (reading.attrs["embed_alike"], reading.attrs["unembed_alike"]) == (0, 1)
    assert abs(reading.margin.sel(layer=0) - reading.margin_target).max() > 0.05
    np.testing.assert_allclose(reading.margin.isel(layer=-1), reading.margin_source, atol=1e-5)


def test_a_model_into_itself_is_the_model(tiny, family, awkward):
    model = tiny(family)
    reading = patch_residual(model, model, awkward)
    own = mm.read_logits(model, awkward, "divergence")
    np.testing.assert_allclose(reading.logprob, own.logprob.expand_dims(layer=reading.layer, axis=2), atol=2e-5)
    assert reading.attrs["check_error_nats"] < 1e-4


def test_a_prompt_that_goes_on_from_another_is_patched_at_its_own_place_only(tiny, plain):
    """Read in one forward pass, the second fact would see the first one's place of divergence among its tokens."""
    short = mm.Fact(subject="Ana", prompt="The friend of Ana is", old="Peter", new="Maria")
    longer = mm.Fact(subject="Ana", prompt="The friend of Ana is the king of", old="France", new="Italy", id="longer")
    source, target = tiny("llama", seed=1), tiny("llama", seed=2)
    expected = Naive(source, target, plain).read([short, longer], ["old", "new"])
    found = patch_residual(source, target, [short, longer]).logprob.sel(route=["old", "new"])
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("positions", ["divergence", "all"])
def test_batch_size_changes_nothing(tiny, awkward, positions):
    source, target = tiny("llama", torch.float32, 1), tiny("llama")
    one, *rest = [patch_residual(source, target, awkward, positions=positions, batch_size=n) for n in (1, 4, 32)]
    for other in rest:
        xr.testing.assert_allclose(one.logprob, other.logprob, atol=2e-5)


def test_what_the_reading_says_of_itself(tiny, facts, tmp_path):
    source, target = tiny("mistral", torch.float32, 1), tiny("mistral")
    reading = patch_residual(source, target, facts)
    assert reading.logprob.dims == ("fact", "route", "layer")
    assert reading.margin.dims == ("fact", "layer")
    np.testing.assert_allclose(reading.depth, [0, 0.5, 1])
    np.testing.assert_allclose(reading.margin, reading.logprob.sel(route="new") - reading.logprob.sel(route="old"))
    assert list(reading.role.values) == [fact.role for fact in facts]
    assert reading.attrs["score"] == "divergence"
    save_reading(reading, tmp_path / "patch.nc")
    xr.testing.assert_allclose(load_reading(tmp_path / "patch.nc"), reading)


def test_bfloat16(tiny, corners):
    source, target = tiny("llama", torch.bfloat16, 1), tiny("llama", torch.bfloat16)
    wide = patch_residual(tiny("llama", torch.float32, 1), tiny("llama"), corners)
    assert abs(patch_residual(source, target, corners).logprob - wide.logprob).mean() < 0.05
    assert patch_residual(source, tiny("llama"), corners).logprob.notnull().any()


@pytest.mark.parametrize(
    ("family", "options", "cause"),
    [
        ("llama", {"num_hidden_layers": 2}, "num_hidden_layers is 2 in one and 3 in the other"),
        ("llama", {"rms_norm_eps": 1e-3}, "rms_norm_eps is 0.001 in one and 1e-06 in the other"),
        ("gpt2", {}, "in the other"),
    ],
)
def test_models_of_two_architectures(tiny, corners, family, options, cause):
    with pytest.raises(ReadingError, match=rf"cannot be read by .*{cause}\. Patch between models of one architecture"):
        patch_residual(tiny(family, **options), tiny("llama"), corners)


def test_models_of_two_vocabularies(tiny, tiny_module, corners, bos_tokenizer):
    other = mm.load_model(tiny_module("llama"), tokenizer=bos_tokenizer)
    for source in (other, tiny("llama", vocab_size=600)):
        with pytest.raises(ReadingError, match="same tokens of one vocabulary"):
            patch_residual(source, tiny("llama"), corners)


def test_arguments(tiny, corners):
    model = tiny("llama")
    with pytest.raises(ReadingError, match=r"positions='last' is not known\. Known are divergence, all"):
        patch_residual(model, model, corners, positions="last")
    with pytest.raises(ReadingError, match="no fact to read"):
        patch_residual(model, model, [])


def test_blocks_that_read_more_than_the_residual_are_refused(tiny, corners):
    """A block that also asks whether the embedding was run before it: run again, it does something else.

    Blocks run again only where every position is patched.
    """
    source, target = tiny("llama", torch.float32, 1), tiny("llama")
    with torch.no_grad():
        source.module.get_input_embeddings().weight.copy_(target.module.get_input_embeddings().weight)
    assert patch_residual(source, target, corners, positions="all").attrs["embed_alike"] == 1
    embedded = []

    def side_door(_, args, output):
        return output if embedded and embedded.pop() else output * torch.linspace(0.7, 1.3, 32)

    hooks = [
        target.module.get_input_embeddings().register_forward_hook(lambda *_: embedded.append(True)),
        target.module.model.layers[2].register_forward_hook(side_door),
    ]
    with pytest.raises(ReadingError, match="With layer 0 patched the target does not say what the target says"):
        patch_residual(source, target, corners, positions="all")
    for hook in hooks:
        hook.remove()


def test_nan_is_refused(tiny, corners):
    model = tiny("llama")
    with torch.no_grad():
        model.module.model.norm.weight[3] = float("nan")
    with pytest.raises(ReadingError, match="NaN"):
        patch_residual(model, tiny("llama"), corners)
