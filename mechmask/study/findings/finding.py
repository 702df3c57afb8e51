"""A sentence of the paper as a claim about a number, and what a run says of it.

A claim is a region in which a number has to lie. A run agrees where the number's interval lies wholly in the region,
disagrees where it lies wholly outside, and is undecided where it does neither.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import xarray as xr

from mechmask.measure.statistics import Interval
from mechmask.study.draws import DrawnResults

AGREES, DISAGREES, UNDECIDED, NOT_RUN = "agrees", "disagrees", "undecided", "not run"
_NOTHING = Interval(math.nan, math.nan, math.nan, 0)


class Measured(NamedTuple):
    """The number of a run.

    Attributes:
        interval: in the claim's unit.
        of: what its observations are, such as "facts in 5 draws".
        note: what a reader has to know of it.
    """

    interval: Interval
    of: str
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """What a sentence of the paper says of a number that can be measured.

    Attributes:
        finding: its number in the paper.
        part: the part of a run that measures it, such as ``twins``.
        facts: ``known`` from pretraining, or ``taught`` first.
        says: the claim in words.
        paper: the number that the paper gives, with its model.
        quantity: what is measured, such as "EI* where new has just won".
        unit: nats, layers, steps, share, ratio or correlation.
        measure: measures it.
        above: the number has to lie above this.
        below: and at most this.
    """

    finding: int
    part: str
    facts: str
    says: str
    paper: str
    quantity: str
    unit: str
    measure: Callable[[DrawnResults], Measured]
    above: float = -math.inf
    below: float = math.inf

    @property
    def region(self) -> str:
        """The region in words, such as "above 0 and at most 0.5"."""
        ends = (("above", self.above), ("at most", self.below))
        return " and ".join(f"{side} {end:.2g}" for side, end in ends if math.isfinite(end))


@dataclass(frozen=True)
class Finding:
    """A claim and what a run says of it.

    Attributes:
        claim: what the paper says.
        measured: the number of this run; ``None`` where the part was not run.
    """

    claim: Claim
    measured: Measured | None

    @property
    def verdict(self) -> str:
        """``agrees``, ``disagrees``, ``undecided`` or ``not run``."""
        if self.measured is None:
            return NOT_RUN
        _, low, high, _ = self.measured.interval
        if math.isnan(low) or math.isnan(high):
            return UNDECIDED
        if self.claim.above < low and high <= self.claim.below:
            return AGREES
        return DISAGREES if high <= self.claim.above or low > self.claim.below else UNDECIDED


def findings_of(claims: Sequence[Claim], parts: Mapping[str, DrawnResults]) -> list[Finding]:
    """Every claim beside what a run says of it.

    Args:
        claims: in the order of the result.
        parts: the parts that were run, by name.
    """
    return [Finding(claim, claim.measure(parts[claim.part]) if claim.part in parts else None) for claim in claims]


def findings_table(findings: Sequence[Finding]) -> pd.DataFrame:
    """One row for each claim: the paper's number, this run's with its interval and n, and the verdict.

    Args:
        findings: in the order of the rows.
    """
    return pd.DataFrame(map(_row, findings)).set_index("finding")


def facts_in(n_draws: int) -> str:
    """What the observations of a pooled number are.

    Args:
        n_draws: of how many draws the facts are.
    """
    return f"facts in {n_draws} draws" if n_draws > 1 else "facts of one draw"


def draws_of(result: xr.Dataset | xr.DataArray) -> str:
    """The same, of a pooled result.

    Args:
        result: with the coordinate ``seed[fact]``.
    """
    return facts_in(len(set(result["seed"].values.tolist())))


def verdict_counts(findings: Sequence[Finding]) -> str:
    """How many claims agree, disagree, are undecided, or were not measured, in words.

    Args:
        findings: of a run.
    """
    counts = Counter(one.verdict for one in findings)
    said = {AGREES: "agree", DISAGREES: "disagree", UNDECIDED: "are undecided", NOT_RUN: "were not measured"}
    return ", ".join(f"{counts[verdict]} {words}" for verdict, words in said.items() if counts[verdict])


def _row(one: Finding) -> dict[str, object]:
    claim, (interval, of, note) = one.claim, one.measured or Measured(_NOTHING, "")
    return {
        "finding": claim.finding,
        "facts": claim.facts,
        "claim": claim.says,
        "paper": claim.paper,
        "measured": claim.quantity,
        "unit": claim.unit,
        "agrees if": claim.region,
        **interval._asdict(),
        "of": of,
        "verdict": one.verdict,
        "note": note,
    }
