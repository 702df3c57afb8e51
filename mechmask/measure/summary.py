"""The one table: erase index beside commit layer, per fact; and how often which verdict fell."""

from __future__ import annotations

import pandas as pd
import xarray as xr

from mechmask.measure.reading import require
from mechmask.measure.statistics import mean_interval, proportion_interval

STATE_NAMES = {"finetune": "fine-tuning", "ft_l": "FT-L"}
VERDICTS = ("masked", "erased", "suppressed", "undecided")

_COLUMNS = (
    *("index", "index_low", "index_high", "paper_verdict"),
    *("normalised", "normalised_low", "normalised_high"),
    *("standing_before", "standing_after", "standing_low", "standing_high", "never_low", "never_high", "verdict"),
    *("commit_layer", "commit_low", "commit_high", "recalled"),
)


def summary(result: xr.Dataset) -> pd.DataFrame:
    """One row a fact (and state, where there are several).

    Args:
        result: what ``erase_index`` returned, or a study's ``erase``; columns that it lacks are left out.

    Returns:
        Erase index with interval and the paper's verdict, normalised index, standing before and after with the range
        that never-known facts span, the verdict, and the commit layer of the new value with its range over phrasings.
        Nats and layers.
    """
    require(result, "The summary", variables=("index", "verdict"), dims=("fact",))
    columns = [name for name in _COLUMNS if name in result]
    order = [str(dim) for dim in ("state", "fact") if dim in result.dims]
    table = result[columns].to_dataframe(dim_order=order)
    return table[columns]


def overview(result: xr.Dataset) -> pd.DataFrame:
    """One row a state: the mean index with interval and n, and the share of every verdict with its exact interval."""
    require(result, "The overview", variables=("index", "normalised", "verdict"), dims=("fact",))
    states = result.state.values if "state" in result.dims else [None]
    rows = {}
    for state in states:
        one = result if state is None else result.sel(state=state)
        index, normalised = mean_interval(one["index"].values), mean_interval(one.normalised.values)
        row: dict[str, object] = {
            "n": one.sizes["fact"],
            "index": index.estimate,
            "index_low": index.low,
            "index_high": index.high,
        }
        row |= {"normalised": normalised.estimate, "normalised_low": normalised.low, "normalised_high": normalised.high}
        for name in VERDICTS:
            share = proportion_interval(int((one.verdict == name).sum()), one.sizes["fact"])
            row |= {
                name: round(share.estimate * share.n),
                f"{name}_share_low": share.low,
                f"{name}_share_high": share.high,
            }
        rows["change" if state is None else str(state)] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("state")


def conclusion(result: xr.Dataset) -> str:
    """The outcome in two sentences: what the raw index says, and what the standing says."""
    require(result, "The conclusion", variables=("index", "paper_verdict", "verdict"), dims=("fact",))
    raw, standing = [], []
    for state, row in overview(result).to_dict("index").items():
        one = result if state == "change" else result.sel(state=state)
        erased = proportion_interval(int((one.paper_verdict == "erased").sum()), one.sizes["fact"])
        name = STATE_NAMES.get(str(state), "the change")
        raw.append(
            f"{name} erases {round(erased.estimate * erased.n)} of {erased.n} old values "
            f"(exact 95% interval {erased.low:.0%} to {erased.high:.0%}; mean index {row['index']:.1f} nats)"
        )
        counts = ", ".join(f"{row[verdict]} {verdict}" for verdict in VERDICTS if row[verdict])
        ratio = f"{row['normalised']:.2f} [{row['normalised_low']:.2f}, {row['normalised_high']:.2f}]"
        standing.append(f"{name}: {counts} (EI* {ratio})")
    return (
        f"By the raw erase index (cutoff {result.attrs['cutoff_nats']:g} nats) {' and '.join(raw)}. "
        "By the standing of the old value among values that were never taught, against facts that were never known, "
        f"{'; '.join(standing)}."
    )
