"""What a study writes for people: figures, tables as CSV, and which versions made it; from its results alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from mechmask import draw
from mechmask.draw.style import SERIES
from mechmask.files import write_text
from mechmask.measure.association import association_overview
from mechmask.measure.dose import dose_curve, dose_erased
from mechmask.measure.precision import precision_overview
from mechmask.measure.surprise import magnitude_overview

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from mechmask.study.results import StudyResults
    from mechmask.study.run import Run
    from mechmask.study.step import Step


def _surprise(table: xr.Dataset) -> Figure:
    """Of as many states as there are line styles: the corrections come first, edits after them."""
    return draw.association(table.isel(state=slice(len(SERIES))), "surprise", "margin")


_FIGURES = {
    "trajectory": draw.trajectory,
    "depth_trajectory": draw.checkpoints,
    "depth": draw.depth,
    "erase": draw.erase,
    "surprise": _surprise,
}
_CORRECTION_FIGURES = {"course": draw.trace, "erase": draw.erase, "surprise": _surprise}
_DOSE_FIGURES = {"doses": draw.dose, "surprise": _surprise}
_PRECISION_FIGURES = {"precision": draw.precision, "erase": draw.erase}


def export_study(run: Run, results: StudyResults, about: Mapping[str, str | float]) -> None:
    """Figures and tables of a mask study, written where they or what they show has changed.

    Args:
        run: whose directory they go to.
        results: what they show.
        about: provenance of the model.
    """
    _export(run, results, _FIGURES, about)
    _export_surprise(run, results)


def export_correction(run: Run, results: StudyResults, about: Mapping[str, str | float]) -> None:
    """The same of a study that corrects facts step by step."""
    _export(run, results, _CORRECTION_FIGURES, about)
    _export_surprise(run, results)


def export_table(run: Run, name: str, sources: Iterable[Step], make: Callable[[], pd.DataFrame]) -> None:
    """A table as CSV, written where it or what it shows has changed.

    Args:
        run: whose directory it goes to.
        name: of the file, without its ending.
        sources: the steps that it shows.
        make: makes the table.
    """
    digests = {step.name: step.digest for step in sources}
    run.export(f"{name}.csv", digests, lambda path: write_text(path, make().to_csv()))


def export_figure(run: Run, name: str, sources: Iterable[Step], make: Callable[[], Figure]) -> None:
    """A figure as PDF and PNG below ``figures/``, written where it or what it shows has changed.

    Args:
        run: whose directory it goes to.
        name: of the files, without their ending.
        sources: the steps that it shows.
        make: draws the figure.
    """
    digests = {step.name: step.digest for step in sources}
    drawn = cache(make)  # once for both files
    for suffix in ("pdf", "png"):
        run.export(f"figures/{name}.{suffix}", digests, lambda path: _save(drawn, path))


def _save(drawn: Callable[[], Figure], path: Path) -> None:
    draw.save_figure(drawn(), path)


def export_doses(run: Run, results: StudyResults, about: Mapping[str, str | float]) -> None:
    """The same of a study of doses; the doses at which the trace is gone stand in a table of their own."""
    _export(run, results, _DOSE_FIGURES, about)
    _export_surprise(run, results)
    doses = {"results/doses": results.step("results/doses").digest}
    for name, table in (("doses", dose_curve), ("dose_erased", dose_erased)):
        run.export(
            f"{name}.csv",
            doses,
            lambda path, table=table: write_text(path, table(results.reading("results/doses")).to_dataframe().to_csv()),
        )


def export_precision(run: Run, results: StudyResults, about: Mapping[str, str | float]) -> None:
    """The same of a study that judges one correction under several precisions, with a table of what changed."""
    _export(run, results, _PRECISION_FIGURES, about)
    sources = {"results/precision": results.step("results/precision").digest}
    run.export(
        "precision.csv",
        sources,
        lambda path: write_text(path, precision_overview(results.reading("results/precision")).to_csv()),
    )


def _export_surprise(run: Run, results: StudyResults) -> None:
    surprise = results.step("results/surprise")
    export_table(run, "surprise", [surprise], lambda: association_overview(results.reading(surprise.name)))
    export_table(run, "surprise_by_magnitude", [surprise], lambda: magnitude_overview(results.reading(surprise.name)))


def export_contrast(run: Run, results: StudyResults, about: Mapping[str, str | float]) -> None:
    """The same of a study that holds ways of changing against each other, with its tables."""
    _export(run, results, {"erase": draw.erase}, about)
    names = ("matched", "auroc", "rebound")
    steps = [results.step(f"results/{name}") for name in names]
    export_figure(
        run,
        "contrast",
        steps,
        lambda: draw.contrast(results.reading("results/auroc"), results.reading("results/rebound")),
    )
    sources = {step.name: step.digest for step in steps}
    for name in names:
        run.export(f"{name}.csv", sources, lambda path, name=name: write_text(path, _table(results, name)))


def _table(results: StudyResults, name: str) -> str:
    """One row a place, without what has more dimensions than the others: margins of every probe stay in the results."""
    reading = results.reading(f"results/{name}").drop_vars(["margin", "choice"] if name == "rebound" else [])
    return reading.to_dataframe().to_csv()


def _export(
    run: Run, results: StudyResults, figures: Mapping[str, Callable[..., Figure]], about: Mapping[str, str | float]
) -> None:
    for name, make in figures.items():
        step = results.step(f"results/{name}")
        export_figure(run, name, [step], lambda step=step, make=make: make(results.reading(step.name)))
    erased = {"results/erase": results.step("results/erase").digest}
    run.export("summary.csv", erased, lambda path: write_text(path, results.summary().to_csv()))
    run.export("overview.csv", erased, lambda path: write_text(path, results.overview().to_csv()))
    made_by = json.dumps(about, indent=2, sort_keys=True)
    run.export("provenance.json", erased, lambda path: write_text(path, made_by))
