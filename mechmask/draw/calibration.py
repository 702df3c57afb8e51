"""The ruler where the truth is known: candidates, doses, and how often the verdict errs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mechmask.draw.band import entries_of
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.palette import Palette
from mechmask.draw.style import (
    GREEN,
    ORANGE,
    PAGE_INCHES,
    SKY,
    VERDICT_LOOKS,
    Look,
    grey,
    light_grey,
    percent,
    stroke,
    text_points,
)
from mechmask.errors import ReadingError
from mechmask.measure.calibration import REFERENCE, rows_with, widest
from mechmask.measure.verdict import VERDICTS

_WHAT = "The calibration figure"
_POOLS = {
    "verbatim": Look(GREEN, "-", "^"),
    "paraphrased": Look(SKY, (0, (5, 1.5)), "P"),
    "biography": Look(ORANGE, (0, (4, 1.2, 1, 1.2)), "v"),
}
_TOLD = {"verbatim": "told verbatim", "paraphrased": "told in other words", "biography": "told in running text"}
_SHORT = {"verbatim": "verbatim", "paraphrased": "other words", "biography": "running text"}
_OFFSETS = dict(zip(_POOLS, (-0.24, 0.0, 0.24), strict=True))
_HATCHES = {"masked": "", "erased": "////", "suppressed": "....", "undecided": ""}
_TRUTHS = {"left alone": "knows, left alone", "perfectly erased": "never knew"}


def calibration(
    by_fact: pd.DataFrame,
    rates: pd.DataFrame,
    statistic: str,
    *,
    level: float = 0.95,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """AUROC of every candidate (panel a), of the chosen one by dose (b), and verdicts on facts (c) and groups (d).

    Args:
        by_fact: AUROCs of a ``Calibration`` by fact: ``auroc`` with ``low`` and ``high`` by ``treatment``,
            ``statistic``, ``reference``, ``phrasings``, ``dose`` and ``known`` pool.
        rates: verdicts of it: their shares by ``unit`` (``fact``, ``group``), ``case`` and ``dose``, with their number
            ``n``; the last dose of each case is drawn.
        statistic: the chosen one.
        level: of the intervals that the tables hold.
        axes: four panels to draw into, row by row; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above all panels.
        palette: colours of the pools and of the verdicts: by name, in this order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure. Panel a: after the last dose of the contradiction, every candidate less its value in the model that
        was never told, over all phrasings where a candidate reads several. Dose 0 in panel b is before the
        contradiction.

    Raises:
        ReadingError: if a table lacks a column or the statistic, or an option does not fit.
    """
    _require(by_fact, ("treatment", "statistic", "reference", "phrasings", "dose", "known", "auroc", "low", "high"))
    _require(rates.reset_index(), ("unit", "case", "dose", "n", *VERDICTS))
    judged = _at_last_dose(rates.reset_index())
    paired = rows_with(by_fact, treatment="contradicted", reference=REFERENCE)
    if statistic not in set(paired["statistic"]):
        raise ReadingError(f"{_WHAT} lacks the statistic {statistic!r}. Give the one that the calibration chose.")
    told = [pool for pool in _POOLS if pool in set(paired["known"])]
    candidates = widest(rows_with(paired, dose=paired["dose"].max()))
    names = _from_best(candidates)
    cases = sorted(map(str, judged["fact"].index), key=lambda case: (case.split(",")[0] not in _TRUTHS, case))
    canvas = Canvas(axes, width, title, palette, font_size)
    looks = {**_POOLS, **VERDICT_LOOKS}
    inches = (PAGE_INCHES, 2.6 + 0.2 * len(names) + 0.2 * len(cases))
    with canvas.page(_WHAT, (2, 2), inches, looks=looks) as page:
        first, second, *verdicts = page.panels
        for pool in told:
            _draw_candidates(page, first, rows_with(candidates, known=pool), names, pool)
            chosen = rows_with(paired, statistic=statistic, phrasings="all", known=pool)
            _draw_doses(page, second, chosen.sort_values("dose"), pool)
        _rows(first, [_words(name) for name in names], centre=0.5)
        page.entitle(first, "Candidates")
        page.label_x(first, "AUROC by fact, last dose")
        second.axhline(0.5, color=grey(), linewidth=stroke(0.8), linestyle=":", zorder=0.5)
        second.set_ylim(-0.04, 1.04)
        second.set_xticks(sorted(set(paired["dose"])))
        page.entitle(second, "By dose")
        page.label_x(second, "dose (0: before)")
        page.label_y(second, "AUROC by fact")
        for panel, (unit, heading) in zip(verdicts, {"fact": "Facts", "group": "Groups"}.items(), strict=True):
            _draw_verdicts(page, panel, judged[unit].reindex(cases))
            _rows(panel, [_case(case) if unit == "fact" else "" for case in cases])
            page.entitle(panel, heading)
            page.label_x(panel, "share")
        entries = entries_of(page.panels[:2]) | _verdict_entries(page)
        page.legend(entries, _note(statistic, level))
    return page.root


def _note(statistic: str, level: float) -> str:
    return (
        f"a, b: models that knew against those that never did, with {percent(level)} intervals, draws of facts as "
        f"clusters; 0.5 tells nothing\nb: {_words(statistic)}; c, d: verdicts after the contradiction where nothing "
        "else is said; in d the rows are those of c"
    )


def _require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ReadingError(f"{_WHAT} lacks {', '.join(missing)}. Give the tables of a Calibration.")


def _at_last_dose(rates: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rates of facts and of groups, by case."""
    missing = {"fact", "group"} - set(rates["unit"])
    if missing:
        raise ReadingError(f"{_WHAT} lacks the rates of the unit {min(missing)!r}. Give the tables of a Calibration.")
    last = rates.sort_values("dose").drop_duplicates(["unit", "case"], keep="last")
    return {unit: rows_with(last, unit=unit).set_index("case") for unit in ("fact", "group")}


