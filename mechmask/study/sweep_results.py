"""What the studies of a sweep found, opened without a model and without torch: one table, one dataset, one figure.

Studies that differ in their draw of facts or their seed of training alone are one cell, pooled as ``Draws`` pools them,
with the draw as the cluster. Cells are set beside each other and never pooled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from mechmask.errors import StudyError
from mechmask.measure.pool import pooled
from mechmask.measure.summary import overview
from mechmask.study.card import CARD
from mechmask.study.results import StudyResults
from mechmask.study.status import unfinished
from mechmask.study.step import unsealed
from mechmask.study.tabled import Results, Tables

if TYPE_CHECKING:
    from mechmask.draw.page.content import Document

MODEL, DRAW, SEED = "model", "draw", "seed"
SWEEP_CARD, STUDIES, FINISHED = "sweep.json", "studies", "finished"

Label = str | int | float
Cell = tuple[Label, ...]


class SweepResults(Results):
    """What a sweep found.

    Args:
        directory: of the sweep.

    Raises:
        StudyError: if there is no sweep, its card is damaged, or none of its studies is finished.
    """

    _in_notebook = "overview"

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        path = self.directory / SWEEP_CARD
        if not path.is_file():
            raise StudyError(f"{self.directory} holds no sweep. Give the directory of one.")
        try:
            self._card = unsealed(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StudyError(f"{path} is damaged ({error}). Run the sweep again: what is finished is kept.") from error
        if not self.studies:
            raise StudyError(f"None of the studies in {self.directory} is finished yet. Run the sweep again.")

    def __repr__(self) -> str:
        return f"SweepResults({str(self.directory)!r}, {len(self.studies)} of {len(self._card['studies'])} studies)"

    def __iter__(self) -> Iterator[StudyResults]:
        return iter(self.studies.values())

    @property
    def axes(self) -> dict[str, list[Label]]:
        """What was varied: the labels along every axis, by its name."""
        return dict(self._card["axes"])

    @cached_property
    def studies(self) -> dict[str, StudyResults]:
        """The results of every study that is finished, by the name of its directory."""
        return {
            name: StudyResults(self.directory / STUDIES / name) for name in self._card["studies"] if self._is_done(name)
        }

    def _is_done(self, name: str) -> bool:
        """Whether a study came to its end as the sweep describes it now, not as an earlier file did."""
        place = self.directory / STUDIES / name
        same = made_from(self.directory, name) == self._card["studies"][name]["made_from"]
        return same and (place / CARD).is_file() and not unfinished(place)

    @property
    def missing(self) -> list[str]:
        """The studies that are not finished."""
        return [name for name in self._card["studies"] if name not in self.studies]

    @property
    def between(self) -> list[str]:
        """The axes along which cells differ: all but the draw and the seed, which are pooled within a cell."""
        return [axis for axis in self.axes if axis not in (DRAW, SEED)]

    def labels(self) -> pd.DataFrame:
        """Which study is what: a row for each that is finished, a column for each axis."""
        rows = {name: self._labels_of(name) for name in self.studies}
        return pd.DataFrame.from_dict(rows, orient="index", columns=list(self.axes)).rename_axis("study")

    def each(self, name: str) -> dict[Cell, xr.Dataset]:
        """A result of every cell, by its labels along ``between``.

        Args:
            name: its path in the directory of each study, such as ``results/erase``.

        Returns:
            As the protocol wrote it, such as ``index[state, fact]`` in nats, joined along ``fact`` over the draws and
            seeds of a cell, with ``seed[fact]`` as the cluster (see ``DrawnResults.reading``).

        Raises:
            StudyError: if a study lacks it.
            ReadingError: if it holds no facts, or studies of one cell differ in what they hold.
        """
        cells: dict[Cell, dict[str, str]] = {}
        for study in self.studies:
            labels = self._labels_of(study)
            cell = tuple(labels[axis] for axis in self.between)
            key = ".".join(str(labels[axis]) for axis in (DRAW, SEED) if axis in labels)
            cells.setdefault(cell, {})[key] = study
        return {cell: self._pooled(studies, name) for cell, studies in cells.items()}

    def _labels_of(self, study: str) -> dict[str, Label]:
        return self._card["studies"][study]["labels"]

    def _pooled(self, names: Mapping[str, str], result: str) -> xr.Dataset:
        """A result of the studies of one cell, by draw and seed."""
        readings = {key: self.studies[study].reading(result) for key, study in names.items()}
        if len(readings) == 1:
            return next(iter(readings.values()))
        joined = pooled(readings)
        draws = [key.split(".")[0] for key in joined["seed"].values.tolist()]
        several = DRAW in self.axes and len(set(draws)) > 1  # else each training of the one draw is a cluster
        return joined.assign_coords(seed=("fact", draws)) if several else joined

    @cached_property
    def gathered(self) -> xr.Dataset:
        """The overview of every cell in one dataset ``[*between, state]``, in nats and ratios as ``overview`` gives it.

        Numbers are NaN, and texts empty, where there is no such cell or state.
        """
        overview = self.overview()
        states = list(dict.fromkeys(overview.index.get_level_values("state")))
        gathered = overview.to_xarray().reindex({**{axis: self.axes[axis] for axis in self.between}, "state": states})
        texts = {name: values.fillna("") for name, values in gathered.items() if values.dtype.kind in "OUT"}
        judged = next(iter(self)).erase.attrs
        about = {name: judged[name] for name in ("margin_share", "interval_level") if name in judged}
        return gathered.assign(texts).assign_attrs(about)

    def overview(self) -> pd.DataFrame:
        """A row for each cell and change: means, counts of verdicts and intervals, as ``overview`` gives them."""
        tables = {cell: overview(erase) for cell, erase in self.each("results/erase").items()}
        if not self.between:
            return tables[()]
        names: list[Any] = [*self.between, "state"]
        rows = [(*cell, state) for cell, table in tables.items() for state in table.index]
        return pd.concat(list(tables.values())).set_axis(pd.MultiIndex.from_tuples(rows, names=names))

    def conclusion(self) -> str:
        """How many of the cells' groups of old values are masked, erased or undecided, by change."""
        counts = self.overview().groupby("state", sort=False)["verdict"].value_counts()
        said = []
        for state in dict.fromkeys(counts.index.get_level_values("state")):
            of_state = counts[state]
            said.append(f"{state}: {', '.join(f'{n} {verdict}' for verdict, n in of_state.items())}")
        n_cells = len({tuple(self._labels_of(study)[axis] for axis in self.between) for study in self.studies})
        left = f" {len(self.missing)} studies are not finished." if self.missing else ""
        by = " x ".join(self.between) or "draws and seeds"
        return f"{n_cells} cells ({by}), old values of each as a group: {'; '.join(said)}.{left}"

    def tables(self) -> Tables:
        """Every table by its name, to be made when it is asked for."""
        return {"overview": self.overview, "labels": self.labels}

    def page(self) -> Document:
        """What the report page of the sweep holds; ``mechmask.draw.report`` writes it.

        Raises:
            StudyError: if something is damaged.
        """
        from mechmask.study.pages.sweep import sweep_page

        return sweep_page(self)

    @property
    def card(self) -> dict[str, Any]:
        """What the directory says of itself, as JSON values."""
        return dict(self._card)


def made_from(directory: Path, study: str) -> str | None:
    """The digest of what a finished study of a sweep was made from; ``None`` where it is not finished.

    Args:
        directory: of the sweep.
        study: its name.
    """
    try:
        return unsealed((directory / FINISHED / f"{study}.json").read_text(encoding="utf-8"))["made_from"]
    except (OSError, ValueError, KeyError):
        return None
