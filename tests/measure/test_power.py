"""Power against simulated studies that the real verdict judges, against normal integrals, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.normalised import group_normalised, normalised
from mechmask.measure.power import fact_power, group_power
from mechmask.measure.statistics import proportion_interval
from mechmask.measure.trace import twin_trace
from mechmask.measure.twin_design import Expected, TwinDesign
from mechmask.measure.verdict import DECIDED, judge, reason_of

VERDICTS = ("masked", "erased", "suppressed")


def _reading(rng, design, expected, knew, traces):
    """Log-probabilities ``[twin, fact, phrasing, route]``; noise of histories, phrasings and distractors added."""
    n_twins, n_facts = knew.shape
    history = rng.normal(0, expected.noise_history, (n_twins, n_facts, 1))
    phrasing = rng.normal(0, expected.noise_phrasing, (n_twins, n_facts, design.phrasings))
    rivals = rng.normal(-9, expected.noise_distractor, (n_twins, n_facts, 1, design.distractors))
    old = -9 + (knew * traces)[..., None] + history + phrasing
    rivals = np.broadcast_to(rivals, (*old.shape, design.distractors))
    table = np.concatenate([old[..., None], np.full((*old.shape, 1), -0.1), rivals], axis=-1)
    routes = ["old", "new", *(f"distractor_{i}" for i in range(design.distractors))]
    facts = [f"f{i}" for i in range(n_facts)]
    return xr.DataArray(table, {"fact": facts, "route": routes}, ("twin", "fact", "phrasing", "route"))


def _simulated(share, design, expected, n_studies, seed=0):
    """Shares of facts ``[study, verdict]`` and the verdict on the group of every study, by the functions of a study."""
    rng = np.random.default_rng(seed)
    n = design.facts
    share_of = np.arange(n) % design.twins
    knew = np.zeros((design.twins * design.replicates, n + design.never), dtype=bool)
    knew[:, :n] = share_of == np.arange(len(knew))[:, None] % design.twins
    labelled = xr.DataArray(knew, {"fact": [f"f{i}" for i in range(knew.shape[1])]}, ("twin", "fact"))
    level = 1 - 2 * design.alpha
    facts, groups = [], []
    for _ in range(n_studies):
        traces = np.concatenate([rng.normal(expected.trace_before, expected.spread, n), np.zeros(design.never)])
        before, after = (
            twin_trace(_reading(rng, design, expected, knew, of * traces), labelled, level=level) for of in (1, share)
        )
        ratio = normalised(before, after, level)
        taken = xr.ones_like(before.trace, dtype=bool)
        verdicts = judge(before, ratio, taken, design.margin_share).verdict.values
        facts.append([np.mean(verdicts == verdict) for verdict in VERDICTS])
        table = xr.Dataset(
            {"trace_before": before.trace, "trace_after": after.trace, "shared_error": 0.0, "n_never": after.n_never}
        )
        group = group_normalised(table, level)
        groups.append(DECIDED.get(str(reason_of(np.array(group.low), np.array(group.high), design.margin_share)), ""))
    return np.array(facts), groups


SETTINGS = {
    "few facts, two twins": (0.0, TwinDesign(facts=4, never=6), Expected(noise_history=1.0, spread=3.0)),
    "many facts, two twins": (0.0, TwinDesign(facts=40, never=4), Expected(spread=8.0)),
    "three twins, no never": (1.0, TwinDesign(facts=9, never=0, twins=3), Expected(noise_history=4.0)),
    "replicates": (0.1, TwinDesign(facts=6, never=0, replicates=4), Expected(spread=2.0)),
    "hardly known": (1.0, TwinDesign(facts=12), Expected(trace_before=8.0, spread=4.0)),
    "on the margin": (0.25, TwinDesign(facts=8, never=8), Expected(noise_history=1.0, spread=8.0)),
    "suppressed": (-0.6, TwinDesign(facts=6, phrasings=1, distractors=1), Expected(spread=4.0)),
    "phrasings and distractors rule": (
        0.6,
        TwinDesign(facts=6, phrasings=2, distractors=3, alpha=0.1, margin_share=0.4),
        Expected(noise_history=0.0, noise_phrasing=6.0, noise_distractor=6.0),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_it_is_what_the_verdict_does_in_simulated_studies(setting):
    share, design, expected = SETTINGS[setting]
    facts, groups = _simulated(share, design, expected, n_studies=120)
    fact, group = fact_power(share, design, expected), group_power(share, design, expected)
    for i, verdict in enumerate(VERDICTS):
        error = facts[:, i].std(ddof=1) / math.sqrt(len(facts))  # facts of a study share their noise estimate
        assert facts[:, i].mean() == pytest.approx(getattr(fact, verdict), abs=4 * error + 0.005)
        fell = proportion_interval(groups.count(verdict), len(groups), level=0.999)
        assert fell.low - 0.001 <= getattr(group, verdict) <= fell.high + 0.001


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.0, -0.5])
def test_with_known_noise_a_fact_is_a_normal_integral(share):
    """Ten thousand never facts, one trace: the sample means on a fine grid of the plane, nothing estimated."""
    design, expected = TwinDesign(never=10_000), Expected(spread=0.0, trace_before=12.0)
    error, m, z = expected.error(design), 0.25, stats.norm.ppf(0.95)
    grid = np.linspace(-8, 8, 1601)
    weight = stats.norm.pdf(grid) * (grid[1] - grid[0])
    before, after = 12 + error * grid[:, None], 12 * share + error * grid
    half = z * error * math.sqrt(1 + m**2)
    known = before > z * error
    regions = {
        "masked": known & (after - m * before > half),
        "erased": known & (after - m * before < -half) & (after + m * before > half),
        "suppressed": known & (after + m * before < -half),
    }
    found = fact_power(share, design, expected)
    for verdict, region in regions.items():
        assert getattr(found, verdict) == pytest.approx(weight @ region @ weight, abs=0.005)


@pytest.mark.parametrize("n", [2, 3, 8, 50])
def test_a_group_that_is_surely_known_is_a_noncentral_t(n):
    """Masked is then one t test of ``after - m * before``, whose power scipy has."""
    design, expected, share = TwinDesign(facts=n), Expected(trace_before=4000.0, spread=40.0, noise_history=200.0), 0.3
    m, error = 0.25, expected.error(design)
    deviation = math.sqrt(((share - m) * 40.0) ** 2 + error**2 * (1 + m**2))
    t = stats.t.ppf(0.95, n - 1)
    power = stats.nct.sf(t, n - 1, (share - m) * 4000.0 * math.sqrt(n) / deviation)
    assert group_power(share, design, expected).masked == pytest.approx(power, abs=0.003)


@pytest.mark.parametrize("of", [fact_power, group_power])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_on_the_margin_a_wrong_verdict_has_its_rate_at_most(of, alpha):
    for design in (TwinDesign(facts=3, never=2), TwinDesign(facts=30, twins=3), TwinDesign(replicates=8)):
        for share in (0.25, -0.25):
            found = of(share, design.model_copy(update={"alpha": alpha}), Expected(noise_history=0.5))
            assert found.wrong < alpha + 0.002


def test_a_share_and_its_opposite_mirror_each_other():
    """Masked and suppressed trade places: the region has one axis."""
    up, down = fact_power(0.7), fact_power(-0.7)
    assert (up.masked, up.erased) == pytest.approx((down.suppressed, down.erased))


@pytest.mark.parametrize("of", [fact_power, group_power])
def test_more_of_anything_decides_more(of):
    base = of(0.0).right
    for more in ({"twins": 4}, {"replicates": 3}, {"phrasings": 16}, {"distractors": 64}):
        assert of(0.0, TwinDesign(**more)).right > base
    assert of(0.0, None, Expected(noise_history=1.0)).right > base > of(0.0, None, Expected(noise_history=4.0)).right


def test_without_a_second_reading_of_a_never_known_fact_no_fact_is_decided_but_the_group_is():
    design = TwinDesign(never=0)
    assert design.freedom == 0
    assert fact_power(1.0, design) == (0, 0, 0, 0, 0)
    assert group_power(1.0, design).right > 0.9


def test_one_fact_is_no_group():
    assert group_power(1.0, TwinDesign(facts=1)) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("of", [fact_power, group_power])
@pytest.mark.parametrize("share", [math.nan, math.inf])
def test_a_share_that_is_no_number_is_refused(of, share):
    with pytest.raises(ReadingError, match="cannot be left"):
        of(share)
