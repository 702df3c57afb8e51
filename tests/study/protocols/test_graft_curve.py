"""The graft curve against models put together by hand from two adapters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mechmask as mm
from mechmask.errors import ChangeError, StudyError
from mechmask.measure.where import where_written
from mechmask.read.patch import patch_residual
from mechmask.study.protocols.graft_curve import graft_curve
from mechmask.write.adapter import AdapterChange
from mechmask.write.methods.ft_l import FTLConfig

FAST = mm.FinetuneConfig(steps=3, lr=2e-2, rank=4, alpha=8)


@pytest.fixture(scope="module")
def trained(tiny, facts):
    model = tiny("llama")
    return model, *(mm.finetune(model, e, FAST) for e in (facts.install_examples(), facts.contradiction_examples()))


def margins(model, change, facts):
    if change is None:
        return mm.read_logits(model, facts, "divergence").margin.values
    with change.applied(model):
        return mm.read_logits(model, facts, "divergence").margin.values


def by_hand(lower, upper, layer):
    """Both adapters' factors by name: those below a layer of one, the others of the other; zero stands for the base."""
    like = upper or lower
    zero = {n: t * 0 for n, t in like.tensors.items()}
    below, above = (zero if change is None else change.tensors for change in (lower, upper))
    tensors = {n: below[n] if int(n.split(".")[2]) < layer else above[n] for n in like.tensors}
    return AdapterChange(like.config, tensors, like.base, "by hand", {})


@pytest.mark.parametrize("ends", ["both", "from the base", "to the base"])
def test_every_layer_is_the_model_made_by_hand(trained, facts, ends):
    model, old, new = trained
    before, after = {"both": (old, new), "from the base": (None, new), "to the base": (old, None)}[ends]
    fingerprint = model.fingerprint
    curve = graft_curve(model, before, after, facts)
    assert curve.margin.dims == ("fact", "layer")
    assert curve.logprob.dims == ("fact", "route", "layer")
    np.testing.assert_array_equal(curve.margin.sel(layer=0), margins(model, after, facts))
    np.testing.assert_array_equal(curve.margin.sel(layer=3), margins(model, before, facts))
    for layer in (1, 2):
        hand = margins(model, by_hand(before, after, layer), facts)
        np.testing.assert_allclose(curve.margin.sel(layer=layer), hand, atol=1e-5)
    assert (curve.margin.diff("layer").std("fact") > 0.01).all(), "every block counts"
    np.testing.assert_allclose(curve["depth"], [0, 1 / 3, 2 / 3, 1])
    assert model.fingerprint == fingerprint
    assert curve.attrs["fingerprint_after"] != curve.attrs["fingerprint_before"]
    assert curve.attrs["score"] == "divergence"


def test_an_adapter_on_some_blocks_alone(trained, facts):
    """Above and below them, the curve is flat."""
    model, *_ = trained
    middle = mm.finetune(model, facts.contradiction_examples(), FAST.model_copy(update={"layers": (1,)}))
    curve = graft_curve(model, None, middle, facts).margin
    np.testing.assert_array_equal(curve.sel(layer=0), curve.sel(layer=1))
    np.testing.assert_array_equal(curve.sel(layer=2), curve.sel(layer=3))
    assert abs(curve.sel(layer=1) - curve.sel(layer=2)).max() > 0.01


def test_blocks_of_another_model(trained, facts, tiny):
    """Every layer against a model of which the state is put together by hand."""
    model, *_ = trained
    other = tiny("llama", seed=1)
    curve = graft_curve(model, None, other, facts).margin
    np.testing.assert_array_equal(curve.sel(layer=3), margins(model, None, facts))
    ours, theirs = model.module.state_dict(), other.module.state_dict()
    for layer in (0, 1, 2):
        mixed = tiny("llama")
        above = tuple(f"model.layers.{block}." for block in range(layer, 3))
        mixed.module.load_state_dict({n: theirs[n] if n.startswith(above) else ours[n] for n in ours})
        np.testing.assert_array_equal(curve.sel(layer=layer), margins(mixed, None, facts))


