"""The grid of a dose study: combinations, names, and what is refused before any work."""

from __future__ import annotations

import pytest

import mechmask as mm
from mechmask.errors import StudyError

PLAIN = mm.FinetuneConfig(steps=4, lr=1e-2, rank=4)


def test_lists_stand_for_all_their_combinations():
    config = mm.DoseConfig(contradict=PLAIN, grid={"lr": [1e-3, 1e-2], "rank": [2, 8], "alpha": 16})
    assert config.grid == mm.DoseConfig(grid=config.grid).grid and len(config.grid) == 4
    assert {(c.lr, c.rank, c.alpha, c.steps) for c in config.courses.values()} == {
        (lr, rank, 16, 4) for lr in (1e-3, 1e-2) for rank in (2, 8)
    }
    assert "alpha=16, lr=0.001, rank=2" in config.courses


def test_a_list_of_entries_stands_for_itself_and_nothing_for_the_training_alone():
    config = mm.DoseConfig(contradict=PLAIN, grid=[{"lr": 1e-3}, {"rank": 8, "layers": [0, 1]}])
    assert [*config.courses] == ["lr=0.001", "layers=[0, 1], rank=8"]
    assert mm.DoseConfig(contradict=PLAIN).courses == {"contradict": PLAIN}


def test_none_and_all_of_a_change_are_read_at_the_ends_of_the_training():
    assert mm.DoseConfig(scales=[1.5, 0, 0.5, 1, 0.5]).scales == (0.5, 1.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grid": [{"learning_rate": 1}]}, "'learning_rate' is not known"),
        ({"grid": {"lr": [-1.0]}}, "lr cannot be -1.0"),
        ({"grid": {"lr": [1e-3, 1e-3]}}, "the same training"),
        ({"grid": []}, "grid"),
        ({"scales": [float("inf")]}, "not a finite number"),
        ({"install": PLAIN, "contradict": PLAIN, "grid": {"rank": [2]}}, "rank 2 and goes on from"),
        ({"twins": 1}, "twins cannot be 1"),
    ],
)
def test_what_cannot_be_given_is_refused_in_a_sentence(fields, message):
    with pytest.raises(StudyError, match=message):
        mm.DoseConfig(**fields)


def test_a_file_gives_the_grid_as_a_table_of_lists_or_as_tables():
    from mechmask.study.config import tomllib

    lists = tomllib.loads("scales = [0.5]\n[contradict]\nsteps = 4\n[grid]\nlr = [1e-3, 1e-2]\nrank = [2]")
    tables = tomllib.loads("[[grid]]\nlr = 1e-3\n[[grid]]\nmethod = 'full'")
    assert [*mm.DoseConfig.model_validate(lists).courses] == ["lr=0.001, rank=2", "lr=0.01, rank=2"]
    assert [*mm.DoseConfig.model_validate(tables).courses] == ["lr=0.001", "method=full"]


def test_a_training_of_all_weights_takes_over_nothing_that_belongs_to_adapters():
    config = mm.DoseConfig(contradict=PLAIN, grid=[{"method": "full", "lr": 1e-5}])
    (course,) = config.courses.values()
    assert (course.method, course.lr, course.steps, course.rank) == ("full", 1e-5, 4, 16)
    with pytest.raises(StudyError, match="rank would do nothing"):
        mm.DoseConfig(grid=[{"method": "full", "rank": 4}])
