"""Which statistic tells that a model knew: every candidate on models whose truth is known by construction.

Numbers only; the models are those of ``study/protocols/calibrate.py``. A pool that knows is held against all that never
knew, fact by fact and model by model, with the draw of facts as the cluster (Dorna et al. 2025, sec. 4, where the unit
is the model). Errors of the verdict come from states whose truth is known: a model that was left alone still knows, and
one that never knew stands for a perfect eraser.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import pandas as pd
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.discrimination import auroc, clustered_auroc
from mechmask.measure.old_value import STATISTICS, statistic_of_old
from mechmask.measure.reading import require

PHRASINGS = ("prompt", "taught", "untaught", "all")
REFERENCE = "never"

PREFERENCE = ("geometric_standing", "median_standing", "log_odds", "standing", "logprob")
"""Of equals the first: a mean over all distractors, one of them, no distractors, the luckiest distractor, the raw."""

_WHAT = "A calibration"


def pool_scores(doses: xr.Dataset, *, seed: int, knowing: Sequence[str], taught_phrasings: int) -> pd.DataFrame:
    """Every candidate of every contradicted fact in every pool at every dose.

    Args:
        doses: readings of one draw, ``logprob[pool, step, fact, phrasing, route]`` in nats.
        seed: of the draw.
        knowing: the pools that know the old values.
        taught_phrasings: how many of the phrasings were contradicted, the prompt first.

    Returns:
        One row for each ``pool``, ``dose`` (number of the checkpoint; 0 is before the contradiction), ``fact``,
        ``statistic``, ``phrasings`` and ``reference``: ``none``, or ``never``, less the same fact's value in the pool
        that was never told it. ``value`` is in the unit of the statistic, ``knows`` whether the pool does, ``seed`` the
        draw.

    Raises:
        ReadingError: if the reading lacks a dimension or the pool that was never told.
    """
    require(doses, _WHAT, variables=("logprob", "role"), dims=("pool", "step", "fact", "phrasing", "route"))
    if REFERENCE not in doses.pool.values:
        raise ReadingError(f"{_WHAT} needs the pool {REFERENCE!r}, which this reading lacks.")
    contested = doses.isel(fact=np.flatnonzero(doses.role.values == "contradicted"))
    chosen = {
        "prompt": slice(0, 1),
        "taught": slice(0, taught_phrasings),
        "untaught": slice(taught_phrasings, None),
        "all": slice(None),
    }
    parts = []
    for phrasings, selection in chosen.items():
        logprob = contested.logprob.isel(phrasing=selection).assign_coords(step=np.arange(doses.sizes["step"]))
        for statistic in STATISTICS:
            value = statistic_of_old(logprob, statistic)
            paired = value - value.sel(pool=REFERENCE, drop=True)
            parts += [
                _rows(of, statistic=statistic, phrasings=phrasings, reference=reference)
                for reference, of in (("none", value), (REFERENCE, paired))
            ]
    table = pd.concat(parts, ignore_index=True).query("reference == 'none' or pool != @REFERENCE")
    return table.assign(knows=table["pool"].isin(list(knowing)), seed=seed).reset_index(drop=True)


def discrimination(
    scores: pd.DataFrame, *, unit: str = "fact", level: float = 0.95, n_resamples: int = 199
) -> pd.DataFrame:
    """AUROC of every candidate, each knowing pool against all that never knew.

    Args:
        scores: what ``pool_scores`` returned, of one or more draws below each other.
        unit: ``fact``, or ``model``: the mean over the facts of one model.
        level: of the intervals, whose clusters are the draws.
        n_resamples: how often the draws are drawn for an interval; its error needs no more.

    Returns:
        A row for each ``statistic``, ``reference``, ``phrasings``, ``dose`` and ``known`` pool (``any``: all of them
        together): ``auroc``, ``low``, ``high`` and the number ``n`` of observations.

    Raises:
        ReadingError: if the unit is not known.
    """
    if unit not in ("fact", "model"):
        raise ReadingError(f"No unit of discrimination is called {unit!r}. Give fact or model.")
    keys = ["statistic", "reference", "phrasings", "dose"]
    if unit == "model":
        models = [*keys, "pool", "seed", "knows"]
        scores = scores.pivot_table(values="value", index=models, aggfunc="mean", sort=False).reset_index()
    rows = []
    for labels, group in scores.groupby(keys, sort=False):
        pools = [*group.loc[group["knows"], "pool"].unique()]
        for known in ("any", *pools):
            some = group if known == "any" else group[~group["knows"] | (group["pool"] == known)]
            values, knows, seeds = (np.asarray(some[column]) for column in ("value", "knows", "seed"))
            interval = clustered_auroc(values, knows, seeds, level, n_resamples=n_resamples)
            rows.append([*cast("tuple", labels), known, *interval])
    return pd.DataFrame(rows, columns=[*keys, "known", "auroc", "low", "high", "n"])


def chosen_statistic(scores: pd.DataFrame, *, tolerance: float = 0.01) -> str:
    """The statistic that the choosing draws choose, by the rule of this project.

    Of the statistics in nats, paired with the fact's never-knew reference and averaged over all phrasings: the one with
    the largest AUROC by fact, in the mean over the doses after the contradiction began and over the knowing pools one
    by one, so that the hard pool counts as much as the easy ones. Those within ``tolerance`` of it count as equal, and
    of equals the first in the order of ``PREFERENCE`` is taken, which is that of fewest things to go wrong.

    Args:
        scores: what ``pool_scores`` returned, of the choosing draws below each other.
        tolerance: in AUROC.

    Returns:
        The name of the statistic.
    """
    means = {}
    for statistic in PREFERENCE:
        rows = rows_with(scores, statistic=statistic, phrasings="all", reference=REFERENCE)
        means[statistic] = float(np.mean([*_aurocs(rows)]))
    best = max(means.values())
    return next(name for name in PREFERENCE if means[name] >= best - tolerance)


def _aurocs(rows: pd.DataFrame) -> Iterator[float]:
    """The AUROC of every knowing pool at every dose after the contradiction began."""
    for dose in sorted(set(rows["dose"]) - {0}):
        at = rows_with(rows, dose=dose)
        never = np.asarray(at["value"])[~np.asarray(at["knows"])]
        for pool in at.loc[at["knows"], "pool"].unique():
            yield auroc(np.asarray(rows_with(at, pool=pool)["value"]), never).estimate


def rows_with(table: pd.DataFrame, **labels: object) -> pd.DataFrame:
    """The rows that have these labels."""
    chosen = np.ones(len(table), dtype=bool)
    for name, label in labels.items():
        chosen &= np.asarray(table[name] == label)
    return table.loc[chosen]


def steps_to_recall(relearned: xr.Dataset) -> xr.DataArray:
    """Savings: the optimizer steps until greedy decoding says the old value again (Ebbinghaus 1885).

    Args:
        relearned: ``recalled[pool, step, fact, route]`` while the old values are taught again; pools may end earlier
            than others, with missing values after.

    Returns:
        ``[pool, fact]``, steps; infinite where the budget ended first.
    """
    said = relearned.recalled.sel(route="old", drop=True).fillna(0).astype(bool)
    first = xr.where(said, relearned.step, np.inf).min("step")
    return first.rename("steps_to_recall")


def _rows(value: xr.DataArray, **labels: str) -> pd.DataFrame:
    plain = value.rename("value").rename(step="dose").reset_coords(drop=True).to_dataframe().reset_index()
    return plain[["pool", "dose", "fact", "value"]].assign(**labels)