def test_a_model_that_differs_in_one_block(trained, facts, tiny):
    """Above that block nothing is left to graft, and the curve is flat."""
    model, *_ = trained
    other = tiny("llama")
    with torch.no_grad():
        other.module.model.layers[1].mlp.down_proj.weight.mul_(3)
    curve = graft_curve(model, None, other, facts).margin
    for layers, end in (((0, 1), other), ((2, 3), model)):
        for layer in layers:
            np.testing.assert_array_equal(curve.sel(layer=layer), margins(end, None, facts))
    assert abs(curve.sel(layer=1) - curve.sel(layer=2)).max() > 0.01


def test_an_edit_is_a_step_at_its_block(trained, facts):
    model, *_ = trained
    change = mm.edit(model, list(facts)[:1], "ft_l", FTLConfig(layer=1, clamp=0.1))
    curve = graft_curve(model, None, change, facts).margin
    for layers, end in (((0, 1), change), ((2, 3), None)):
        for layer in layers:
            np.testing.assert_array_equal(curve.sel(layer=layer), margins(model, end, facts))
    assert abs(curve.sel(layer=1) - curve.sel(layer=2)).max() > 0.01


def test_it_stands_beside_lens_and_patching(trained, facts):
    model, old, new = trained
    curve, patched = graft_curve(model, old, new, facts), patch_residual(new.on(model), old.on(model), facts)
    with new.applied(model):
        where = where_written(mm.read_depth(model, facts), patched, curve)
        own = mm.read_logits(model, facts, "divergence").logprob
    leads = own.sel(route="new") > own.drop_sel(route="new").max("route")
    np.testing.assert_array_equal(where.patched.notnull(), leads)
    np.testing.assert_array_equal(where.grafted.notnull(), leads)
    assert where.patched.notnull().any()


def test_states_stand_for_their_changes(trained, facts):
    model, old, new = trained
    wanted = graft_curve(model, old, new, facts)
    given = graft_curve(model, old.on(model), new.on(model), facts)
    np.testing.assert_array_equal(given.margin, wanted.margin)
    assert given.attrs == wanted.attrs


def test_an_edit_of_a_fine_tuned_model_is_grafted_on_its_state(trained, facts):
    """Above the edited block the fine-tuned model itself, below it the edited one."""
    model, old, _ = trained
    state = old.on(model)
    change = mm.edit(state, list(facts)[:1], "ft_l", FTLConfig(layer=1, clamp=0.1))
    curve = graft_curve(state, None, change.on(state), facts).margin
    for layers, end in (((0, 1), change.on(state)), ((2, 3), state)):
        for layer in layers:
            np.testing.assert_array_equal(curve.sel(layer=layer), mm.read_logits(end, facts, "divergence").margin)
    np.testing.assert_array_equal(graft_curve(state, state, change, facts).margin, curve)


def test_refusals(trained, facts, tiny):
    model, old, new = trained
    with pytest.raises(StudyError, match="both the base"):
        graft_curve(model, None, None, facts)
    with pytest.raises(ChangeError, match="not those that this change was made on"):
        graft_curve(tiny("llama", seed=1), old, new, facts)
    with pytest.raises(StudyError, match="both the base"):
        graft_curve(model, None, model, facts)
    edited = mm.edit(model, list(facts)[:1], "ft_l", FTLConfig(layer=0, clamp=0.1))
    for after in (tiny("llama", seed=1), edited):
        with pytest.raises(StudyError, match="grafted upon the base"):
            graft_curve(model, old, after, facts)
    with pytest.raises(StudyError, match="with one change on"):
        graft_curve(model, None, edited.on(old.on(model)), facts)
    with pytest.raises(StudyError, match="Before is the base or an adapter"):
        graft_curve(model, edited.on(model), new, facts)
    with pytest.raises(ChangeError, match="do not fit"):
        graft_curve(model, None, tiny("gpt2"), facts)
