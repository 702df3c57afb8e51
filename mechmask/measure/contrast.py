"""Edited against fine-tuned at matched success: does a statistic of the old value tell which it was (paper, finding 3)?

Numbers only, from values of the same facts under several ways of changing them. A fact that a way did not bring to the
margin has no value there (NaN), and no pair.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.clustered_share import clustered_share
from mechmask.measure.discrimination import clustered_auroc
from mechmask.measure.sample import require_level
from mechmask.measure.statistics import over_facts, several_draws

ANY = "any"
"""All edits, or all trainings, together: on the facts that every way brought to the margin."""

_WHAT = "A contrast"
_COLUMNS = ("auroc", "auroc_low", "auroc_high", "difference", "difference_low", "difference_high", "n")


def auroc_of_ways(values: xr.DataArray, edited: Sequence[str], level: float = 0.95) -> xr.Dataset:
    """How surely every statistic tells a fact that was fine-tuned from the same fact edited.

    Args:
        values: statistics of the old value, larger where more of it is held, ``[way, statistic, fact]``; NaN where a
            fact was not brought to the margin.
        edited: which ways are edits; the others are trainings.
        level: of the intervals.

    Returns:
        Over ``edited``, ``tuned`` (each with ``any``) and ``statistic``: ``auroc`` with ``auroc_low`` and
        ``auroc_high``, the probability that a fine-tuned fact is above an edited one, whose interval draws facts (both
        of their values) as clusters, or whole draws where ``seed[fact]`` says that there are several: 0.5 says nothing,
        1 that every edit left less than every training; ``difference``
        with ``difference_low`` and ``difference_high``, fine-tuned less edited of the same fact, mean over facts and
        Student's interval, in the unit of the statistic; ``n``, facts that have both.

    Raises:
        ReadingError: if there is no edit or no training among the ways, or the level is not between 0 and 1.
    """
    require_level(level, _WHAT)
    ways = values.way.values.tolist()
    edits, tunings = [way for way in ways if way in edited], [way for way in ways if way not in edited]
    if not edits or not tunings:
        raise ReadingError(
            f"{_WHAT} is between edits and trainings; there are {len(edits)} and {len(tunings)}. Give one of each."
        )
    rows, columns = {ANY: edits, **{way: [way] for way in edits}}, {ANY: tunings, **{way: [way] for way in tunings}}
    statistics = values.statistic.values.tolist()
    found = np.array(
        [
            [
                [_pair(values.sel(statistic=name), row, column, level) for name in statistics]
                for column in columns.values()
            ]
            for row in rows.values()
        ]
    )
    coordinates = {"edited": list(rows), "tuned": list(columns), "statistic": statistics}
    result = xr.Dataset({name: (tuple(coordinates), found[..., i]) for i, name in enumerate(_COLUMNS)}, coordinates)
    return result.assign(n=result.n.astype(int)).assign_attrs(level=level)


def share_led_by_old(led: xr.DataArray, level: float = 0.95) -> xr.Dataset:
    """Where old is back: share of probes on which it leads, and of facts on which it leads on some.

    Args:
        led: whether old leads, ``[fact, probe]``, 0 or 1; NaN where there is no such probe. A fact that was read more
            than once is one cluster; of several draws (``seed[fact]``), the draw is.
        level: of the intervals.

    Returns:
        ``share`` of probes with ``share_low`` and ``share_high`` (clustered by fact or draw) and
        ``n_probes``; ``facts``, the number of facts of ``n`` on which old leads on at least one probe.

    Raises:
        ReadingError: if the level is not between 0 and 1.
    """
    rows = led.transpose("fact", "probe")
    there = rows.notnull().values
    labels = np.broadcast_to(rows.fact.values[:, None], there.shape)[there]
    leads = rows.values[there].astype(bool)
    clusters = np.broadcast_to(rows["seed"].values[:, None], there.shape)[there] if several_draws(rows) else labels
    interval = clustered_share(leads, clusters, level)
    numbers = {"share": interval.estimate, "share_low": interval.low, "share_high": interval.high}
    counts = {"n_probes": interval.n, "facts": len(set(labels[leads])), "n": len(set(labels))}
    return xr.Dataset({**numbers, **counts})


def first_choice(score: xr.DataArray) -> xr.DataArray:
    """The option that leads all others in multiple choice.

    Args:
        score: ``[..., option]`` in nats, NaN where there is no such option.

    Returns:
        ``[...]``, texts; empty where nothing was read.
    """
    read = score.notnull().any("option")
    best = score.fillna(-np.inf).argmax("option")
    names = np.where(read.values, score.option.values[best.values], "")
    return read.copy(data=names.astype(str)).rename("choice")


def _pair(values: xr.DataArray, edits: list[str], tunings: list[str], level: float) -> list[float]:
    """One AUROC and one paired difference, on the facts that have a value under all of these ways."""
    both = values.sel(way=[*edits, *tunings]).transpose("way", "fact")
    both = both.where(both.notnull().all("way"))
    there = both.notnull().all("way").values
    n = int(there.sum())
    if not n:
        return [np.nan] * 6 + [0]
    cluster = both["seed"].values[there] if several_draws(both) else np.arange(n)
    knows = np.repeat([False, True], [len(edits) * n, len(tunings) * n])
    auroc = clustered_auroc(both.values[:, there].ravel(), knows, np.tile(cluster, len(both)), level)
    difference = over_facts(both.sel(way=tunings).mean("way") - both.sel(way=edits).mean("way"), level)
    return [*auroc[:3], *(float(difference[end]) for end in ("estimate", "low", "high")), n]
