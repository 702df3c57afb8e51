"""What a study writes for people: figures, tables as CSV, and which versions made it; from its results alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from mechmask import draw
from mechmask.files import write_text
from mechmask.measure.dose import dose_curve, dose_erased
from mechmask.measure.precision import precision_overview

if TYPE_CHECKING:
    from mechmask.study.results import StudyResults
    from mechmask.study.run import Run

_FIGURES = {
    "trajectory": draw.trajectory,
    "depth_trajectory": draw.checkpoints,
    "depth": draw.depth,
    "erase": draw.erase,
}
_CORRECTION_FIGURES = {"course": draw.trace, "erase": draw.erase}
_DOSE_FIGURES = {"doses": draw.dose}
_PRECISION_FIGURES = {"precision": draw.precision, "erase": draw.erase}


def export_study(run: Run, results: StudyResults, about: Mapping[str, str | float]) -> None:
    """Figures and tables of a mask study, written where they or what they show has changed.

    Args:
        run: whose directory they go to.
        results: what they show.
        about: provenance of the model.
    """
    _export(run, results, _FIGURES, about)


def export_correction(run: Run, results: StudyResults, about: Mapping[str, str | float]) -> None:
    """The same of a study that corrects facts step by step."""
    _export(run, results, _CORRECTION_FIGURES, about)


def export_doses(run: Run, results: StudyResults, about: Mapping[str, str | float]) -> None:
    """The same of a study of doses; the doses at which the trace is gone stand in a table of their own."""
    _export(run, results, _DOSE_FIGURES, about)
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


def export_contrast(run: Run, results: StudyResults, about: Mapping[str, str | float]) -> None:
    """The same of a study that holds ways of changing against each other, with its tables."""
    _export(run, results, {"erase": draw.erase}, about)
    names = ("matched", "auroc", "rebound")
    sources = {f"results/{name}": results.step(f"results/{name}").digest for name in names}
    for suffix in ("pdf", "png"):
        run.export(
            f"figures/contrast.{suffix}",
            sources,
            lambda path: draw.save_figure(
                draw.contrast(results.reading("results/auroc"), results.reading("results/rebound")), path
            ),
        )
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
        sources = {f"results/{name}": results.step(f"results/{name}").digest}
        for suffix in ("pdf", "png"):  # drawn anew for each: saving a figure moves what its layout begins from
            run.export(
                f"figures/{name}.{suffix}",
                sources,
                lambda path, name=name, make=make: draw.save_figure(make(results.reading(f"results/{name}")), path),
            )
    erased = {"results/erase": results.step("results/erase").digest}
    run.export("summary.csv", erased, lambda path: write_text(path, results.summary().to_csv()))
    run.export("overview.csv", erased, lambda path: write_text(path, results.overview().to_csv()))
    made_by = json.dumps(about, indent=2, sort_keys=True)
    run.export("provenance.json", erased, lambda path: write_text(path, made_by))