def _from_best(candidates: pd.DataFrame) -> list[str]:
    together = rows_with(candidates, known="any").sort_values("auroc", ascending=False, kind="stable")
    return [str(name) for name in together["statistic"]]


def _draw_candidates(page: Page, axes: Axes, rows: pd.DataFrame, names: Sequence[str], pool: str) -> None:
    look = page.looks[pool]
    found = rows.set_index("statistic").reindex(list(names))
    heights = np.arange(len(names)) + _OFFSETS[pool]
    low, high = found["low"].to_numpy(float), found["high"].to_numpy(float)
    axes.hlines(heights, low, high, color=look.color, linewidth=stroke(1.0), alpha=0.7)
    marks = found["auroc"].to_numpy(float)
    axes.plot(marks, heights, linestyle="", marker=look.marker, color=look.color, label=_TOLD[pool])


def _draw_doses(page: Page, axes: Axes, rows: pd.DataFrame, pool: str) -> None:
    look = page.looks[pool]
    dose = rows["dose"].to_numpy(float) + _OFFSETS[pool] / 3
    axes.vlines(dose, rows["low"], rows["high"], color=look.color, linewidth=stroke(1.0), alpha=0.7)
    style = {"color": look.color, "linestyle": look.linestyle, "marker": look.marker}
    axes.plot(dose, rows["auroc"], linewidth=stroke(look.linewidth), **style)


def _draw_verdicts(page: Page, axes: Axes, rates: pd.DataFrame) -> None:
    """A bar for each case, and how many it stands for."""
    left = np.zeros(len(rates))
    for verdict in VERDICTS:
        share = rates[verdict].to_numpy(float)
        look = page.looks[verdict]
        axes.barh(
            range(len(rates)),
            share,
            left=left,
            height=0.7,
            color=look.color,
            hatch=_HATCHES[verdict],
            edgecolor="white",
            linewidth=stroke(0.4),
            alpha=0.35 if verdict == "undecided" else 1.0,
        )
        left = left + share
    for row, n in enumerate(rates["n"].to_numpy(int)):
        axes.annotate(
            f"n={n}", (1, row), (3, 0), textcoords="offset points", va="center", fontsize=text_points(6), color=grey()
        )
    axes.set_xlim(0, 1.2)
    axes.set_xticks([0, 0.5, 1])


def _verdict_entries(page: Page) -> dict[str, Patch]:
    return {
        verdict: Patch(
            facecolor=page.looks[verdict].color,
            hatch=_HATCHES[verdict],
            edgecolor="white",
            alpha=0.35 if verdict == "undecided" else 1.0,
        )
        for verdict in VERDICTS
    }


def _rows(axes: Axes, names: Sequence[str], centre: float | None = None) -> None:
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    if centre is None:
        return
    axes.set_xlim(-0.04, 1.04)
    axes.axvline(centre, color=grey(), linewidth=stroke(0.8), linestyle=":", zorder=0.5)
    for row in range(1, len(names)):
        axes.axhline(row - 0.5, color=light_grey(), linewidth=stroke(0.6), zorder=0.5)


def _case(case: str) -> str:
    """A case in words: what is true of the model, and what was done to it."""
    name, _, treatment = case.partition(", ")
    return _TRUTHS.get(name, _SHORT.get(name, name)) + (f", {treatment}" if treatment else "")


def _words(name: str) -> str:
    return name.replace("_", " ")
