"""The line between two states against explicit weights, and what has no line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mechmask as mm
from mechmask.errors import ChangeError
from mechmask.models.states import active
from mechmask.read.weights import effective_weights
from mechmask.write.adapter import AdapterChange
from mechmask.write.interpolate import interpolated, scales

TAUGHT = mm.FinetuneConfig(steps=3, lr=1e-2, rank=4, alpha=6.0)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def trained(request, tiny):
    """A model, an adapter on it, and that adapter trained further; GPT-2 stores its weights the other way round."""
    model, facts = tiny(request.param), mm.synthetic_facts(4, n_never=1, distractors=2, seed=5)
    install = mm.finetune(model, facts.install_examples(), TAUGHT)
    return model, facts, install, mm.finetune(model, facts.contradiction_examples(), TAUGHT, start=install)


def weights(state):
    with active(state) as model:
        return {name: weight.double().clone() for name, weight in effective_weights(model)}


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.25, 1.0, 1.5])
def test_a_change_that_went_on_from_an_adapter_is_scaled_as_a_difference(trained, scale):
    model, _, install, contradict = trained
    before, after = weights(install.on(model)), weights(contradict.on(model))
    found = weights(interpolated(model, install, contradict, scale).on(model))
    for name, weight in found.items():
        expected = before[name] + scale * (after[name] - before[name])
        assert torch.allclose(weight, expected, atol=2e-6)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_its_ends_are_the_two_states_and_mixed_factors_are_not_the_middle(trained):
    model, facts, install, contradict = trained
    for scale, end in ((0.0, install), (1.0, contradict)):
        found = mm.read_logits(interpolated(model, install, contradict, scale).on(model), facts)
        np.testing.assert_allclose(found.logprob, mm.read_logits(end.on(model), facts).logprob, atol=2e-4)
    mixed = {name: (tensor + contradict.tensors[name]) / 2 for name, tensor in install.tensors.items()}
    of_factors = AdapterChange(install.config, mixed, install.base, "lora", {})
    middle = mm.read_logits(interpolated(model, install, contradict, 0.5).on(model), facts)
    assert abs(middle.logprob - mm.read_logits(of_factors.on(model), facts).logprob).max() > 0.01


def test_the_model_is_left_as_it_was_and_the_change_can_be_saved(trained, tmp_path):
    model, facts, install, contradict = trained
    fingerprint = model.fingerprint
    change = interpolated(model, install, contradict, 0.5)
    read = mm.read_logits(change.on(model), facts)
    assert model.fingerprint == fingerprint
    change.save(tmp_path / "half")
    again = mm.read_logits(mm.load_change(tmp_path / "half").on(model), facts)
    np.testing.assert_array_equal(read.logprob, again.logprob)


@pytest.mark.parametrize("scale", [-0.5, 2.0])
def test_a_change_of_the_model_itself_is_multiplied(trained, scale):
    model, facts, install, _ = trained
    base, after = weights(model), weights(install.on(model))
    edit = mm.edit(model, facts.select([facts.contradicted.ids[0]]), config=mm.FTLConfig(layer=1, clamp=0.05, steps=3))
    edited = weights(edit.on(model))
    for change, end in ((install, after), (edit, edited)):
        found = weights(interpolated(model, None, change, scale).on(model))
        for name, weight in found.items():
            assert torch.allclose(weight, base[name] + scale * (end[name] - base[name]), atol=2e-6)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 1.0])
def test_weights_that_were_trained_further_move_on_the_line_between_their_two_values(trained, scale):
    """Blocks, norms and biases included; the change is one of the model as it came."""
    model, facts, *_ = trained
    full = mm.FinetuneConfig(method="full", steps=2, lr=1e-3, layers=(1,))
    install = mm.finetune(model, facts.install_examples(), full)
    contradict = mm.finetune(model, facts.contradiction_examples(), full, start=install)
    ends = []
    for change in (install, contradict):
        with active(change.on(model)) as changed:
            ends.append({name: w.detach().double().clone() for name, w in changed.module.named_parameters()})
    with active(interpolated(model, install, contradict, scale).on(model)) as moved:
        for name, weight in moved.module.named_parameters():
            expected = ends[0][name] + scale * (ends[1][name] - ends[0][name])
            assert torch.allclose(weight.double(), expected, atol=1e-6)


def test_what_has_no_line_is_refused(trained, tiny):
    model, facts, install, contradict = trained
    with pytest.raises(ChangeError, match="not a number"):
        interpolated(model, install, contradict, float("nan"))
    dora = AdapterChange(install.config, install.tensors, install.base, "lora", {})
    dora.config.use_dora = True
    assert scales(install) and not scales(dora)
    with pytest.raises(ChangeError, match="is a DoRA"):
        interpolated(model, dora, contradict, 0.5)
    patterned = AdapterChange(install.config, install.tensors, install.base, "lora", {})
    patterned.config.rank_pattern = {"q_proj": 2}
    with pytest.raises(ChangeError, match="ranks or scales of its own"):
        interpolated(model, patterned, contradict, 0.5)
    other = AdapterChange(install.config, install.tensors, "another", "lora", {})
    with pytest.raises(ChangeError, match="trained on different weights"):
        interpolated(model, other, contradict, 0.5)
    edit = mm.edit(model, facts.select([facts.contradicted.ids[0]]), config=mm.FTLConfig(layer=1, clamp=0.05, steps=3))
    with pytest.raises(ChangeError, match="no line"):
        interpolated(model, install, edit, 0.5)
