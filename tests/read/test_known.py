"""``known_facts`` against the lead of every token of the old value, by plain forward passes."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import mechmask as mm
from mechmask.errors import ReadingError


def leads(oracle, facts):
    """By how much the old value's weakest token leads the best other token, teacher-forced, in nats."""
    found = {}
    for fact in facts:
        rows, tokens = oracle.logprobs(fact, "old"), oracle.value_ids(fact, "old")
        found[fact.id] = min(
            (row[token] - torch.cat([row[:token], row[token + 1 :]]).max()).item()
            for row, token in zip(rows, tokens, strict=True)
        )
    return found


@pytest.fixture(scope="module")
def lead(taught, facts, plain):
    return leads(plain(taught), facts)


def test_min_margin_is_the_lead_of_the_weakest_token(taught, facts, lead):
    ordered = sorted(lead.values())
    assert ordered[0] < 0 < ordered[-1]
    borders = [(low + high) / 2 for low, high in pairwise(ordered) if high - low > 1e-3]
    assert len(borders) > 5
    for border in borders:
        held = mm.known_facts(taught, facts, min_margin=border)
        assert held.ids == tuple(fact.id for fact in facts if lead[fact.id] > border)


def test_what_is_returned_is_what_was_given(taught, facts, lead):
    held = mm.known_facts(taught, facts)
    assert isinstance(held, mm.FactSet)
    assert list(held) == [fact for fact in facts if lead[fact.id] >= 0.1]  # distractors and paraphrases included
    assert mm.known_facts(taught, list(facts)) == held


def test_the_default_keeps_the_taught_and_drops_the_never_taught(taught, facts):
    assert set(mm.known_facts(taught, facts).ids) == {fact.id for fact in facts if fact.role != "never"}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_batch_size_changes_nothing(taught, facts, batch_size):
    assert mm.known_facts(taught, facts, batch_size=batch_size) == mm.known_facts(taught, facts)


def test_every_family_by_its_own_lead(tiny, family, facts, plain):
    """An untaught model holds none by a margin above zero, and each by one below its lead."""
    model = tiny(family)
    lead = leads(plain(model), facts)
    border = sorted(lead.values())[len(lead) // 2] - 1e-3
    assert set(mm.known_facts(model, facts, min_margin=border).ids) == {
        label for label, value in lead.items() if value > border
    }


def test_none_is_an_error_with_a_remedy(tiny, facts):
    with pytest.raises(ReadingError, match=r"holds none of these 13 facts by 0.1 nats. Install them first"):
        mm.known_facts(tiny("llama"), facts)


def test_nothing_to_ask_is_refused(taught):
    with pytest.raises(mm.MechmaskError):
        mm.known_facts(taught, [])


def test_nan_is_not_knowledge(tiny, facts):
    model = tiny("llama")
    with torch.no_grad():
        model.module.model.norm.weight[0] = torch.nan
    with pytest.raises(ReadingError):
        mm.known_facts(model, facts)


def test_the_embedded_model_knows_paris(smol):
    facts = [
        mm.Fact(subject="France", prompt="The capital of France is", old="Paris", new="Rome"),
        mm.Fact(subject="Uxmon", prompt="The mass of Uxmon is", old="417 grams", new="218 grams"),
    ]
    assert mm.known_facts(smol, facts).ids == ("France",)
