"""Finding 5: the old route stays competitive deep into the network, and the correction is written late."""

from __future__ import annotations

from functools import partial

import numpy as np
import xarray as xr

from mechmask.measure.statistics import Interval, over_facts
from mechmask.measure.where import evidence_share_last_third, layers_computed
from mechmask.study.draws import DrawnResults
from mechmask.study.findings.finding import Claim, Measured, draws_of


def _mean(values: xr.DataArray, note: str = "") -> Measured:
    mean = over_facts(values)
    n = int(values.notnull().sum())
    return Measured(Interval(float(mean.estimate), float(mean.low), float(mean.high), n), draws_of(values), note)


def _on_prompts(results: DrawnResults, state: str) -> xr.Dataset:
    return results.reading("results/depth").sel(state=state, phrasing=0, drop=True)


def _commit(results: DrawnResults) -> Measured:
    depth = _on_prompts(results, "finetune")
    committed = results.erase.commit_layer.sel(state="finetune", drop=True)
    none = int(committed.isnull().sum())
    return _mean(committed / int(depth.layer[-1]), f"{none} facts never commit" if none else "")


def _computed(results: DrawnResults) -> Measured:
    computed = layers_computed(_on_prompts(results, "before"), "old")
    return _mean(computed / computed.attrs["n_layers"])


def _last_third(results: DrawnResults) -> Measured:
    """The median of each draw: a fact whose final margin hardly changed has a share of any size."""
    before, after = (_on_prompts(results, state) for state in ("before", "finetune"))
    medians = evidence_share_last_third(before, after).groupby("seed").median()
    if medians.sizes["seed"] < 2:
        return Measured(Interval(float(medians.mean()), np.nan, np.nan, 1), "draw", "one draw has no interval")
    mean = over_facts(medians.rename(seed="fact"))
    interval = Interval(float(mean.estimate), float(mean.low), float(mean.high), medians.sizes["seed"])
    return Measured(interval, "draws, the median fact of each")


def _claims(part: str, facts: str) -> list[Claim]:
    claim = partial(Claim, 5, part, facts)
    return [
        claim(
            *("new leads for good only in the last third", "from layer 25 of 36 (Qwen2.5-3B, tuned lens)"),
            *("commit layer of new, by height", "ratio", _commit),
            above=2 / 3,
        ),
        claim(
            *("before, old is computed at nearly every layer", "35 of 36 layers (Qwen2.5-3B, tuned lens)"),
            *("layers at which old leads before, by height", "ratio", _computed),
            above=0.9,
        ),
        claim(
            *("the correction is written in the last layers", "almost all in the last 10 of 36"),
            *("share of the change in margin that the last third adds", "ratio", _last_third),
            above=0.5,
        ),
    ]


CLAIMS = [*_claims("mask", "taught"), *_claims("mask_known", "known")]
