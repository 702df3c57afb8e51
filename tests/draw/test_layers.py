import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from mechmask.draw.check import drawn_facts
from mechmask.draw.layers import commits_along, height, make_room_for_rug, margin_commits, mark_commits
from mechmask.draw.style import NEW


def contest(margins, along="layer", places=None):
    margins = np.asarray(margins, dtype=float)
    places = range(margins.shape[1]) if places is None else places
    return xr.DataArray(margins, {"fact": range(len(margins)), along: list(places)}, ("fact", along))


def test_commit_layers_of_margins_and_along_other_places():
    margins = [[1, -1, 2, 3], [1, 1, 1, 1], [1, 1, 1, -1], [-1, -1, -1, 1], [1, np.nan, 1, 1], [1, 1, 1, 0]]
    np.testing.assert_array_equal(margin_commits(contest(margins)), [2, 0, np.nan, 3, 2, np.nan])
    sparse = contest(margins, places=[3, 6, 9, 12])
    np.testing.assert_array_equal(margin_commits(sparse), [9, 3, np.nan, 12, 9, np.nan])
    by_depth = contest(margins, "depth", [0.1, 0.3, 0.5, 1.0])
    np.testing.assert_array_equal(margin_commits(by_depth, "depth"), [0.5, 0.1, np.nan, 1.0, 0.5, np.nan])


def test_every_route_contests_where_all_were_read(two_readings):
    logprob = two_readings[1].logprob
    expected = [
        next((k for k in range(31) if (fact[1, k:] > np.delete(fact, 1, 0)[:, k:].max(0)).all()), np.nan)
        for fact in logprob.values
    ]
    np.testing.assert_array_equal(commits_along(logprob, "layer"), expected)


def test_the_facts_drawn(depth_reading):
    phrased = xr.concat([depth_reading, depth_reading + 1], "phrasing")
    xr.testing.assert_identical(drawn_facts(phrased), depth_reading.isel(fact=slice(0, 10)))
    others = depth_reading.isel(fact=slice(10, None))
    xr.testing.assert_identical(drawn_facts(others), others)


@pytest.mark.parametrize(("depth", "expected"), [([0, 0.5, 1], 2), ([0, 0.25, 0.5], 4), (None, 2)])
def test_height_from_depth(depth, expected):
    reading = xr.Dataset(coords={"layer": [0, 1, 2]})
    reading = reading if depth is None else reading.assign_coords(depth=("layer", depth))
    assert height(reading) == expected
    assert height(reading.drop_vars("depth", errors="ignore").assign_coords(depth=0.3)) == 2


def test_ticks_at_one_layer_stand_in_a_pile_within_their_lane():
    axes = Figure().subplots()
    mark_commits(axes, np.array([3, 3, np.nan, 1, *[3] * 30]), NEW, label=", x", lane=(0.1, 0.2))
    (rug,) = axes.lines
    assert rug.get_xdata().tolist() == [1, *[3] * 32] and len(set(rug.get_ydata())) == 32
    assert min(rug.get_ydata()) == 0.1 and max(rug.get_ydata()) <= 0.2 + 1e-12
    axes.set_ylim(0, 8)
    make_room_for_rug([axes], 0.2)
    np.testing.assert_allclose(axes.get_ylim(), (-2, 8))
