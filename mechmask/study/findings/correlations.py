"""Findings 2 and 4: the new route rises with the surprise of the correction, and a stronger prior resists it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pandas as pd
import xarray as xr

from mechmask.measure.association import pooled_association
from mechmask.measure.statistics import Interval
from mechmask.study.draws import DrawnResults
from mechmask.study.findings.finding import Claim, Measured, facts_in


def correlated(results: DrawnResults, name: str, x: str, y: str, one: Callable[[xr.Dataset], xr.Dataset]) -> Measured:
    """Pearson's correlation over facts within their draws, whole draws resampled; Spearman's is in the note.

    Args:
        results: of the part.
        name: the result that holds both numbers.
        x: the name of the one.
        y: the name of the other.
        one: what makes it a table of facts alone, such as the choice of a state.
    """
    tables = {draw: one(table)[[x, y]] for draw, table in results.each(name).items()}
    both = pooled_association(tables, x, y)
    found, ranks = (both.sel(correlation=name) for name in ("pearson", "spearman"))
    interval = Interval(float(found.estimate), float(found.low), float(found.high), int(found.n))
    alone = ", ".join(f"{value:+.2f}" for value in found.draw_estimate.values)
    note = f"Spearman {float(ranks.estimate):+.2f}; each draw alone {alone}"
    if 1 < len(tables) < 4:
        note = f"no interval with fewer than four draws; {note}"
    return Measured(interval, facts_in(len(tables)), note)


def _resisted(results: DrawnResults, strongest: bool) -> Measured:
    """Of the condition in which the old values were held the least or the most firmly, on average over draws."""
    tables = results.each("results/reactance")
    firmness = pd.DataFrame({draw: table.prior.mean("fact").to_series() for draw, table in tables.items()}).mean(axis=1)
    if len(firmness) < 2 and not strongest:
        return Measured(Interval(math.nan, math.nan, math.nan, 0), facts_in(len(tables)), "one condition only")
    condition = firmness.idxmax() if strongest else firmness.idxmin()
    found = correlated(
        *(results, "results/reactance", "prior", "margin"), one=lambda table: table.sel(condition=condition, drop=True)
    )
    return found._replace(note=f"{condition}; {found.note}")


CLAIMS = [
    *(
        Claim(
            *(2, part, facts, "the margin that new reaches grows with the surprise"),
            *(
                "+.63, +.57 (n = 12 each), +.31, +.43 (not significant)",
                "Pearson's correlation of both within draws",
                "correlation",
            ),
            partial(
                correlated,
                name="results/surprise",
                x="surprise",
                y="margin",
                one=lambda table: table.sel(state="driven_on", drop=True),
            ),
            above=0,
        )
        for part, facts in (("twins", "taught"), ("correction", "known"))
    ),
    *(
        Claim(
            *(4, part, facts, f"a stronger prior ends at a smaller margin, {strength}"),
            *(paper, "Pearson's correlation of logp(old) before and the margin within draws", "correlation"),
            partial(_resisted, strongest=strongest),
            below=0,
        )
        for part, facts, strongest, strength, paper in (
            ("reactance", "taught", False, "installed the least", "-.47 (n = 40)"),
            ("reactance", "taught", True, "installed the most", "-.37 (n = 40)"),
            ("reactance_known", "known", True, "as pretraining left it", "not run there"),
        )
    ),
]
