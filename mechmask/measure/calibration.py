"""Which statistic tells that a model knew: every candidate on models whose truth is known by construction.

Numbers only; the models are those of ``study/protocols/calibrate.py``. A pool that knows is held against all that never
knew, fact by fact and model by model, with the draw of facts as the cluster (Dorna et al. 2025, sec. 4, where the unit
is the model). Candidates of every kind stand in one table: ``pool_scores`` makes its rows from log-probabilities at the
output, ``inner_scores`` from readings below it, ``savings_scores`` from relearning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import pandas as pd
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.correlation import Correlation, spearman
from mechmask.measure.discrimination import auroc, clustered_auroc
from mechmask.measure.old_value import STATISTICS, statistic_of_old
from mechmask.measure.reading import require

PHRASINGS = ("prompt", "taught", "untaught", "all")
REFERENCE = "never"

INDEX, SAVINGS = "erase_index", "savings"
"""Candidates that are no statistic of one reading: the paper's index, and steps to relearn."""

PREFERENCE = ("geometric_standing", "median_standing", "log_odds", "standing", "logprob")
"""Of equals the first: a mean over all distractors, one of them, no distractors, the luckiest distractor, the raw."""

_WHAT = "A calibration"


def pool_scores(
    doses: xr.Dataset, *, seed: int, knowing: Sequence[str], taught_phrasings: int, treatment: str = "contradicted"
) -> pd.DataFrame:
    """Every candidate at the output, of every contradicted fact in every pool at every dose.

    Args:
        doses: readings of one draw, ``logprob[pool, step, fact, phrasing, route]`` in nats, the first step before the
            treatment.
        seed: of the draw.
        knowing: the pools that know the old values.
        taught_phrasings: how many of the phrasings were contradicted, the prompt first.
        treatment: what was done to the models.

    Returns:
        One row for each ``pool``, ``dose`` (number of the checkpoint; 0 is before the treatment), ``fact``,
        ``statistic``, ``phrasings`` and ``reference``: ``none``, or ``never``, less the same fact's value in the pool
        that was never told it. ``value`` is in the unit of the statistic, ``knows`` whether the pool does, ``seed`` the
        draw. Of the paper's erase index, minus the index: kept is more. It has no value where no control was read.

    Raises:
        ReadingError: if the reading lacks a dimension or the pool that was never told.
    """
    require(doses, _WHAT, variables=("logprob", "role"), dims=("pool", "step", "fact", "phrasing", "route"))
    chosen = {
        "prompt": slice(0, 1),
        "taught": slice(0, taught_phrasings),
        "untaught": slice(taught_phrasings, None),
        "all": slice(None),
    }
    parts = []
    for phrasings, selection in chosen.items():
        logprob = doses.logprob.isel(phrasing=selection).assign_coords(step=np.arange(doses.sizes["step"]))
        found = {statistic: statistic_of_old(logprob, statistic) for statistic in STATISTICS} | {INDEX: _index(logprob)}
        for statistic, value in found.items():
            contested = value.isel(fact=np.flatnonzero(doses.role.values == "contradicted"))
            parts.append(_rows_of(contested.rename(step="dose"), statistic, phrasings))
    return _labelled(parts, seed, knowing, treatment)


def inner_scores(depth: xr.Dataset, *, seed: int, knowing: Sequence[str], dose: int) -> pd.DataFrame:
    """Every candidate that reads below the output.

    Args:
        depth: ``[treatment, pool, fact]``, a variable for each candidate, larger where more is left; its attribute
            ``phrasings`` says over which it is read, the prompt by default.
        seed: of the draw.
        knowing: the pools that know the old values.
        dose: the number of the last checkpoint of the contradiction, after which it was read.

    Returns:
        Rows as those of ``pool_scores``; what was not read after a treatment has none.

    Raises:
        ReadingError: if the reading lacks the pool that was never told.
    """
    require(depth, _WHAT, dims=("treatment", "pool", "fact"))
    tables = []
    for treatment in map(str, depth.treatment.values):
        at = dose if treatment == "contradicted" else 1
        parts = [
            _rows_of(value.expand_dims(dose=[at]), str(statistic), value.attrs.get("phrasings", "prompt"))
            for statistic, value in depth.sel(treatment=treatment, drop=True).data_vars.items()
            if value.notnull().any()
        ]
        tables.append(_labelled(parts, seed, knowing, treatment))
    return pd.concat(tables, ignore_index=True)


