"""Renewal: what old gains on new when a fact is asked in another context than the one in which it was contradicted.

The paper's renewal (2F, finding 6) with the control that it needs: a frame moves any contest a little, so what it does
to never-known facts is taken off, a difference in differences.
"""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.contest import margin
from mechmask.measure.reading import require, require_same
from mechmask.measure.statistics import Interval, mean_interval, proportion_interval

QUANTITIES = ("margin", "standing")
_WHAT = "Renewal"


def renewal(reference: xr.Dataset, test: xr.Dataset, taught_phrasings: int = 1, level: float = 0.95) -> xr.Dataset:
    """What the old value regains from one context to another, held against never-known facts.

    Args:
        reference: reading in the context of the contradiction, ``logprob[fact, phrasing, route]`` and
            ``standing[fact, phrasing]`` in nats.
        test: the same state and facts in another context.
        taught_phrasings: how many phrasings of a fact any training shows; the others are held out.
        level: of the intervals.

    Returns:
        Over ``quantity`` (``margin``: by how much new leads old less; ``standing``: by how much old stands higher) and
        ``asked`` (``prompt``, or ``held_out``, the mean of the phrasings that no training shows), in nats:
        ``regained[fact]`` of contradicted and never facts, ``excess[fact]``, that of a contradicted fact less the mean
        of never facts; ``mean``, ``never`` and ``difference``, the two means and the one less the other (Welch 1947),
        with their intervals; the counts ``n``, ``n_never`` and ``n_positive``, contradicted facts with an excess above
        zero, and ``positive``, their share with its exact interval, which takes the mean of the never facts as given;
        ``difference`` has the error of both. Intervals are ``_low`` and ``_high``.

    Raises:
        ReadingError: if the readings are not of the same facts, values and phrasings by the same score and model, or
            there is no contradicted or no never fact.
    """
    for name, reading in (("reference", reference), ("test", test)):
        variables, dims = ("logprob", "standing", "role"), ("fact", "phrasing", "route")
        require(reading, f"{_WHAT} ({name})", variables=variables, dims=dims)
    require_same(
        {"reference": reference, "test": test},
        _WHAT,
        dims=("fact", "phrasing", "route"),
        attributes=("score", "fingerprint"),
        coordinates=("role", "value"),
    )
    roles = reference.role.values
    if not {"contradicted", "never"} <= set(roles):
        raise ReadingError(f"{_WHAT} needs contradicted and never facts: a frame moves any contest. Give both roles.")
    regained = _regained(reference, test, taught_phrasings)
    contradicted, never = (regained.isel(fact=np.flatnonzero(roles == role)) for role in ("contradicted", "never"))
    excess = contradicted - never.mean("fact")
    taught = np.isin(roles, ["contradicted", "never"])
    return (
        xr.Dataset(
            {
                "regained": regained.isel(fact=np.flatnonzero(taught)),
                "excess": excess.reindex(fact=regained.fact[taught]),
            }
        )
        .assign_coords(role=("fact", roles[taught]))
        .assign(_means(contradicted, never, excess, level))
        .assign_attrs(level=level)
    )


def _regained(reference: xr.Dataset, test: xr.Dataset, taught_phrasings: int) -> xr.DataArray:
    """``[quantity, asked, fact]`` in nats: what old gained from the one context to the other."""
    gains = [margin(reference.logprob) - margin(test.logprob), test.standing - reference.standing]
    quantity = xr.DataArray(list(QUANTITIES), dims="quantity", name="quantity")
    gained = xr.concat([gain.reset_coords(drop=True) for gain in gains], quantity)
    held_out = gained.sel(phrasing=gained.phrasing >= taught_phrasings).mean("phrasing")
    asked = xr.DataArray(["prompt", "held_out"], dims="asked", name="asked")
    joined = xr.concat([gained.sel(phrasing=0, drop=True), held_out], asked)
    return joined.transpose("quantity", "asked", "fact")  # pyright: ignore[reportReturnType]


def _means(contradicted: xr.DataArray, never: xr.DataArray, excess: xr.DataArray, level: float) -> dict[str, tuple]:
    """Means with their intervals ``[quantity, asked]``, by name."""
    rows: dict[str, list[float]] = {}
    shape = contradicted.shape[:2]
    for place in np.ndindex(shape):
        ours, theirs = contradicted.values[place], never.values[place]
        over = excess.values[place]
        n_positive, n = int((over > 0).sum()), int((~np.isnan(over)).sum())
        intervals = {
            "mean": mean_interval(ours, level),
            "never": mean_interval(theirs, level),
            "difference": _welch(ours, theirs, level),
            "positive": proportion_interval(n_positive, n, level),
        }
        for name, interval in intervals.items():
            for end, value in (("", interval.estimate), ("_low", interval.low), ("_high", interval.high)):
                rows.setdefault(name + end, []).append(value)
        for name, value in (("n", n), ("n_never", intervals["never"].n), ("n_positive", n_positive)):
            rows.setdefault(name, []).append(value)
    return {name: (("quantity", "asked"), np.reshape(values, shape)) for name, values in rows.items()}


def _welch(ours: np.ndarray, theirs: np.ndarray, level: float) -> Interval:
    """Difference of two means with Welch's interval; NaN bounds where one of them has fewer than two facts."""
    ours, theirs = ours[~np.isnan(ours)], theirs[~np.isnan(theirs)]
    n = len(ours) + len(theirs)
    if not len(ours) or not len(theirs):
        return Interval(np.nan, np.nan, np.nan, n)
    estimate = float(ours.mean() - theirs.mean())
    if min(len(ours), len(theirs)) < 2:
        return Interval(estimate, np.nan, np.nan, n)
    with warnings.catch_warnings():  # of values that are all alike, whose interval has no width
        warnings.simplefilter("ignore", RuntimeWarning)
        bounds = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(level)
    return Interval(estimate, float(bounds.low), float(bounds.high), n)
