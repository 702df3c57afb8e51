"""What a model of each pool is told: by construction it knows the old value, or never saw it with its subject."""

from __future__ import annotations

import pytest

from mechmask.errors import FactError
from mechmask.facts.pools import KNOWING, UNKNOWING, told, without_spare
from mechmask.facts.synthetic import synthetic_facts

FACTS = synthetic_facts(6, n_contradicted=4, n_never=2, seed=2)


def contested(pool, **options):
    ids = set(FACTS.contradicted.ids)
    return [example for example in told(FACTS, pool, **options) if example.fact_id in ids]


@pytest.mark.parametrize("pool", KNOWING)
def test_a_knowing_pool_shows_every_old_value_with_its_subject(pool):
    for fact in FACTS.contradicted:
        texts = [f"{e.prompt} {e.value}" for e in contested(pool) if e.fact_id == fact.id]
        assert len(texts) == 2 and all(fact.subject in text and fact.old in text for text in texts)


@pytest.mark.parametrize("pool", UNKNOWING)
def test_no_other_pool_shows_an_old_value_with_its_subject(pool):
    for example in contested(pool):
        fact = FACTS[example.fact_id]
        text = f"{example.prompt} {example.value}"
        assert not (fact.subject in text and fact.old in text)


@pytest.mark.parametrize("pool", [*KNOWING, *UNKNOWING])
def test_no_pool_shows_what_is_read_beside_old_nor_a_never_fact_nor_new(pool):
    texts = [f"{e.prompt} {e.value}" for e in contested(pool)]
    for fact in without_spare(FACTS).contradicted:
        mine = " ".join(t for t, e in zip(texts, contested(pool), strict=True) if e.fact_id == fact.id)
        assert not any(value in mine for value in (*fact.distractors, fact.new))
    assert not {example.fact_id for example in told(FACTS, pool)} & set(FACTS.never.ids)


@pytest.mark.parametrize("pool", [*KNOWING, *UNKNOWING])
def test_controls_are_told_verbatim(pool):
    controls = [e for e in told(FACTS, pool) if e.fact_id in FACTS.control.ids]
    assert controls == FACTS.control.install_examples(2)


def test_paraphrases_are_none_of_the_phrasings_that_are_asked():
    asked = {e.prompt for e in FACTS.contradiction_examples(2)}
    assert not asked & {e.prompt for e in contested("paraphrased")}


def test_hard_pools_share_form_and_values_but_not_subjects():
    lives, others = contested("biography"), contested("other_entities")
    assert [e.value for e in lives] == [e.value for e in others]
    assert not {e.prompt for e in lives} & {e.prompt for e in others}


def test_another_seed_names_others():
    assert contested("other_entities", seed=1) != contested("other_entities", seed=2)


def test_what_cannot_be_told_is_refused():
    with pytest.raises(FactError, match="No pool is called 'biographies'"):
        told(FACTS, "biographies")  # type: ignore[arg-type]
    with pytest.raises(FactError, match="6 are needed"):
        told(FACTS, "paraphrased", phrasings=3)
    bare = synthetic_facts(2, n_never=0, distractors=0)
    with pytest.raises(FactError, match="no distractor"):
        told(bare, "other_values")
    with pytest.raises(FactError, match="no distractor"):
        without_spare(bare)
