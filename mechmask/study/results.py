"""A study's results, opened from its directory without a model and without torch.

Every file is held against the digest that it was written with, and every result against the steps that it says it was
made from: one whose inputs have been made anew since is refused, not shown.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from mechmask.errors import MechmaskError, StudyError, UnfinishedError
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import load_facts
from mechmask.measure.reading import load_reading
from mechmask.measure.summary import conclusion, overview, summary
from mechmask.study.card import FACTS, read_card
from mechmask.study.step import MANIFEST, Step, peek, require_whole
from mechmask.study.tabled import Results, Tables

if TYPE_CHECKING:
    from mechmask.draw.page.content import Document

READING = "reading.nc"
_TABLES = ("results", "readings")


class StudyResults(Results):
    """What a study found: labelled arrays, and tables of them.

    Args:
        directory: of the study.

    Raises:
        StudyError: if there is no study, or its card is damaged.
    """

    _in_notebook = "overview"

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._card = read_card(self.directory)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r}, {self.model_name})"

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not name.startswith("_")]

    @property
    def model_name(self) -> str:
        """The name of the model that was studied."""
        return str(self._card["model"].get("name", ""))

    @property
    def fingerprint(self) -> str:
        """The fingerprint of that model."""
        return str(self._card["inputs"]["model"])

    @property
    def protocol(self) -> str | None:
        """The name of the protocol; ``None`` where the study is one of the user's own."""
        name = self._card["about"].get("protocol")
        return None if name is None else str(name)

    @property
    def card(self) -> dict[str, Any]:
        """What the directory says of itself: model, inputs and what identifies the study, as JSON values."""
        return self._card

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the study, as JSON values."""
        return dict(self._card["about"].get("config", {}))

    @cached_property
    def facts(self) -> FactSet:
        """The facts that were contested."""
        path = self.directory / FACTS
        try:
            facts = load_facts(path)
        except MechmaskError as error:
            raise StudyError(f"{path} is damaged or missing. Run the study again, which writes it anew.") from error
        if facts.fingerprint() != self._card["inputs"]["facts"]:
            raise StudyError(
                f"{path} is damaged: these are not the facts of the study. Run the study again, which writes it anew."
            )
        return facts

    @cached_property
    def tree(self) -> xr.DataTree:
        """Every reading and result of the study: ``tree["results/erase"]``, ``tree["readings/read_logits/before"]``.

        What an earlier run with other settings left, of steps that have been made anew since, is not among them.
        """
        names = [
            name
            for name in self.step_names
            if (self.directory / name / READING).is_file()
            and not stale_input(self.directory, peek(self.directory / name))
        ]
        return xr.DataTree.from_dict({name: self.reading(name) for name in names})

    @property
    def step_names(self) -> list[str]:
        """The names of the steps that hold readings and results, those that are out of date among them."""
        return [
            path.parent.relative_to(self.directory).as_posix()
            for room in _TABLES
            for path in sorted((self.directory / room).rglob(MANIFEST))
        ]

    @cached_property
    def before(self) -> xr.Dataset:
        """Output reading of every fact and phrasing before the contradiction ``[fact, phrasing, route]``, in nats."""
        return self.reading("readings/read_logits/before")

    @cached_property
    def after(self) -> xr.Dataset:
        """The same after it."""
        return self.reading("readings/read_logits/finetune")

    @cached_property
    def trajectory(self) -> xr.Dataset:
        """The readout at every checkpoint ``[step, fact, route]``, in nats; ``attrs["onset_step"]`` is the onset."""
        return self.reading("results/trajectory")

    @cached_property
    def depth_trajectory(self) -> xr.Dataset:
        """Depth reading of the contradicted facts at every checkpoint ``[step, fact, route, layer]``, in nats."""
        return self.reading("results/depth_trajectory")

    @cached_property
    def depth(self) -> xr.Dataset:
        """Depth reading of the contradicted facts ``[state, fact, phrasing, route, layer]``, in nats."""
        return self.reading("results/depth")

    @cached_property
    def erase(self) -> xr.Dataset:
        """Erase index in nats, verdict, and commit layer in layers, each ``[state, fact]``."""
        return self.reading("results/erase")

    @property
    def commit(self) -> xr.DataArray:
        """Commit layer of the new value ``[state, fact]``, in layers."""
        return self.erase.commit_layer

    def summary(self) -> pd.DataFrame:
        """Erase index beside commit layer: a row for each change and fact."""
        return summary(self.erase)

    def overview(self) -> pd.DataFrame:
        """Mean index and counts of verdicts, with intervals: a row for each change."""
        return overview(self.erase)

    def conclusion(self) -> str:
        """The outcome in two sentences."""
        return conclusion(self.erase)

    def tables(self) -> Tables:
        """Every table by its name, to be made when it is asked for."""
        return {"summary": self.summary, "overview": self.overview}

    def page(self) -> Document:
        """What the report page of the study holds; ``mechmask.draw.report`` writes it.

        Raises:
            StudyError: if there is no result yet, or something is damaged.
        """
        from mechmask.study.pages.study import study_page

        return study_page(self)

    def reading(self, name: str) -> xr.Dataset:
        """A reading or result of the study.

        Args:
            name: its path in the study's directory, such as ``readings/read_logits/before``.

        Returns:
            What the reading function returned, such as ``logprob[fact, route]`` in nats.

        Raises:
            StudyError: if it is not there, damaged, or made from steps that have been made anew since.
        """
        step = self.step(name)
        return load_reading(step.directory / READING)

    def step(self, name: str) -> Step:
        """A step by its name, whole and of the steps that are there.

        Args:
            name: its path in the study's directory.

        Raises:
            StudyError: as ``reading``.
        """
        if not (self.directory / name).is_dir():
            raise UnfinishedError(
                f"{self.directory} has no {name}: the study has not been run to its end. Run it again with the same "
                "directory; it goes on where it stopped."
            )
        if inner := next((self.directory / name).glob(f"*/{MANIFEST}"), None):
            raise StudyError(
                f"{name} in {self.directory} holds several steps. Name one, such as {name}/{inner.parent.name}."
            )
        step = require_whole(self.directory / name)
        stale = stale_input(self.directory, step)
        if stale:
            raise UnfinishedError(
                f"{name} in {self.directory} was made from another {stale} than the one that is there now: the study "
                "was changed and has not been run to its end. Run it again with the same directory."
            )
        return step


def open_study(directory: str | Path) -> StudyResults:
    """The results of a study, without its model and without torch.

    Args:
        directory: where ``MaskStudy.run``, or another protocol, was told to work. It is only read.

    Raises:
        StudyError: if it holds no study, or a file of it is damaged; the message names the file.
    """
    return StudyResults(directory)


def stale_input(root: Path, step: Step) -> str:
    """The first step that this one was made from, directly or not, and that is not there any more; empty if none."""
    for name, digest in step.inputs.items():
        if not (root / name / MANIFEST).is_file():
            if "/" in name:
                return name
            continue
        source = peek(root / name)
        if source.digest != digest:
            return name
        if deeper := stale_input(root, source):
            return deeper
    return ""
