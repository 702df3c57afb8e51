"""``read_retention`` against the published rule, walked token by token with the plain module and all of its ranks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import mechmask as mm
from mechmask.errors import ReadingError
from mechmask.facts.stop_words import STOP_WORDS, is_stop_word

WORDS = frozenset({"the", "a", "of", "s"})


@pytest.fixture(scope="module")
def apart(facts):
    """The shared facts without those whose values begin alike, which the published rule cannot tell apart."""
    return mm.FactSet([fact for fact in facts if fact.old[0] != fact.new[0]])


def common(oracle, fact):
    """What old and new both begin with."""
    pairs = zip(*(oracle.value_ids(fact, route) for route in ("old", "new")), strict=False)
    return [old for old, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]


@torch.no_grad()
def walked(oracle, fact, words):
    """Which values are met, what is said, and how many stop words before it."""

    def stops(token):
        return is_stop_word(oracle.tokenizer.decode([token]), words)

    targets = [next(t for t in oracle.value_ids(fact, route) if not stops(t)) for route in ("old", "new")]
    ids, met, passed = oracle.ids(fact.prompt), [False, False], 0
    while True:
        ranked = oracle.module(torch.tensor([ids])).logits[0, -1].argsort(descending=True, stable=True).tolist()
        best = next(token for token in ranked if not stops(token))
        met = [was or best == target for was, target in zip(met, targets, strict=True)]
        if not stops(ranked[0]):
            return met, ranked[0], passed
        if passed == 10:
            return met, None, passed
        ids, passed = [*ids, ranked[0]], passed + 1


def test_every_family_as_walked_by_hand(tiny, family, apart, plain):
    model = tiny(family)
    oracle = plain(model)
    reading = mm.read_retention(model, apart, stop_words=WORDS)
    for fact in apart:
        met, said, passed = walked(oracle, fact, WORDS)
        one = reading.sel(fact=fact.id)
        assert one.retained.values.tolist() == met and one.n_passed == passed
        assert (said is None) == (one.answer.item() == "")


def test_a_value_that_is_said_behind_stop_words_is_retained(tiny, apart, plain):
    """All words but the model's own answers are stop words, so that every path has some, and old is what is said."""
    model = tiny("llama")
    oracle = plain(model)
    vocabulary = [oracle.tokenizer.decode([token]).strip().lower() for token in range(len(oracle.tokenizer))]
    wanted = "zw"
    words = frozenset(vocabulary) - {text for text in vocabulary if text and text[0] in wanted}
    asked = mm.FactSet([fact.model_copy(update={"old": "z", "new": "w", "distractors": ()}) for fact in apart])
    reading = mm.read_retention(model, asked, stop_words=words)
    met = np.array([walked(oracle, fact, words)[0] for fact in asked])
    assert reading.retained.values.tolist() == met.tolist()
    assert met.any() and not met.all() and reading.n_passed.max() > 1


def test_probabilities_are_those_of_the_plain_module(taught, apart, plain):
    oracle = plain(taught)
    reading = mm.read_retention(taught, apart)
    for fact in apart:
        with torch.no_grad():
            begun = [*oracle.ids(fact.prompt), *common(oracle, fact)]
            after = oracle.module(torch.tensor([begun])).logits[0, -1].double().softmax(-1)
        one = reading.sel(fact=fact.id)
        for route in ("old", "new"):
            token = oracle.value_ids(fact, route)[len(common(oracle, fact))]
            others = after.clone()
            others[token] = 0
            np.testing.assert_allclose(one.probability.sel(route=route), after[token], atol=1e-6)
            np.testing.assert_allclose(one.lead.sel(route=route), after[token] - others.max(), atol=1e-6)
        n = len(common(oracle, fact))
        values = [
            oracle.value_ids(other, route)
            for other in apart
            if other.id == fact.id or (fact.relation and other.relation == fact.relation)
            for route in other.values
        ]
        own = {oracle.value_ids(fact, route)[n] for route in ("old", "new")}
        related = {ids[n] for ids in values if ids[:n] == common(oracle, fact) and ids[n:]} - own
        assert one.n_related == len(related)
        among = after[sorted(related)].sum() if related else np.nan
        np.testing.assert_allclose(one.share.sel(category="related"), among, atol=1e-6)
        np.testing.assert_allclose(one.share.sel(category=["true", "edited"]), one.probability, atol=0)
    with_rivals = reading.share.isel(fact=reading.n_related.values > 0)
    assert with_rivals.sizes["fact"] > 3
    np.testing.assert_allclose(with_rivals.sum("category"), 1, atol=1e-9)


def test_values_of_other_facts_of_the_relation_can_be_counted_in(taught, apart):
    one = next(fact for fact in apart if fact.relation)
    others = mm.FactSet([fact for fact in apart if fact.relation == one.relation])
    alone = mm.read_retention(taught, [one])
    beside = mm.read_retention(taught, [one], related=others)
    together = mm.read_retention(taught, others).sel(fact=[one.id])
    np.testing.assert_allclose(beside.share, together.share, atol=1e-6)
    assert int(beside.n_related[0]) == int(together.n_related[0]) >= int(alone.n_related[0])


def test_the_real_model_says_what_it_knows(smol):
    asked = mm.FactSet(
        [
            mm.Fact(subject="France", prompt="The capital of France is", old="Paris", new="Rome"),
            mm.Fact(subject="Zurbolt", prompt="The capital of Zurbolt is", old="Paris", new="Rome"),
        ]
    )
    reading = mm.read_retention(smol, asked)
    assert reading.retained.values.tolist() == [[True, False], [False, False]]
    assert reading.answer[0] == "Paris" and reading.lead.sel(route="old")[0] > 0.1
    assert reading.share.sel(category="related").isnull().all() and (reading.n_related == 0).all()


def test_stop_words_are_taken_in_any_case_and_batches_change_nothing(taught, apart):
    reading = mm.read_retention(taught, apart, stop_words=WORDS)
    upper = mm.read_retention(taught, apart, stop_words=[word.upper() for word in WORDS])
    assert reading.identical(upper)
    alone = mm.read_retention(taught, apart, stop_words=WORDS, batch_size=1)
    assert alone.drop_vars(["probability", "lead", "share"]).equals(reading.drop_vars(["probability", "lead", "share"]))
    np.testing.assert_allclose(alone.probability, reading.probability, atol=1e-6)


def test_a_state_is_read_as_the_model_with_its_change(tiny, apart):
    model = tiny("llama")
    change = mm.finetune(model, apart.contradiction_examples(), mm.FinetuneConfig(steps=3, lr=1e-2, rank=4))
    reading = mm.read_retention(change.on(model), apart)
    with change.applied(model):
        assert reading.drop_attrs().identical(mm.read_retention(model, apart).drop_attrs())
    assert not reading.probability.equals(mm.read_retention(model, apart).probability)


def test_values_that_the_first_token_cannot_tell_apart_are_refused_together(taught, facts):
    with pytest.raises(ReadingError, match=r"Karl Benz.* begin with the same token"):
        mm.read_retention(taught, facts)
    second = mm.Fact(subject="Spain", prompt="Spain is", old="the", new="Rome", id="second")
    both = mm.FactSet([facts[0], second])
    with pytest.raises(ReadingError, match="'second' consists of stop words"):
        mm.read_retention(taught, both)


def test_the_stop_words_are_those_of_closed_classes():
    assert all(word == word.lower().strip() for word in STOP_WORDS)
    assert {"the", "of", "is", "by", "and"} <= STOP_WORDS
    assert not {"apple", "microsoft", "computer", "french", "may day", "new"} & STOP_WORDS
