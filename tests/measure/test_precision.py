"""One correction under several precisions: changes against float32 by hand, counts, coverage, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.erase import erase_index
from mechmask.measure.normalised import difference_of_ratios, group_normalised, normalised_difference
from mechmask.measure.precision import precision_overview, precision_table
from mechmask.measure.statistics import proportion_interval
from mechmask.measure.summary import overview

N, N_CONTROL, N_NEVER, ROUTES = 6, 3, 12, ["old", "new", "distractor_0", "distractor_1", "distractor_2"]


def reading(seed, old, shift=0.0):
    """Contradicted facts with old at ``old``, each with two pseudo-subjects; ``shift`` moves old, fact by fact."""
    rng = np.random.default_rng(seed)
    roles = ["contradicted"] * N + ["control"] * N_CONTROL + ["never"] * N_NEVER
    values = -14 + rng.normal(0, 1, (len(roles), len(ROUTES)))
    values[:N, 0] = old + rng.normal(0, 1, N) + shift
    values[:, 1] = -20 if old > -5 else -0.1
    stands_for = [""] * (N + N_CONTROL) + [f"f{i % N}" for i in range(N_NEVER)]
    coords = {
        "fact": [f"f{i}" for i in range(len(roles))],
        "role": ("fact", roles),
        "stands_for": ("fact", stands_for),
        "route": ROUTES,
    }
    return xr.Dataset({"logprob": (("fact", "route"), values)}, coords, {"score": "sequence"})


@pytest.fixture(scope="module")
def results():
    shifts = {"float32": 0.0, "bfloat16": 0.01, "int8": -0.4, "nf4": np.linspace(-9, 2, N)}
    return {name: erase_index(reading(1, -1), reading(2, -9, shift)) for name, shift in shifts.items()}


def test_changes_are_against_float32_in_pairs(results):
    table = precision_table(results)
    assert table.precision.values.tolist() == list(results)
    change = table.trace_change.sel(precision="nf4").values
    np.testing.assert_allclose(change, np.linspace(-9, 2, N), atol=1e-12)
    found = stats.ttest_1samp(change, 0).confidence_interval(0.95)
    bounds = [float(table[f"mean_trace_change_{end}"].sel(precision="nf4")) for end in ("low", "high")]
    np.testing.assert_allclose(bounds, [found.low, found.high])
    assert float(table.trace_change.sel(precision="float32").max()) == 0
    for name, result in results.items():
        assert float(table.group_normalised.sel(precision=name)) == group_normalised(result).estimate


def test_verdicts_are_counted_where_they_changed_and_where_they_turned_round(results):
    table = precision_table(results)
    first = results["float32"].verdict.values
    for name, result in results.items():
        other = result.verdict.values
        assert int(table.n_changed.sel(precision=name)) == sum(first != other)
        turned = [a != b and "undecided" not in (a, b) for a, b in zip(first, other, strict=True)]
        assert int(table.n_reversed.sel(precision=name)) == sum(turned)
    assert int(table.n_changed.sel(precision="nf4")) > 0


def test_the_overview_has_a_row_for_each(results):
    rows = precision_overview(precision_table(results))
    assert rows.index.tolist() == list(results)
    for name, result in results.items():
        alone = overview(result).iloc[0]
        assert (rows.loc[name, "verdict"], rows.loc[name, "n"]) == (alone.verdict, N)
        for column in ("trace_after", "trace_after_low", "normalised", "normalised_high"):
            assert rows.loc[name, column] == alone[column]
    n = int(rows.loc["nf4", "n_changed"])
    assert rows.loc["nf4", "changed_share_high"] == proportion_interval(n, N).high
    assert rows.loc["float32", ["group_change", "n_changed"]].tolist() == [0, 0]


def test_without_float32_or_with_other_facts_it_is_refused(results):
    with pytest.raises(ReadingError, match="with float32, which is not among int8"):
        precision_table({"int8": results["int8"]})
    with pytest.raises(ReadingError, match="A comparison of precisions"):
        precision_table({**results, "nf4": results["nf4"].isel(fact=slice(1, None))})
    with pytest.raises(ReadingError, match="needs trace_change"):
        precision_overview(results["nf4"].expand_dims(precision=["nf4"]))


def pair(before, after):
    return [
        xr.Dataset({"trace_before": ("fact", b), "trace_after": ("fact", a)})
        for b, a in zip(before, after, strict=True)
    ]


def test_the_difference_of_two_groups_is_the_limit_of_a_jackknife():
    """Linearised errors are those of leaving one fact out, to second order: at 400 facts to a thousandth."""
    rng = np.random.default_rng(3)
    before = 15 + rng.normal(0, 2, (2, 400))
    after = 0.4 * before + rng.normal(0, 2, before.shape)
    found = normalised_difference(*pair(before, after))

    def difference(kept):
        ratios = after[:, kept].mean(1) / before[:, kept].mean(1)
        return ratios[0] - ratios[1]

    every = np.ones(400, bool)
    left_out = [difference(every & (np.arange(400) != i)) for i in range(400)]
    error = np.sqrt(399 / 400 * np.square(np.subtract(left_out, np.mean(left_out))).sum())
    assert found.estimate == pytest.approx(difference(every))
    assert (found.high - found.low) / 2 == pytest.approx(stats.t.ppf(0.975, 399) * error, rel=2e-3)


@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("left", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", [6, 12, 24])
def test_coverage_of_the_difference(n, left, shift):
    """20,000 draws, standard error 0.0015."""
    rng = np.random.default_rng(0)
    before = 15 + rng.normal(0, 2, (20_000, n))
    after = left * before + rng.normal(0, 2, before.shape)
    (b0, b1), (a0, a1) = (of + rng.normal(0, 1, (2, *of.shape)) for of in (before, after))
    _, low, high = difference_of_ratios(b0, a0, b1, a1 + shift)
    truth = -shift / 15
    assert np.mean((low <= truth) & (truth <= high)) == pytest.approx(0.95, abs=0.006)


def test_draws_are_the_observations_where_there_are_several():
    rng = np.random.default_rng(0)
    before, after = 15 + rng.normal(0, 2, (2, 12)), 5 + rng.normal(0, 2, (2, 12))
    seeds = {"seed": ("fact", np.repeat(range(3), 4))}
    found = normalised_difference(*(one.assign_coords(seeds) for one in pair(before, after)))
    means = normalised_difference(*pair(before.reshape(2, 3, 4).mean(2), after.reshape(2, 3, 4).mean(2)))
    assert found[:3] == pytest.approx(means[:3]) and found.n == 12


def test_what_was_not_read_is_left_out_and_what_was_never_known_has_no_ratio():
    before, after = np.array([[9.0, 11, 10], [9, 11, 10]]), np.array([[3.0, 4, np.nan], [3, 5, 6]])
    assert normalised_difference(*pair(before, after)).n == 2
    assert np.isnan(normalised_difference(*pair(-before, after))[:3]).all()
    assert np.isnan(normalised_difference(*pair(before[:, :1], after[:, :1]))[1:3]).all()
