"""Findings 2 and 4: the new route rises with the surprise of the correction, and a stronger prior resists it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import xarray as xr

from mechmask.measure.association import pooled_association
from mechmask.measure.statistics import Interval
from mechmask.study.draws import DrawnResults
from mechmask.study.findings.finding import Claim, Measured

_DRIVEN = {"twins": "driven_on", "correction": "driven_on"}


def correlated(
    results: DrawnResults, name: str, x: str, y: str, one: Callable[[xr.Dataset], xr.Dataset], correlation: str
) -> Measured:
    """A correlation over the facts of all draws, whole draws resampled.

    Args:
        results: of the part.
        name: the result that holds both numbers.
        x: the name of the one.
        y: the name of the other.
        one: what makes it a table of facts alone, such as the choice of a state.
        correlation: ``pearson`` or ``spearman``.
    """
    tables = {draw: one(table)[[x, y]] for draw, table in results.each(name).items()}
    found = pooled_association(tables, x, y).sel(correlation=correlation)
    interval = Interval(*(float(found[field]) for field in ("estimate", "low", "high")), int(found.n))
    alone = ", ".join(f"{value:+.2f}" for value in found.draw_estimate.values)
    note = f"each draw alone: {alone}"
    if len(tables) < 4:
        note = f"no interval with fewer than four draws; {note}"
    return Measured(interval, f"facts in {len(tables)} draws", note)


def _condition(number: int, table: xr.Dataset) -> xr.Dataset:
    return table.isel(condition=number, drop=True)


CLAIMS = [
    *(
        Claim(
            *(2, part, facts, "the margin that new reaches grows with the surprise"),
            *("+.63, +.57 (n = 12 each), +.31, +.43 (not significant)", f"{name}'s correlation of both", "correlation"),
            partial(
                correlated,
                name="results/surprise",
                x="surprise",
                y="margin",
                one=lambda table: table.sel(state="driven_on", drop=True),
                correlation=name.lower(),
            ),
            above=0,
        )
        for part, facts in (("twins", "taught"), ("correction", "known"))
        for name in ("Pearson", "Spearman")
    ),
    *(
        Claim(
            *(4, "reactance", "taught", f"a stronger prior ends at a smaller margin, {strength}"),
            *(paper, "Pearson's correlation of logp(old) before and the margin", "correlation"),
            partial(
                correlated,
                name="results/reactance",
                x="prior",
                y="margin",
                one=partial(_condition, number),
                correlation="pearson",
            ),
            below=0,
        )
        for number, strength, paper in ((0, "weakest", "-.47 (n = 40)"), (-1, "strongest", "-.37 (n = 40)"))
    ),
]
