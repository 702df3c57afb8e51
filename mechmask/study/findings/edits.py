"""Finding 3: the diagnostic discriminates, a localized edit deletes; here on the same facts of the same model."""

from __future__ import annotations

from functools import partial

import xarray as xr

from mechmask.measure.contrast import share_led_by_old
from mechmask.measure.normalised import group_normalised
from mechmask.measure.pool import pooled
from mechmask.measure.statistics import Interval, over_facts, proportion_interval
from mechmask.measure.verdict import MARGIN_SHARE
from mechmask.study.draws import DrawnResults
from mechmask.study.findings.finding import Claim, Measured, draws_of
from mechmask.study.findings.masking import mean_index

EDIT, TUNING = "ft_l", "lora"
_BETWEEN_REGIMES = 3.0  # nats: the paper's fine-tuning stays below 2.7, its edits begin at 13.6
_NONE_OF_TWELVE = proportion_interval(0, 12).high


def _index(results: DrawnResults) -> Measured:
    """With all its steps, as the paper has it."""
    one = results.reading("results/driven_on").sel(state=EDIT)
    return Measured(mean_index(one), draws_of(one), f"new leads on {int(one.took.sum())} of {one.sizes['fact']} facts")


def _at_equal_success(results: DrawnResults) -> xr.Dataset:
    """The facts that both ways brought to the margin."""
    erase = results.erase.sel(state=[EDIT, TUNING])
    return erase.isel(fact=erase["index"].notnull().all("state").values.nonzero()[0])


def _further(results: DrawnResults) -> Measured:
    both = _at_equal_success(results)
    mean = over_facts(both["index"].sel(state=EDIT) - both["index"].sel(state=TUNING))
    interval = Interval(float(mean.estimate), float(mean.low), float(mean.high), both.sizes["fact"])
    return Measured(interval, draws_of(both), "facts that both brought to the margin")


def _left(results: DrawnResults, way: str) -> Measured:
    both = _at_equal_success(results)
    return Measured(group_normalised(both.sel(state=way)), draws_of(both))


def _rebound(results: DrawnResults, way: str) -> Measured:
    parts = {draw: table[["margin"]] for draw, table in results.each("results/rebound").items()}
    margin = pooled(parts).margin.sel(dose="matched", way=way)
    led = share_led_by_old((margin < 0).where(margin.notnull()))
    interval = Interval(float(led.share), float(led.share_low), float(led.share_high), int(led.n_probes))
    return Measured(interval, "probes", f"old leads at least once on {int(led.facts)} of {int(led.n)} facts")


_claim = partial(Claim, 3, "contrast", "known")
CLAIMS = [
    _claim(
        *("FT-L with all its steps collapses logp(old)", "-20, -13.6 at least (GPT-2 XL, 6 facts)"),
        *("erase index of FT-L", "nats", _index),
        above=_BETWEEN_REGIMES,
    ),
    _claim(
        *("FT-L takes more of logp(old) than fine-tuning where new leads by as much", "not measured"),
        *("erase index of FT-L less that of LoRA", "nats", _further),
        above=0,
    ),
    _claim(
        *("FT-L erases where new leads by as much", "erased on 6 of 6"),
        *("EI* of the group under FT-L", "ratio", partial(_left, way=EDIT)),
        above=1 - MARGIN_SHARE,
        below=1 + MARGIN_SHARE,
    ),
    _claim(
        *("fine-tuning masks where new leads by as much", "not measured"),
        *("EI* of the group under LoRA", "ratio", partial(_left, way=TUNING)),
        below=1 - MARGIN_SHARE,
    ),
    _claim(
        *("no paraphrase brings old back after FT-L", "0 of 12 probes"),
        *("share of probes on which old leads new", "share", partial(_rebound, way=EDIT)),
        below=_NONE_OF_TWELVE,
    ),
]