def savings_scores(relearned: xr.Dataset, *, seed: int, knowing: Sequence[str], dose: int) -> pd.DataFrame:
    """Savings as a candidate: minus the optimizer steps until the old value is said again.

    A fact that is not said within the budget stands one step behind all that are.

    Args:
        relearned: what ``steps_until_said`` takes.
        seed: of the draw.
        knowing: the pools that know the old values.
        dose: the number of the last checkpoint of the contradiction, from which it was relearned.

    Returns:
        Rows as those of ``pool_scores``, in steps.
    """
    steps = steps_until_said(relearned)
    censored = steps.where(np.isfinite(steps), float(relearned.step.max()) + 1)
    return _labelled([_rows_of(-censored.expand_dims(dose=[dose]), SAVINGS, "prompt")], seed, knowing, "contradicted")


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
        A row for each ``treatment``, ``statistic``, ``reference``, ``phrasings``, ``dose`` and ``known`` pool (``any``:
        all of them together): ``auroc``, ``low``, ``high`` and the number ``n`` of observations.

    Raises:
        ReadingError: if the unit is not known.
    """
    if unit not in ("fact", "model"):
        raise ReadingError(f"No unit of discrimination is called {unit!r}. Give fact or model.")
    keys = ["treatment", "statistic", "reference", "phrasings", "dose"]
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


def chosen_statistic(scores: pd.DataFrame, *, reference: str = REFERENCE, tolerance: float = 0.01) -> str:
    """The statistic that the choosing draws choose, by the rule of this project.

    Of the statistics in nats, held against ``reference`` and averaged over all phrasings: the one with the largest
    AUROC by fact, in the mean over the doses after the contradiction began and over the knowing pools one
    by one, so that the hard pool counts as much as the easy ones. Those within ``tolerance`` of it count as equal, and
    of equals the first in the order of ``PREFERENCE`` is taken, which is that of fewest things to go wrong.

    Args:
        scores: what ``pool_scores`` returned, of the choosing draws below each other.
        reference: ``never``, of which the trace is made, or ``none`` for a reading without any reference, which the
            same rule chooses by itself.
        tolerance: in AUROC.

    Returns:
        The name of the statistic.
    """
    means = {}
    for statistic in PREFERENCE:
        labels = {"statistic": statistic, "phrasings": "all", "reference": reference}
        rows = rows_with(scores, treatment="contradicted", **labels)
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


def widest(table: pd.DataFrame) -> pd.DataFrame:
    """Of every candidate the rows over all phrasings, or on the prompt where it reads nothing else."""
    several = rows_with(table, phrasings="all")
    alone = sorted(set(table["statistic"]) - set(several["statistic"]))
    return pd.concat([several, *(rows_with(table, phrasings="prompt", statistic=name) for name in alone)])


def rows_with(table: pd.DataFrame, **labels: object) -> pd.DataFrame:
    """The rows that have these labels."""
    chosen = np.ones(len(table), dtype=bool)
    for name, label in labels.items():
        chosen &= np.asarray(table[name] == label)
    return table.loc[chosen]


def steps_until_said(relearned: xr.Dataset) -> xr.DataArray:
    """Savings: the optimizer steps until greedy decoding says the old value again (Ebbinghaus 1885).

    Args:
        relearned: ``recalled[pool, step, fact, route]`` while the old values are taught again; pools may end earlier
            than others, with missing values after.

    Returns:
        ``[pool, fact]``, steps; infinite where the budget ended first.
    """
    said = relearned.recalled.sel(route="old", drop=True).fillna(0).astype(bool)
    first = xr.where(said, relearned.step, np.inf).min("step")
    return first.rename("steps_until_said")


def savings_agreement(scores: pd.DataFrame) -> dict[str, Correlation]:
    """Rank correlation of every unpaired candidate after the last dose with the savings of the same fact.

    Savings are counted in optimizer steps, so that no log-probability enters them. Over facts of all pools and draws,
    the draw as cluster.

    Args:
        scores: what ``pool_scores``, ``inner_scores`` and ``savings_scores`` returned, of one or more draws.

    Returns:
        By candidate, those over all phrasings where there are several: positive where a fact of which more is left is
        sooner said again.
    """
    unpaired = rows_with(scores, treatment="contradicted", reference="none")
    saved = rows_with(unpaired, statistic=SAVINGS)
    last = widest(rows_with(unpaired, dose=saved["dose"].max()))
    keys = ["seed", "pool", "fact"]
    found = {}
    for statistic, rows in last.groupby("statistic", sort=False):
        if statistic == SAVINGS:
            continue
        pairs = rows.merge(saved[[*keys, "value"]], on=keys, suffixes=("", "_saved"))
        values, steps = (np.asarray(pairs[name]) for name in ("value", "value_saved"))
        found[str(statistic)] = spearman(values, steps, cluster=np.asarray(pairs["seed"]))
    return found


def _index(logprob: xr.DataArray) -> xr.DataArray:
    """Minus the paper's erase index of every fact against the first step (nats)."""
    old = logprob.sel(route="old", drop=True).mean("phrasing")
    fall = old.isel(step=0, drop=True) - old
    return fall.isel(fact=np.flatnonzero(logprob.role.values == "control")).mean("fact") - fall


def _rows_of(value: xr.DataArray, statistic: str, phrasings: str) -> pd.DataFrame:
    """``[pool, dose, fact]`` as rows, by itself and less the pool that was never told; that pool only by itself."""
    if REFERENCE not in value.pool.values:
        raise ReadingError(f"{_WHAT} needs the pool {REFERENCE!r}, which this reading lacks.")
    others = value.sel(pool=value.pool != REFERENCE) - value.sel(pool=REFERENCE, drop=True)
    parts = []
    for reference, of in (("none", value), (REFERENCE, others)):
        plain = of.rename("value").reset_coords(drop=True).to_dataframe().reset_index()
        labels = {"statistic": statistic, "phrasings": phrasings, "reference": reference}
        parts.append(plain[["pool", "dose", "fact", "value"]].assign(**labels))
    return pd.concat(parts, ignore_index=True)


def _labelled(parts: Sequence[pd.DataFrame], seed: int, knowing: Sequence[str], treatment: str) -> pd.DataFrame:
    table = pd.concat(parts, ignore_index=True).dropna(subset="value", ignore_index=True)
    return table.assign(knows=table["pool"].isin(list(knowing)), seed=seed, treatment=treatment)
