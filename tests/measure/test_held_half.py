"""What came back of a half that nobody taught, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.held_half import excess, gain_of_held_half


def reading(old, said=False):
    """``old[fact, phrasing]`` in nats; new stands at -1."""
    old = np.asarray(old, dtype=float)
    logprob = np.stack([old, np.full_like(old, -1)], -1)
    recalled = np.broadcast_to(np.array([said, True]), logprob.shape)
    dims = ("fact", "phrasing", "route")
    facts = list("abcd")[: len(old)]
    coords = {"fact": facts, "phrasing": range(old.shape[1]), "route": ["old", "new"]}
    coords |= {"role": ("fact", ["contradicted"] * len(old)), "value": (("fact", "route"), [["1", "2"]] * len(old))}
    parts = {"logprob": (dims, logprob), "recalled": (dims, recalled), "standing": (dims[:2], old + 10)}
    return xr.Dataset(parts, coords, {"score": "sequence"})


def test_the_gain_by_prompt_and_by_phrasings_that_nobody_taught():
    gain = gain_of_held_half(reading([[-9, -8, -7]]), reading([[-4, -7, -2]], said=True))
    assert gain.sel(quantity="logprob", asked="prompt").item() == 5
    assert gain.sel(quantity="standing", asked="held_out").item() == 3
    assert gain.sel(quantity="recalled", asked="held_out").item() == 1
    later = gain_of_held_half(reading([[-9, -8, -7]]), reading([[-4, -7, -2]]), taught_phrasings=2)
    assert later.sel(quantity="logprob", asked="held_out").item() == 5


def test_a_fact_with_its_prompt_alone_has_nothing_held_out():
    gain = gain_of_held_half(reading([[-9]]), reading([[-4]]))
    assert gain.sel(quantity="logprob", asked="prompt").item() == 5
    assert gain.sel(asked="held_out").isnull().all()


def test_the_excess_is_paired_by_fact():
    start = reading([[-9, -9], [-8, -8], [-7, -7]])
    taught, other = reading([[-3, -3], [-4, -4], [-6, -6]]), reading([[-8, -8], [-8, -8], [-6, -6]])
    gain, reference = gain_of_held_half(start, taught), gain_of_held_half(start, other)
    found = excess(gain, {"never": reference}, level=0.9)
    differences = np.array([5.0, 4.0, 0.0])
    where = {"reference": "never", "quantity": "logprob", "asked": "prompt"}
    np.testing.assert_array_equal(found.excess.sel(where), differences)
    expected = stats.t.interval(0.9, 2, differences.mean(), stats.sem(differences))
    np.testing.assert_allclose([found.low.sel(where), found.high.sel(where)], expected)
    assert found.n.sel(where) == 3
    with pytest.raises(ReadingError, match="not of the facts"):
        excess(gain, {"never": reference.isel(fact=[1, 0, 2])})
    with pytest.raises(ReadingError, match="no reference"):
        excess(gain, {})


@pytest.mark.parametrize("said", [False, True])
def test_a_share_that_changed_alike_on_all_facts_has_an_interval(said):
    """Three of three say nothing of how the fourth would do."""
    start, other = reading([[-9, -9], [-8, -8], [-7, -7]]), reading([[-8, -8], [-8, -8], [-6, -6]])
    gain = gain_of_held_half(start, reading([[-3, -3], [-4, -4], [-6, -6]], said=said))
    found = excess(gain, {"never": gain_of_held_half(start, other)})
    at = {"reference": "never", "quantity": "recalled", "asked": "prompt"}
    bound = stats.binomtest(0, 3).proportion_ci(0.95).high
    ends = (1 - 2 * bound, 1.0) if said else (-bound, bound)
    np.testing.assert_allclose([found.low.sel(at), found.high.sel(at)], ends)
    assert found.estimate.sel(at) == said


def test_coverage_where_shares_agree_by_chance():
    """Three facts of which each is recalled with a probability, or as often without: the excess is the difference."""
    rng = np.random.default_rng(0)
    quantity = xr.DataArray(["logprob", "standing", "recalled"], dims="quantity", name="quantity")
    for chance in (0.05, 0.5, 0.9):
        hits = 0
        for _ in range(150):
            said = (rng.random((2, 3)) < chance).astype(float)
            gains = [
                xr.DataArray(
                    np.tile(one, (3, 1, 1)), {"quantity": quantity, "fact": list("abc")}, ("quantity", "asked", "fact")
                )
                for one in said
            ]
            found = excess(gains[0], {"never": gains[1]}).sel(quantity="recalled").isel(asked=0)
            hits += bool(found.low <= 0) and bool(found.high >= 0)
        assert hits / 150 >= 0.93


def test_a_half_of_which_nothing_can_be_compared_says_nothing():
    gain = gain_of_held_half(reading([[-9, -9]]), reading([[-3, -3]])).isel(fact=[])
    found = excess(gain, {"never": gain})
    assert found.estimate.isnull().all() and (found.n == 0).all()


def test_readings_of_other_values_are_refused():
    other = reading([[-4, -4]])
    other["value"][0, 0] = "3"
    with pytest.raises(ReadingError, match="differ in value"):
        gain_of_held_half(reading([[-9, -9]]), other)
