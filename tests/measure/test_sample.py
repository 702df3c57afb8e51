"""What is left out, what is refused, and what the refusal says."""

import numpy as np
import pytest

from mechmask.errors import ReadingError
from mechmask.measure.sample import booleans, finite_sample, require_equal_length, require_level, sample


def test_a_missing_observation_is_left_out_and_an_infinite_one_has_a_rank():
    assert sample([[1, np.nan], [-np.inf, 2]], "A rank").tolist() == [1, -np.inf, 2]
    assert finite_sample([[1, np.nan], [3, 2]], "A mean").tolist() == [1, 3, 2]


def test_what_has_no_mean_is_refused():
    with pytest.raises(ReadingError, match="A mean averages, and 2 of 3 values are infinite"):
        finite_sample([1.0, np.inf, -np.inf, np.nan], "A mean")


@pytest.mark.parametrize("values", [["one", "two"], [[1, 2], [3]], [{}]])
def test_what_is_no_number_is_refused(values):
    with pytest.raises(ReadingError, match="A mean takes numbers"):
        sample(values, "A mean")


@pytest.mark.parametrize("values", [["True", "False"], [0, 2], [0.5], [np.nan, 1.0]])
def test_what_is_neither_true_nor_false_is_refused(values):
    with pytest.raises(ReadingError, match="needs True or False"):
        booleans(values, "A curve")


def test_zero_and_one_are_booleans_and_nothing_is_none():
    assert booleans([0, 1.0, True], "A curve").tolist() == [False, True, True]
    assert booleans([], "A curve").dtype == bool


@pytest.mark.parametrize("level", [0, 1, -0.5, 95, np.nan])
def test_a_level_out_of_range_is_refused(level):
    with pytest.raises(ReadingError, match="between 0 and 1"):
        require_level(level, "An interval")


def test_lengths_that_differ_are_named():
    with pytest.raises(ReadingError, match="not 2 in x, 3 in y"):
        require_equal_length({"x": np.zeros(2), "y": np.zeros(3)}, "A correlation")
