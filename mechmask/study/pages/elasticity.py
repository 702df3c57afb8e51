"""What a study of elasticity has to show."""

from __future__ import annotations

import pandas as pd
import xarray as xr

from mechmask import draw
from mechmask.draw.style import percent
from mechmask.measure.elasticity import INSTALLED, NEVER
from mechmask.study.pages.exhibit import Exhibit
from mechmask.study.pages.words import interval_in, level_in, stated

_COLUMNS = ("median_steps", "median_low", "median_high", "n", "n_censored")


def said_of_elasticity(_ways: xr.Dataset, table: xr.Dataset) -> str:
    """Rebound of both arms, and resistance at the largest dose."""
    last = int(table.dose.max())
    n = int(table.n.max())
    rebounds = [
        f"{name} {stated(interval_in(table.sel(arm=arm).assign(n=n), 'rebound'), 'steps')}"
        for arm, name in ((INSTALLED, "installed facts"), (NEVER, "never installed ones"))
    ]
    resisted = interval_in(table.sel(arm=INSTALLED, dose=last), "resistance")
    return (
        f"By how many steps facts come back sooner after {last} steps of contradiction than after "
        f"{int(table.dose.min())} ({percent(level_in(table))} intervals, n = {n}): {'; '.join(rebounds)}. Loss out "
        f"less loss back at the largest dose: {stated(resisted, 'nats per token')}."
    )


def elasticity_table(_ways: xr.Dataset, table: xr.Dataset) -> pd.DataFrame:
    """A row for each arm and dose.

    Args:
        _ways: ``results/ways`` of a study.
        table: its ``results/elasticity``.
    """
    columns = [*_COLUMNS, "resistance", "resistance_low", "resistance_high"]
    return table[columns].to_dataframe(dim_order=["arm", "dose"])[columns]


ELASTICITY = (
    Exhibit(
        "Does more contradiction make the way back shorter",
        ("results/ways", "results/elasticity"),
        said_of_elasticity,
        lambda _, table: draw.elasticity(table),
        "By dose of the contradiction, installed facts beside never installed ones: steps until half of them are back, "
        "and the loss out less the loss back, with intervals.",
        elasticity_table,
        "One row an arm and dose (optimizer steps): median steps of the way back, facts, those that did not come back, "
        "and resistance in nats per token",
        pools=False,
    ),
)
