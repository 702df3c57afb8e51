"""What ways of changing leave of the same facts, from the readings of each fact under each way.

Labelled arrays in and out; no model and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import xarray as xr

from mechmask.measure.contrast import auroc_of_ways, first_choice, share_led_by_old
from mechmask.measure.erase import erase_index
from mechmask.measure.old_value import STATISTICS, statistic_of_old
from mechmask.measure.verdict import REMEDIES
from mechmask.study.contrast_readings import Under
from mechmask.study.tables import by_state, concatenated

BEFORE = "before"
_BESIDE = ["probe_margin", "choice_score", "probe", "form", "option"]  # no part of the contest at the output
_NOT_REACHED = {"verdict": "undecided", "reason": "did_not_take", "remedy": REMEDIES["did_not_take"]}


def erase_of_ways(before: xr.Dataset, ways: Mapping[str, Under], options: Mapping[str, Any]) -> xr.Dataset:
    """What ``erase_index`` gives of every fact under every way.

    Args:
        before: what ``read_asked`` gave of all facts, ``logprob[fact, phrasing, route]`` in nats and more.
        ways: what was read under each way.
        options: of ``erase_index``.

    Returns:
        The same along ``state``, the ways. A fact on which a dose was not reached did not take: its numbers are NaN.
    """
    rows = {}
    for way, under in ways.items():
        facts = []
        for fact, read in under.readings.items():
            after = read.drop_vars(_BESIDE)
            result = erase_index(before.drop_vars(_BESIDE).sel(fact=after.fact), after, **options)
            facts.append(result if fact in under.reached else _not_reached(result))
        rows[way] = xr.concat(facts, "fact", data_vars="all", combine_attrs="drop_conflicts")
    return by_state(rows)


def statistics_of_ways(
    before: xr.Dataset, doses: Mapping[str, Mapping[str, Under]], erase: Mapping[str, xr.Dataset]
) -> xr.Dataset:
    """Every statistic of the old value of every fact under every way, larger where more of it is held.

    Args:
        before: as for ``erase_of_ways``.
        doses: what was read under each way, by dose.
        erase: what ``erase_of_ways`` returned, by dose.

    Returns:
        ``value[dose, way, statistic, fact]``: those of ``STATISTICS``, averaged over phrasings, in their own units,
        ``trace``, and ``index`` (minus the paper's erase index, so that more is more), both in nats;
        ``before[statistic, fact]``, the same before the change. NaN where a dose was not reached.
    """
    some = next(iter(erase.values()))
    facts, ways, names = some.fact.values.tolist(), some.state.values.tolist(), [*STATISTICS, "trace", "index"]
    values = [
        np.concatenate(
            [
                _statistics([doses[dose][way] for way in ways], facts),
                np.stack([of.trace_after.sel(state=ways, fact=facts), -of["index"].sel(state=ways, fact=facts)], 1),
            ],
            1,
        )
        for dose, of in erase.items()
    ]
    held = [statistic_of_old(before.logprob, name).sel(fact=facts).values for name in STATISTICS]
    traces = [of.trace_before.sel(fact=facts).max("state").values for of in erase.values()]
    first = [*held, np.fmax.reduce(traces), np.zeros(len(facts))]
    return xr.Dataset(
        {
            "value": (("dose", "way", "statistic", "fact"), np.array(values)),
            "before": (("statistic", "fact"), np.array(first)),
        },
        {"dose": list(erase), "way": ways, "statistic": names, "fact": facts},
    )


def auroc_of_doses(statistics: xr.Dataset, edited: Sequence[str], level: float) -> xr.Dataset:
    """Edited against fine-tuned by every statistic, at every dose: as it is, and as it has changed.

    Args:
        statistics: what ``statistics_of_ways`` returned: ``value[dose, way, statistic, fact]`` and
            ``before[statistic, fact]``.
        edited: which ways are edits.
        level: of the intervals.

    Returns:
        What ``auroc_of_ways`` gives along ``dose`` and ``of``: ``after`` the change, or its ``change``, from which the
        same fact's value before is subtracted.
    """
    along = []
    for dose in statistics.dose.values:
        value = statistics.value.sel(dose=dose, drop=True)
        values = {"after": value, "change": value - statistics.before}
        along.append(concatenated([auroc_of_ways(of, edited, level) for of in values.values()], "of", values))
    return concatenated(along, "dose", statistics.dose.values)


def rebound_of_ways(before: xr.Dataset, ways: Mapping[str, Under], facts: Sequence[str], level: float) -> xr.Dataset:
    """Whether old is back where it is asked for otherwise than it was taught.

    Args:
        before: what ``read_asked`` gave of all facts before the change.
        ways: what was read under each way.
        facts: ids of the facts that ways change.
        level: of the intervals.

    Returns:
        Over ``way`` (first ``before``) and ``asked`` (``probes``, where old leads new, and multiple choice by
        ``letter`` and by ``text``, where old leads every option): ``share`` of probes or questions on which old leads,
        with ``share_low`` and ``share_high``, ``n_probes``, the count ``facts`` of ``n`` on which it leads at least
        once, and ``control_share`` of the controls under the same changes, with its ends. Beside them ``margin[way,
        fact, probe]`` of new over old in nats and ``choice[way, fact, form]``, the option that leads (texts), empty
        where a dose was not reached.
    """
    everything = {BEFORE: Under({fact: before for fact in facts}, frozenset(facts)), **ways}
    rows, margins, choices = [], [], []
    for under in everything.values():
        margin, choice = _asked(under, control=False)
        control_margin, control_choice = _asked(under, control=True)
        led = {"probes": (_led(margin), _led(control_margin))}
        led |= {form: (_took_old(choice, form), _took_old(control_choice, form)) for form in choice.form.values}
        rows.append(concatenated([_shares(*of, level) for of in led.values()], "asked", led))
        margins.append(margin.reindex(fact=list(facts)).to_dataset(name="margin"))
        choices.append(_everywhere(choice, facts).to_dataset(name="choice"))
    details = [concatenated(of, "way", everything) for of in (margins, choices)]
    return xr.merge([concatenated(rows, "way", everything), *details]).assign_attrs(level=level)


def _not_reached(result: xr.Dataset) -> xr.Dataset:
    """The row of a fact that a way did not bring to the dose: nothing is measured there."""
    measured = {
        name: of.where(False) for name, of in result.data_vars.items() if "fact" in of.dims and of.dtype.kind == "f"
    }
    said = {name: ("fact", np.full(result.sizes["fact"], text)) for name, text in _NOT_REACHED.items()}
    return result.assign(measured).assign(said).assign(took=result.took & False, paper_verdict=("fact", ["undecided"]))


def _statistics(ways: Sequence[Under], facts: Sequence[str]) -> np.ndarray:
    """``[way, statistic, fact]``; NaN where the dose was not reached."""
    values = np.full((len(ways), len(STATISTICS), len(facts)), np.nan)
    for row, under in enumerate(ways):
        for column, fact in enumerate(facts):
            if fact in under.reached:
                logprob = under.readings[fact].logprob.sel(fact=[fact])
                values[row, :, column] = [float(statistic_of_old(logprob, name)[0]) for name in STATISTICS]
    return values


def _asked(under: Under, *, control: bool) -> tuple[xr.DataArray, xr.DataArray]:
    """Margins of the probes ``[fact, probe]`` and first choices ``[fact, form]``, where the dose was reached.

    Of the facts that the way changed, each under its own change; or of the controls, under one change after the other.
    """
    margins, scores = [], []
    for fact, read in under.readings.items():
        chosen = (read.role.values == "control") if control else (read.fact.values == fact)
        rows = np.flatnonzero(chosen & (fact in under.reached))
        margins.append(read.probe_margin.isel(fact=rows).reset_coords(drop=True))
        scores.append(read.choice_score.isel(fact=rows).reset_coords(drop=True))
    margin, score = (cast("xr.DataArray", xr.concat(of, "fact", join="outer")) for of in (margins, scores))
    return margin, first_choice(score)


def _everywhere(choice: xr.DataArray, facts: Sequence[str]) -> xr.DataArray:
    """First choices of all facts; no text where a dose was not reached."""
    rows = dict(zip(choice.fact.values.tolist(), choice.values, strict=True))
    texts = [rows.get(fact, np.full(choice.sizes["form"], "")) for fact in facts]
    return xr.DataArray(np.array(texts, dtype=str), {"fact": list(facts), "form": choice.form.values}, ("fact", "form"))


def _led(margin: xr.DataArray) -> xr.DataArray:
    """Whether old leads new in a probe, 0 or 1; NaN where there is none."""
    return (margin < 0).where(margin.notnull())


def _took_old(choice: xr.DataArray, form: str) -> xr.DataArray:
    """Whether old is the first choice in one form, as one probe."""
    return (choice.sel(form=form, drop=True) == "old").astype(float).expand_dims(probe=1, axis=-1)


def _shares(led: xr.DataArray, of_controls: xr.DataArray, level: float) -> xr.Dataset:
    ends = ["share", "share_low", "share_high"]
    control = share_led_by_old(of_controls, level)[ends]
    return share_led_by_old(led, level).assign({f"control_{name}": control[name] for name in ends})
