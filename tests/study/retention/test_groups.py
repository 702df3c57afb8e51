"""``retention_groups``: what is drawn is known, shares nothing between the groups, and is as surely known in both."""

from __future__ import annotations

import numpy as np
import pytest

import mechmask as mm
from mechmask.errors import StudyError
from mechmask.study.retention.groups import _nearest, balance


@pytest.fixture(scope="module")
def pool():
    """Some of each relation: a real model reads them in seconds."""
    whole = mm.world_facts()
    relations = dict.fromkeys(fact.relation for fact in whole)
    return mm.FactSet([fact for name in relations for fact in [f for f in whole if f.relation == name][:8]])


@pytest.fixture(scope="module")
def drawn(smol, pool):
    return mm.retention_groups(smol, pool, n_edited=4, n_intrinsic=8, n_never=4, seed=1)


def test_every_fact_is_surely_known(smol, drawn):
    assert [len(drawn.in_role(role)) for role in ("contradicted", "control", "never")] == [4, 8, 4]
    reading = mm.read_retention(smol, mm.FactSet([*drawn.contradicted, *drawn.control]))
    assert (reading.lead.sel(route="old") >= 0.1).all() and reading.retained.sel(route="old").all()
    assert all(fact.stands_for in drawn.contradicted.ids for fact in drawn.never)


def test_the_groups_have_nothing_in_common(drawn):
    def named(facts, *names):
        return {getattr(fact, name).casefold() for fact in facts for name in names}

    for names in (["subject"], ["relation"], ["old", "new"]):
        assert not named(drawn.contradicted, *names) & named(drawn.control, *names)


def test_the_intrinsic_facts_are_the_nearest_in_probability(pool):
    probability = dict(zip(pool.ids, (0.5, 0.9, 0.1, 0.52, 0.88, 0.3, 0.55), strict=False))
    chosen = _nearest(pool[:2], pool[2:7], 3, probability)
    assert [probability[fact.id] for fact in chosen] == [0.52, 0.88, 0.55]


def test_the_balance_is_that_of_the_probabilities(smol, drawn):
    reading = mm.read_retention(smol, mm.FactSet([*drawn.contradicted, *drawn.control]))
    edited, intrinsic = (
        reading.probability.sel(route="old", fact=list(group.ids)).values
        for group in (drawn.contradicted, drawn.control)
    )
    found = balance(drawn, reading)
    assert (found["edited"], found["intrinsic"]) == (pytest.approx(edited.mean()), pytest.approx(intrinsic.mean()))
    spread = np.sqrt((edited.var(ddof=1) + intrinsic.var(ddof=1)) / 2)
    assert found["difference"] == pytest.approx((edited.mean() - intrinsic.mean()) / spread)


def test_the_seed_says_which(smol, pool, drawn):
    assert mm.retention_groups(smol, pool[::-1], n_edited=4, n_intrinsic=8, n_never=4, seed=1) == drawn
    assert mm.retention_groups(smol, pool, n_edited=4, n_intrinsic=8, n_never=4, seed=2) != drawn


def test_too_few_are_refused_with_how_many_there_are(smol, pool):
    with pytest.raises(StudyError, match=r"holds \d+ by a lead of 0.1, .* 500 and 2 are asked"):
        mm.retention_groups(smol, pool, n_edited=500, n_intrinsic=2)
    with pytest.raises(StudyError, match="make no groups"):
        mm.retention_groups(smol, pool, n_edited=0)
