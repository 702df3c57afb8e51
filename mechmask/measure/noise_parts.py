"""Where the noise of a never-known reading comes from: histories, phrasings, distractors (two-way random effects).

Two models that never knew a fact should read it alike. What they differ in is crossed over phrasings and distractors,
so that the mean squares of each fact (Searle, Casella and McCulloch 1992, ch. 4) say what more of either averages out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.contest import distractors_of
from mechmask.measure.error_rates import REFERENCES, TOLD
from mechmask.measure.old_value import geometric_standing, logprob_of_old
from mechmask.measure.reading import require
from mechmask.measure.twin_design import Expected


def noise_parts(logprob: xr.DataArray) -> dict[str, float]:
    """Variance components of the geometric standing of facts that none of the histories knew.

    Args:
        logprob: ``[pool, fact, phrasing, route]`` in nats, of two histories or more, after the same treatment. A
            phrasing or a distractor that some fact lacks is left out.

    Returns:
        ``history``, ``phrasing`` and ``distractor``: standard deviations in nats of what one history, one phrasing of
        it and one distractor of it add to a reading; 0 where chance makes a component negative.

    Raises:
        ReadingError: if there are fewer than two histories, phrasings or distractors.
    """
    old = logprob_of_old(logprob)
    logprob = logprob.isel(phrasing=np.flatnonzero(old.notnull().all([dim for dim in old.dims if dim != "phrasing"])))
    rivals = distractors_of(logprob)
    whole = rivals.notnull().all([dim for dim in rivals.dims if dim != "route"])
    readings = (logprob_of_old(logprob) - rivals.isel(route=np.flatnonzero(whole))).transpose(
        "pool", "fact", "phrasing", "route"
    )
    n_histories, _, n_phrasings, n_distractors = readings.shape
    if min(n_histories, n_phrasings, n_distractors) < 2:
        raise ReadingError(
            f"The parts of the noise need two histories, phrasings and distractors at least; these readings have "
            f"{n_histories}, {n_phrasings} and {n_distractors}."
        )
    values = readings.values
    apart = values - values.mean(0)
    freedom = n_histories - 1

    def square(effect: np.ndarray) -> float:
        """Mean over facts of the variance of an effect over histories, summed over its levels."""
        return float((effect**2).sum(0).reshape(values.shape[1], -1).sum(-1).mean()) / freedom

    means = apart.mean((2, 3), keepdims=True)
    rows, columns = apart.mean(3, keepdims=True) - means, apart.mean(2, keepdims=True) - means
    rest = square(apart - means - rows - columns) / ((n_phrasings - 1) * (n_distractors - 1))
    by_phrasing = n_distractors * square(rows) / (n_phrasings - 1)
    by_distractor = n_phrasings * square(columns) / (n_distractors - 1)
    averaged = (by_phrasing + by_distractor - rest) / (n_phrasings * n_distractors)
    variances = {
        "history": square(means) - averaged,
        "phrasing": (by_phrasing - rest) / n_distractors,
        "distractor": (by_distractor - rest) / n_phrasings,
    }
    return {name: float(np.sqrt(max(variance, 0.0))) for name, variance in variances.items()}


def expected_of(draws: Sequence[xr.Dataset]) -> Expected | None:
    """What a study of twins may expect, from draws of a calibration: what power is reckoned with.

    Args:
        draws: ``logprob[pool, step, fact, phrasing, route]`` in nats, the first step before the contradiction, with the
            pools ``verbatim``, ``never`` and ``other_entities``.

    Returns:
        The trace of what was told verbatim, before the contradiction, and its spread over the facts of a draw, less the
        noise (a shift that all facts of one history share is no part of either); the parts of the noise after the last
        dose, their variances averaged over draws. ``None`` where the mean trace is not above zero.

    Raises:
        ReadingError: if a pool is missing, or there are too few facts, phrasings or distractors.
    """
    traces, parts, noise = [], [], []
    for doses in draws:
        what = "What is expected of twins"
        require(doses, what, variables=("logprob", "role"), dims=("pool", "step", "fact", "phrasing", "route"))
        missing = {TOLD, *REFERENCES} - set(doses.pool.values.tolist())
        if missing:
            raise ReadingError(f"{what} needs the pool {min(missing)!r}, which this reading lacks.")
        logprob = doses.logprob.isel(fact=np.flatnonzero(doses.role.values == "contradicted"))
        before = geometric_standing(logprob.isel(step=0)).mean("phrasing")
        never = before.sel(pool=list(REFERENCES))
        traces.append((before.sel(pool=TOLD, drop=True) - never.mean("pool")).values)
        apart = never - never.mean("fact")  # what all facts of a history share does not spread them
        n = apart.sizes["fact"]
        noise.append(float(apart.var("pool", ddof=1).mean()) * n / (n - 1))
        parts.append(noise_parts(logprob.isel(step=-1).sel(pool=list(REFERENCES))))
    together = np.concatenate(traces)
    if together.mean() <= 0:
        return None
    error = np.mean(noise) * (1 + 1 / len(REFERENCES))
    variances = {name: np.mean([part[name] ** 2 for part in parts]) for name in parts[0]}
    return Expected(
        trace_before=float(together.mean()),
        spread=float(np.sqrt(max(np.mean([of.var(ddof=1) for of in traces]) - error, 0.0))),
        **{f"noise_{name}": float(np.sqrt(variance)) for name, variance in variances.items()},
    )
