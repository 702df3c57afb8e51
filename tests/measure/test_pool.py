"""Several draws as one: labels, clusters, what is said once, and what cannot be pooled."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.normalised import group_normalised
from mechmask.measure.pool import pooled
from mechmask.measure.statistics import over_facts


def draw(values, error=0.5, facts="ab", **attrs):
    return xr.Dataset(
        {
            "trace_before": ("fact", np.asarray(values, dtype=float) + 4),
            "trace_after": ("fact", np.asarray(values, dtype=float)),
            "shared_error": error,
            "n_never": 4,
        },
        {"fact": list(facts)},
        attrs,
    )


def test_every_fact_keeps_its_numbers_under_a_label_of_its_draw():
    joined = pooled({"0": draw([1, 2]), "7": draw([3, 5])})
    assert joined.fact.values.tolist() == ["0/a", "0/b", "7/a", "7/b"]
    assert joined["seed"].values.tolist() == ["0", "0", "7", "7"]
    assert joined.trace_after.values.tolist() == [1, 2, 3, 5]


def test_what_is_said_once_of_a_draw_stands_beside_each_of_its_facts():
    joined = pooled({"0": draw([1, 2], error=0.5), "1": draw([3, 5], error=0.75)})
    assert joined.shared_error.values.tolist() == [0.5, 0.5, 0.75, 0.75]
    assert set(joined.data_vars) == {"trace_before", "trace_after", "shared_error", "n_never"}


def test_a_mean_takes_each_draw_as_one_observation():
    joined = pooled({str(seed): draw([seed, seed + 2]) for seed in range(4)})
    mean = over_facts(joined.trace_after)
    expected = stats.t.interval(0.95, 3, loc=2.5, scale=np.std([1, 2, 3, 4], ddof=1) / 2)
    assert (float(mean.low), float(mean.high), int(mean.n)) == pytest.approx((*expected, 4))
    alone = [group_normalised(part) for part in (joined, joined.drop_vars("seed"))]
    assert alone[0].estimate == pytest.approx(alone[1].estimate)
    assert alone[0].low != pytest.approx(alone[1].low), "facts of one draw are no independent observations"


def test_attributes_in_which_draws_differ_are_left_out():
    joined = pooled({"0": draw([1, 2], statistic="a", day=1), "1": draw([3, 5], statistic="a", day=2)})
    assert joined.attrs == {"statistic": "a"}


@pytest.mark.parametrize(
    ("draws", "sentence"),
    [
        ({}, "There is no draw"),
        ({"0": draw([1, 2]).isel(fact=0)}, "draw 0 has no dimension fact"),
        (
            {
                "0": draw([1, 2]).expand_dims(state=["won"]),
                "1": draw([3, 5]).expand_dims(state=["driven_on"]),
            },
            "draws 0, 1 cannot be pooled",
        ),
        ({"0": draw([1, 2]), "1": draw([3, 5]).drop_vars("trace_after")}, "cannot be pooled"),
    ],
)
def test_what_is_no_result_of_one_protocol_is_refused(draws, sentence):
    with pytest.raises(ReadingError, match=sentence):
        pooled(draws)
