"""Finding 1: contradiction masks rather than deletes.

By the paper's own index, and by what is left of the trace of the old values above never having known them; of facts
that are taught first, as in the paper, and of facts that the model knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import xarray as xr

from mechmask.measure.clustered_share import share_of_facts
from mechmask.measure.normalised import group_normalised
from mechmask.measure.pool import only
from mechmask.measure.statistics import Interval, over_facts, proportion_interval
from mechmask.measure.verdict import MARGIN_SHARE
from mechmask.study.draws import DrawnResults
from mechmask.study.findings.finding import Claim, Measured, draws_of

_STATES = {"won": "where new has just won", "driven_on": "where the correction was driven on"}
_LARGEST_SUPPRESSION = 3.0  # nats: any cutoff between 3 and 13 separates the paper's regimes
_NONE_OF_TWELVE = proportion_interval(0, 12).high


def mean_index(one: xr.Dataset) -> Interval:
    """The mean erase index in nats, its interval over draws where there are several.

    Args:
        one: one state of an erase result, ``index[fact]`` in nats.
    """
    mean = over_facts(one["index"])
    return Interval(float(mean.estimate), float(mean.low), float(mean.high), int(one["index"].notnull().sum()))


def at_state(number: Callable[[xr.Dataset], Interval], state: str, results: DrawnResults) -> Measured:
    """A number of one state of the pooled erase result, over the facts on which the change took.

    Args:
        number: what is measured of the state.
        state: its name.
        results: of the part.
    """
    return of_taken(number, results.erase.sel(state=state))


def of_taken(number: Callable[[xr.Dataset], Interval], one: xr.Dataset) -> Measured:
    """A number of the facts on which a change took; none where it took on less than half of them.

    Args:
        number: what is measured.
        one: one state of an erase result, ``took[fact]``.
    """
    n, of = int(one.took.sum()), one.sizes["fact"]
    note = "" if n == of else f"of the facts on which new leads, {n} of {of}"
    if 2 * n < of:
        return Measured(
            Interval(math.nan, math.nan, math.nan, n), draws_of(one), f"new leads on {n} of {of} facts only"
        )
    return Measured(number(only(one, one.took)), draws_of(one), note)


def _erased(one: xr.Dataset) -> Interval:
    return share_of_facts((one.paper_verdict == "erased").where(one["index"].notnull()))


def _share_erased(state: str, results: DrawnResults) -> Measured:
    """The share that the paper's index calls erased, and whether so few draws could agree with "none" at all."""
    found = at_state(_erased, state, results)
    n_draws = len(results.studies)
    reach = proportion_interval(0, n_draws).high
    if n_draws == 1 or reach <= _NONE_OF_TWELVE:
        return found
    notes = (found.note, f"even none in {n_draws} draws would reach up to {reach:.2f}")
    return found._replace(note=", ".join(filter(None, notes)))


def _claims(part: str, facts: str, state: str) -> list[Claim]:
    where = _STATES[state]
    return [
        Claim(
            *(1, part, facts, "logp(old) hardly falls", "mean +1.05, at most +2.32 (Qwen2.5-1.5B, n = 12)"),
            *(f"erase index {where}", "nats", partial(at_state, mean_index, state)),
            below=_LARGEST_SUPPRESSION,
        ),
        Claim(
            *(1, part, facts, "no old value is erased", "0 of 12, 0 of 12, 0 of 18, 0 of 18 (three models)"),
            *(f"share that the index calls erased {where}", "share", partial(_share_erased, state)),
            below=_NONE_OF_TWELVE,
        ),
        Claim(
            *(1, part, facts, "the old values are masked", "not measured: no never-known reference"),
            *(f"EI* of the group {where}", "ratio", partial(at_state, group_normalised, state)),
            below=1 - MARGIN_SHARE,
        ),
    ]


CLAIMS = [
    claim
    for part, facts in (("twins", "taught"), ("correction", "known"))
    for state in _STATES
    for claim in _claims(part, facts, state)
]
