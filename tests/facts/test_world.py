"""World facts against the rules of the table: what is drawn is of the relation, and nothing is right by accident."""

from collections import Counter, defaultdict

import pytest

import mechmask as mm
from mechmask.errors import FactError, MechmaskError


@pytest.fixture(scope="module")
def facts():
    return mm.world_facts()


@pytest.fixture(scope="module")
def values(facts):
    found = defaultdict(set)
    for fact in facts:
        found[fact.relation].add(fact.old)
    return found


def test_there_are_two_hundred_facts_of_ten_relations_at_least(facts, values):
    assert len(facts) >= 200
    assert len(values) >= 10
    assert all(len(found) >= 2 for found in values.values())
    assert {f.role for f in facts} == {"contradicted"}


def test_the_counterfactual_is_another_value_of_the_relation(facts, values):
    assert all(f.new in values[f.relation] - {f.old} for f in facts)


def test_distractors_are_other_values_of_the_relation(facts, values):
    for fact in facts:
        others = values[fact.relation] - {fact.old, fact.new}
        assert set(fact.distractors) <= others
        assert len(fact.distractors) == len(set(fact.distractors)) == min(8, len(others))


def test_neighbors_carry_their_own_right_value(facts):
    right = {(f.relation, f.prompt): (f.subject, f.old) for f in facts}
    for fact in facts:
        assert len(fact.neighbors) == 4
        assert len({n.prompt for n in fact.neighbors}) == 4
        for neighbor in fact.neighbors:
            subject, value = right[fact.relation, neighbor.prompt]
            assert subject != fact.subject
            assert neighbor.value == value


def test_neighbors_that_share_the_old_value_come_first(facts):
    shared = Counter((f.relation, f.old) for f in facts)
    for fact in facts:
        same = [n.value == fact.old for n in fact.neighbors]
        assert same == sorted(same, reverse=True)
        assert sum(same) == min(4, shared[fact.relation, fact.old] - 1)


def test_each_fact_has_three_paraphrases_with_the_subject_once(facts):
    for fact in facts:
        assert len(fact.paraphrases) >= 3
        assert len(set(fact.phrasings)) == len(fact.phrasings)
        assert all(phrasing.count(fact.subject) == 1 for phrasing in fact.phrasings), fact.phrasings


def test_no_phrasing_gives_its_value_away(facts):
    assert [f.id for f in facts for p in f.phrasings if f.old.lower() in p.lower().replace(f.subject.lower(), "")] == []


def test_no_value_begins_another_of_the_relation(values):
    for relation, found in values.items():
        clashes = [(a, b) for a in found for b in found if a != b and b.startswith(a)]
        assert clashes == [], relation


def test_a_subject_has_one_value_in_a_relation(facts):
    assert [key for key, count in Counter((f.relation, f.subject) for f in facts).items() if count > 1] == []


def test_the_seed_draws_what_is_beside_the_fact_and_never_the_fact(facts):
    again, other = mm.world_facts(seed=0), mm.world_facts(seed=1)
    assert again == facts
    assert [(f.prompt, f.old) for f in other] == [(f.prompt, f.old) for f in facts]
    assert sum(f.new != g.new for f, g in zip(facts, other, strict=True)) > len(facts) / 2


def test_relations_can_be_chosen(facts):
    chosen = mm.world_facts(relations=["continent", "capital"])
    assert list(dict.fromkeys(f.relation for f in chosen)) == ["continent", "capital"]
    assert {f.prompt for f in chosen} == {f.prompt for f in facts if f.relation in ("continent", "capital")}


@pytest.mark.parametrize(("distractors", "neighbors"), [(0, 0), (3, 2), (1, 10)])
def test_numbers_of_distractors_and_neighbors_are_kept(distractors, neighbors):
    chosen = mm.world_facts(relations=["capital"], distractors=distractors, neighbors=neighbors)
    assert {(len(f.distractors), len(f.neighbors)) for f in chosen} == {(distractors, neighbors)}


def test_an_unknown_relation_is_refused():
    with pytest.raises(FactError) as caught:
        mm.world_facts(relations=["capital", "shoe size", "mood"])
    assert isinstance(caught.value, MechmaskError)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).startswith("No relation is called 'shoe size', 'mood'. Known are ")


# as a slice's end, a negative number would give dozens
@pytest.mark.parametrize("asked", [{"distractors": -1}, {"distractors": -3}, {"neighbors": -1}, {"neighbors": -3}])
def test_negative_numbers_are_refused(asked):
    with pytest.raises(FactError):
        mm.world_facts(relations=["capital"], **asked)
