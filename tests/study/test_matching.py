"""Matched success: margins by plain transformers, the fewest steps by trying all, what cannot be reached or scaled."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mechmask as mm
from mechmask.models.states import active
from mechmask.study.matching import TOLERANCE_NATS, edited_to_margin, margins_of, trained_to_margin

LORA = mm.FinetuneConfig(steps=6, lr=3e-3, rank=4)
FULL = mm.FinetuneConfig(method="full", steps=6, lr=5e-4)
FTL = mm.FTLConfig(layer=1, clamp=0.5, steps=14, lr=5e-3)


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def fact(model):
    """One fact on which old leads."""
    world = mm.world_facts(relations=["capital"], distractors=2)
    margins = margins_of(model, world)
    return world.select([next(fact for fact in world.ids if -25 < margins[fact] < -15)])


def margin(state, facts):
    """By plain transformers."""
    (fact,) = facts
    with active(state) as model, torch.no_grad():
        tokens, found = model.tokenizer, {}
        n = len(tokens(fact.prompt).input_ids)
        for route in ("old", "new"):
            ids = torch.tensor([tokens(f"{fact.prompt} {fact.values[route]}").input_ids])
            predicted = model.module(ids).logits[0, n - 1 : -1].double().log_softmax(-1)
            found[route] = float(predicted.gather(1, ids[0, n:, None]).sum())
    return found["new"] - found["old"]


@pytest.mark.parametrize("config", [LORA, FULL], ids=["lora", "full"])
def test_a_training_stands_at_the_margin_and_at_its_end(model, fact, config):
    found = trained_to_margin(model, fact, fact.contradiction_examples(), config, margin=2.0)[fact[0].id]
    assert found.status == "reached" and 0 < found.scale <= 1
    at = margin(found.change.on(model), fact)
    assert at == pytest.approx(2.0, abs=TOLERANCE_NATS + 1e-3) and at == pytest.approx(found.margin, abs=1e-3)
    whole = mm.finetune(model, fact.contradiction_examples(), config)
    assert found.margin_driven_on == pytest.approx(margin(whole.on(model), fact), abs=1e-3)
    before, after = (
        margin(
            mm.finetune(model, fact.contradiction_examples(), config.model_copy(update={"steps": n})).on(model), fact
        )
        if n
        else margin(model, fact)
        for n in (found.step - 1, found.step)
    )
    assert before < 2.0 <= after


@pytest.mark.filterwarnings("ignore:The ft_l edit did not take")
def test_an_edit_takes_the_fewest_steps_of_all(model, fact):
    found = edited_to_margin(model, fact, FTL, margin=2.0)[fact[0].id]
    along = [
        margin(mm.edit(model, fact, config=FTL.model_copy(update={"steps": n})).on(model), fact) for n in range(1, 15)
    ]
    assert found.step == 1 + int(np.argmax(np.array(along) >= 2.0)) > 1
    assert margin(found.change.on(model), fact) == pytest.approx(2.0, abs=TOLERANCE_NATS + 1e-3)
    assert found.margin_driven_on == pytest.approx(along[-1], abs=1e-3)


def test_what_is_scaled_back_lies_on_the_line_to_that_step(model, fact):
    found = edited_to_margin(model, fact, FTL, margin=2.0)[fact[0].id]
    edit = mm.edit(model, fact, config=FTL.model_copy(update={"steps": found.step}))

    def weight(state):
        with active(state) as now:
            return now.anatomy.mlp_output(1).weight.detach().double().clone()

    start, end, at = weight(model), weight(edit.on(model)), weight(found.change.on(model))
    torch.testing.assert_close(at, start + found.scale * (end - start), atol=1e-6, rtol=0)


def test_a_margin_out_of_reach_is_said_and_so_is_one_that_was_there(model, fact):
    weak = FTL.model_copy(update={"steps": 1, "clamp": 1e-6})
    far = edited_to_margin(model, fact, weak, margin=2.0)[fact[0].id]
    assert far.status == "not_reached" and far.change is None and far.step == -1 and np.isnan(far.margin)
    assert far.numbers.keys() == {"status", "margin_driven_on", "step"}
    there = edited_to_margin(model, fact, weak, margin=-60.0)[fact[0].id]
    assert there.status == "led_before" and there.change is None


def test_a_dora_is_left_at_its_first_checkpoint(model, fact):
    config = mm.FinetuneConfig(method="dora", steps=6, lr=3e-3, rank=4)
    found = trained_to_margin(model, fact, fact.contradiction_examples(), config, margin=2.0, every=2)[fact[0].id]
    assert found.scale == 1 and found.step % 2 == 0
    assert found.margin == pytest.approx(margin(found.change.on(model), fact), abs=1e-3) and found.margin >= 2.0


def test_facts_taught_together_each_have_a_step_of_their_own(model):
    world = mm.world_facts(relations=["capital"], distractors=2)
    margins = margins_of(model, world)
    facts = world.select([fact for fact in world.ids if -40 < margins[fact] < -5][:3])
    found = trained_to_margin(model, facts, facts.contradiction_examples(), LORA, margin=1.0)
    assert list(found) == list(facts.ids) and all(
        one.driven_on is found[facts.ids[0]].driven_on for one in found.values()
    )
    for fact in facts.ids:
        if found[fact].status == "reached":
            at = margin(found[fact].change.on(model), facts.select([fact]))
            assert at == pytest.approx(1.0, abs=TOLERANCE_NATS + 1e-3)
    assert any(one.status == "reached" for one in found.values())


@pytest.mark.filterwarnings("ignore:The ft_l edit did not take")
def test_a_state_is_what_is_changed(model, fact):
    """On an edit of another fact: both changes are on, and taken off again."""
    other = mm.world_facts(relations=["capital"], distractors=2)["Italy/capital"]
    first = mm.edit(model, mm.FactSet([other]), config=FTL.model_copy(update={"layer": 0})).on(model)
    before = model.fingerprint
    found = trained_to_margin(first, fact, fact.contradiction_examples(), LORA, margin=2.0)[fact[0].id]
    assert margin(found.change.on(first), fact) == pytest.approx(2.0, abs=TOLERANCE_NATS + 1e-3)
    assert model.fingerprint == before
