"""Roles among facts from pretraining: a seeded draw, and pseudo-subjects in the same prompts with the same values."""

import pytest

import mechmask as mm
from mechmask.errors import FactError, MechmaskError


@pytest.fixture(scope="module")
def world():
    return mm.world_facts()


@pytest.mark.parametrize("counts", [(10, 8, 12), (3, 2, 12), (5, 0, 0), (0, 5, 3)])
def test_roles_come_in_their_numbers(world, counts):
    contradicted, control, never = counts
    facts = mm.assign_roles(world, n_contradicted=contradicted, n_control=control, n_never=never)
    roles = [fact.role for fact in facts]
    assert roles == ["contradicted"] * contradicted + ["control"] * control + ["never"] * never


def test_all_facts_can_be_drawn(world):
    facts = mm.assign_roles(world[:9], n_contradicted=5, n_control=4, n_never=0)
    assert set(facts.ids) == set(world[:9].ids)


def test_a_taught_fact_keeps_everything_but_its_role(world):
    for fact in mm.assign_roles(world, n_contradicted=10, n_control=8):
        if fact.role != "never":
            assert fact == world[fact.id].model_copy(update={"role": fact.role})


@pytest.mark.parametrize("seed", range(4))
def test_never_facts_are_pseudo_subjects_in_the_drawn_prompts_with_their_values(world, seed):
    facts = mm.assign_roles(world, n_contradicted=4, n_control=3, n_never=12, seed=seed)
    taught = list(facts.contradicted)
    originals = []
    for never in facts.never:
        (original,) = [
            f
            for f in taught
            if tuple(p.replace(f.subject, "{}") for p in f.phrasings)
            == tuple(p.replace(never.subject, "{}") for p in never.phrasings)
            and f.values == never.values
            and f.relation == never.relation
        ]
        assert never.stands_for == original.id
        originals.append(original.id)
        assert all(original.subject not in phrasing for phrasing in never.phrasings)
    counts = [originals.count(f.id) for f in taught]
    assert max(counts) - min(counts) <= 1, "contradicted facts are used in turn"
    names = [f.subject.lower() for f in facts.never]
    everything = "\n".join([*names, *(f.subject.lower() for f in world)])
    assert all(everything.count(name) == 1 for name in names)


def test_where_nothing_is_contradicted_they_stand_in_for_controls(world):
    facts = mm.assign_roles(world, n_contradicted=0, n_control=3, n_never=6)
    assert [f.stands_for for f in facts.never] == [*facts.control.ids] * 2


def test_pseudo_subjects_are_about_as_long_as_those_they_stand_in_for(world):
    facts = mm.assign_roles(world, n_contradicted=30, n_control=0, n_never=30, seed=1)
    drawn = [len(f.subject) for f in facts.contradicted]
    gaps = [abs(len(f.subject) - n) for f, n in zip(facts.never, drawn, strict=True)]
    in_turn = [abs(len(f.subject) - n) for f, n in zip(facts.never, drawn[1:] + drawn[:1], strict=True)]
    assert sum(gaps) < 0.8 * sum(in_turn)


def test_the_seed_decides(world):
    draws = [mm.assign_roles(world, n_contradicted=10, n_control=8, seed=seed) for seed in (2, 2, 3)]
    assert draws[0] == draws[1]
    assert draws[0].ids != draws[2].ids
    assert {f.subject for f in draws[0].never}.isdisjoint({f.subject for f in draws[2].never})


@pytest.mark.parametrize("counts", [(7, 4, 12), (11, 0, 0), (0, 0, 12), (-1, 3, 12), (3, -1, 12), (3, 3, -1)], ids=str)
def test_counts_that_cannot_be_drawn_are_refused(world, counts):
    contradicted, control, never = counts
    with pytest.raises(FactError) as caught:
        mm.assign_roles(world[:10], n_contradicted=contradicted, n_control=control, n_never=never)
    assert isinstance(caught.value, MechmaskError)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value) == (
        f"{contradicted} contradicted, {control} control and {never} never facts cannot be drawn from 10. "
        "Give counts of zero or more, the first two together between one and the number of facts."
    )
