"""Finding 3: the diagnostic discriminates, a localized edit deletes; here on the same facts of the same model."""

from __future__ import annotations

from functools import partial

import xarray as xr

from mechmask.measure.clustered_share import share_of_facts
from mechmask.measure.contrast import auroc_of_ways, share_led_by_old
from mechmask.measure.normalised import group_normalised
from mechmask.measure.pool import only, pooled
from mechmask.measure.statistics import Interval, over_facts, proportion_interval
from mechmask.measure.verdict import MARGIN_SHARE
from mechmask.study.contrast_tables import BEFORE
from mechmask.study.draws import DrawnResults
from mechmask.study.findings.finding import Claim, Measured, draws_of
from mechmask.study.findings.masking import mean_index

EDIT, TUNING = "ft_l", "lora"
_BETWEEN_REGIMES = 3.0  # nats: the paper's fine-tuning stays below 2.7, its edits begin at 13.6
_DOSES = (
    ("driven_on", " with all its steps", "0 of 12 probes"),
    ("matched", " where new leads by as much", "not measured"),
)
_NONE_OF_TWELVE = proportion_interval(0, 12).high


def _index(results: DrawnResults) -> Measured:
    """With all its steps, as the paper has it."""
    one = results.reading("results/driven_on").sel(state=EDIT)
    return Measured(mean_index(one), draws_of(one), f"new leads on {int(one.took.sum())} of {one.sizes['fact']} facts")


def _at_equal_success(results: DrawnResults) -> xr.Dataset:
    """The facts that both ways brought to the margin."""
    erase = results.erase.sel(state=[EDIT, TUNING])
    return only(erase, erase["index"].notnull().all("state"))


def _further(results: DrawnResults) -> Measured:
    both = _at_equal_success(results)
    difference = both["index"].sel(state=EDIT) - both["index"].sel(state=TUNING)
    mean = over_facts(difference)
    interval = Interval(float(mean.estimate), float(mean.low), float(mean.high), int(difference.notnull().sum()))
    return Measured(interval, draws_of(both), "facts that both brought to the margin")


def _left(results: DrawnResults, way: str) -> Measured:
    both = _at_equal_success(results)
    return Measured(group_normalised(both.sel(state=way)), draws_of(both))


def _rebound(results: DrawnResults, dose: str) -> Measured:
    parts = {draw: table[["margin"]] for draw, table in results.each("results/rebound").items()}
    margin = pooled(parts).margin.sel(dose=dose, way=EDIT, drop=True)
    led = share_led_by_old((margin < 0).where(margin.notnull()))
    interval = Interval(float(led.share), float(led.share_low), float(led.share_high), int(led.n_probes))
    note = f"old leads at least once on {int(led.facts)} of {int(led.n)} facts"
    return Measured(interval, f"probes of {draws_of(margin)}", note)


def _chosen(results: DrawnResults, dose: str) -> Measured:
    """Multiple choice with the options as texts, scored each by itself; of facts of which old was chosen before."""
    parts = {draw: table[["choice"]] for draw, table in results.each("results/rebound").items()}
    choice = pooled(parts).choice.sel(dose=dose, form="text", drop=True)
    before, after = (choice.sel(way=way, drop=True) for way in (BEFORE, EDIT))
    chosen = share_of_facts((after == "old").where((after != "") & (before == "old")))
    return Measured(chosen, draws_of(choice), f"old was chosen before on {int((before == 'old').sum())} facts")


def _told_apart(results: DrawnResults) -> Measured:
    """By the change in logp(old), as the paper tells them, of facts that both ways brought to the margin."""
    parts = {draw: table[["value"]] for draw, table in results.each("results/statistics").items()}
    value = pooled(parts).value.sel(dose="matched", way=[EDIT, TUNING], statistic=["index"])
    found = auroc_of_ways(value, [EDIT]).sel(edited=EDIT, tuned=TUNING, statistic="index")
    interval = Interval(float(found.auroc), float(found.auroc_low), float(found.auroc_high), int(found.n))
    return Measured(interval, draws_of(value))


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
        *("the index tells an edit from fine-tuning where new leads by as much", "no overlap (other models)"),
        *("AUROC of the index, FT-L above LoRA", "share", _told_apart),
        above=0.5,
    ),
    *(
        _claim(
            *(f"no untaught phrasing brings old back after FT-L{where}", paper),
            *("share of probes on which old leads new", "share", partial(_rebound, dose=dose)),
            below=_NONE_OF_TWELVE,
        )
        for dose, where, paper in _DOSES
    ),
    *(
        _claim(
            *(f"multiple choice does not bring old back after FT-L{where}", "not measured"),
            *("share of facts of which old is chosen still", "share", partial(_chosen, dose=dose)),
            below=_NONE_OF_TWELVE,
        )
        for dose, where, _ in _DOSES
    ),
]
