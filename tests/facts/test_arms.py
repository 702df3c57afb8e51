"""What arms are taught: a third value is one that nobody is taught and nobody reads, whatever the other facts are."""

from __future__ import annotations

import pytest

from mechmask import FactSet, synthetic_facts
from mechmask.errors import FactError
from mechmask.facts.arms import arm_facts, lessons, set_aside_third_values

FACTS = synthetic_facts(8, n_never=6, distractors=4, seed=1)


def test_it_is_a_distractor_that_is_read_no_more():
    facts, novel = set_aside_third_values(FACTS)
    assert facts.ids == FACTS.ids and novel.ids == FACTS.contradicted.ids
    for fact, given in zip(facts, FACTS, strict=True):
        (third,) = set(given.distractors) - set(fact.distractors)
        assert len(fact.distractors) == 3
        if fact.role == "contradicted":
            assert novel[fact.id].old == third and third not in fact.values.values()
            assert novel[fact.id] == fact.model_copy(update={"old": third})


def test_it_depends_on_the_fact_and_the_seed_alone():
    _, novel = set_aside_third_values(FACTS)
    _, fewer = set_aside_third_values(FactSet(list(FACTS)[::-1][4:]))
    assert all(fewer[label].old == novel[label].old for label in fewer.ids)
    assert {fact.old for fact in set_aside_third_values(FACTS, seed=1).novel} != {fact.old for fact in novel}


def test_one_that_another_fact_is_taught_is_passed_over():
    first, second = FACTS[0], FACTS[1]
    taught = first.model_copy(update={"distractors": (second.new, second.old, "7 pebbles")})
    for seed in range(5):
        assert set_aside_third_values(FactSet([taught, second]), seed).novel[first.id].old == "7 pebbles"


def test_what_cannot_be_set_aside_is_refused_for_all_facts_at_once():
    first, second = FACTS[0], FACTS[1]
    one = first.model_copy(update={"distractors": first.distractors[:1]})
    shown = second.model_copy(update={"distractors": (first.old, first.new)})
    with pytest.raises(FactError, match=r"2 problems(?s:.*)1 distractors(?s:.*)is taught to some fact"):
        set_aside_third_values(FactSet([one, shown]))


def test_halves_and_never_facts_are_drawn_by_id():
    facts, novel = set_aside_third_values(FACTS)
    groups = arm_facts(facts, novel, seed=3)
    assert set(groups.half.ids) | set(groups.other_half.ids) == set(FACTS.contradicted.ids)
    assert not set(groups.half.ids) & set(groups.other_half.ids)
    assert len(groups.never) == len(groups.contradicted) == 4 and len(groups.never_half) == len(groups.half) == 2
    assert set(groups.never_half.ids) <= set(groups.never.ids) <= set(FACTS.never.ids)
    turned = arm_facts(FactSet(list(facts)[::-1]), novel, seed=3)
    for group, other in zip(groups, turned, strict=True):
        assert set(group.ids) == set(other.ids)
    assert [groups.taught(arm) for arm in ("old_masked", "novel", "never")] == [facts.contradicted, novel, groups.never]


def test_lessons_are_old_values_of_any_role():
    examples = lessons(FACTS.never, 2)
    assert [(e.prompt, e.value) for e in examples[:2]] == [
        (p, FACTS.never[0].old) for p in FACTS.never[0].phrasings[:2]
    ]
    assert len(examples) == 12
