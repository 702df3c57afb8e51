"""``Draws``: one protocol over several draws of facts and seeds of training, pooled with the draw as the cluster.

A draw is a study of its own below the directory, so that what is finished is kept and any of them can be opened alone.
The pooled tables hold the mean of a draw as one observation: facts that were trained together are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pandas as pd
import xarray as xr

from mechmask.configuration import Configuration
from mechmask.errors import StudyError
from mechmask.file_errors import file_errors
from mechmask.files import write_text
from mechmask.measure.pool import pooled
from mechmask.measure.summary import conclusion, overview, summary
from mechmask.study.results import StudyResults
from mechmask.study.step import sealed_text, unsealed
from mechmask.study.tabled import Results, Tables
from mechmask.write.finetune_config import FinetuneConfig

if TYPE_CHECKING:
    from mechmask.draw.page.content import Document

CARD = "draws.json"

Config = TypeVar("Config", bound=Configuration)


class _Study(Protocol):
    def run(self, directory: str | Path) -> Any: ...


class Draws:
    """One protocol over draws of facts and seeds of training.

    Args:
        study_of: makes the study of a draw: of the draw's number, which draws the facts, and a seed of training.
        draws: the numbers of the draws.
        seeds: of training; each draw is trained once with each. Facts stay one cluster over them.

    Raises:
        StudyError: if there is no draw or no seed, or one stands there twice.

    Examples:
        >>> import mechmask as mm
        >>> draws = mm.Draws(lambda draw, seed: mm.TwinStudy(model, mm.synthetic_facts(9, seed=draw)))  # doctest: +SKIP
        >>> print(draws.run("runs/draws").conclusion())  # doctest: +SKIP
    """

    def __init__(
        self, study_of: Callable[[int, int], _Study], draws: Sequence[int] = range(5), seeds: Sequence[int] = (0,)
    ) -> None:
        self.study_of, self.draws, self.seeds = study_of, tuple(draws), tuple(seeds)
        for what, numbers in (("draw", self.draws), ("seed", self.seeds)):
            if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0:
                raise StudyError(
                    f"{what}s={list(numbers)} cannot be run. Give at least one {what}, none twice or below 0."
                )

    def __repr__(self) -> str:
        return f"Draws({len(self.draws)} draws, {len(self.seeds)} seeds)"

    def run(self, directory: str | Path) -> DrawnResults:
        """Do what is not done yet in ``directory``: every study of a draw is taken up where it stopped.

        Args:
            directory: new, or that of such draws.

        Returns:
            The results of all draws, pooled.

        Raises:
            StudyError: if the directory holds something else; and what the studies raise.
        """
        root = Path(directory)
        _refuse_strangers(root)
        for draw in self.draws:
            for seed in self.seeds:
                self.study_of(draw, seed).run(root / _name(draw, seed))
        write_text(root / CARD, sealed_text({"draws": list(self.draws), "seeds": list(self.seeds)}))
        return DrawnResults(root)


class DrawnResults(Results):
    """What several draws found, opened without a model: pooled readings and tables.

    Args:
        directory: of the draws.

    Raises:
        StudyError: if there are none, the card is damaged, or a draw is of another model or configuration than the
            others, as where a run of them under another one has not come to its end.
    """

    _in_notebook = "overview"

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        path = self.directory / CARD
        if not path.is_file():
            raise StudyError(f"{self.directory} holds no finished draws. Give the directory of a run of them.")
        try:
            self._card = unsealed(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StudyError(f"{path} is damaged ({error}). Run the draws again: what is finished is kept.") from error
        self._require_alike()

    def __repr__(self) -> str:
        return f"DrawnResults({str(self.directory)!r}, {len(self._card['draws'])} draws)"

    def __iter__(self) -> Iterator[StudyResults]:
        return iter(self.studies.values())

    @cached_property
    def studies(self) -> Mapping[str, StudyResults]:
        """The results of every draw, by its name: ``0``, or ``0.1`` with the seed where there are several."""
        draws, seeds = self._card["draws"], self._card["seeds"]
        return {
            f"{draw}.{seed}" if len(seeds) > 1 else str(draw): StudyResults(self.directory / _name(draw, seed))
            for draw in draws
            for seed in seeds
        }

    @property
    def model_name(self) -> str:
        """The name of the model that was studied."""
        return next(iter(self)).model_name

    @property
    def fingerprint(self) -> str:
        """The fingerprint of that model."""
        return next(iter(self)).fingerprint

    def _require_alike(self) -> None:
        (first, one), *others = self.studies.items()
        for name, other in others:
            if (other.fingerprint, _unseeded(other.config)) != (one.fingerprint, _unseeded(one.config)):
                raise StudyError(
                    f"In {self.directory} draw {name} is of another model or configuration than draw {first}: a run of "
                    "them has not come to its end. Run the draws again with the same directory."
                )

    def reading(self, name: str) -> xr.Dataset:
        """A result of all draws, joined along ``fact``, with the draw as ``seed[fact]``.

        Args:
            name: its path in the directory of each draw, such as ``results/erase``.

        Returns:
            What ``pooled`` makes of it, such as ``index[state, fact]`` in nats; a draw that was trained with several
            seeds is one cluster. Of a single draw, each training is one.

        Raises:
            StudyError: if a draw lacks it.
            ReadingError: if it holds no facts, or draws differ in what they hold.
        """
        joined = pooled({key: study.reading(name) for key, study in self.studies.items()})
        if len(self._card["draws"]) == 1:
            return joined
        return joined.assign_coords(seed=("fact", [key.split(".")[0] for key in joined["seed"].values.tolist()]))

    def each(self, name: str) -> dict[str, xr.Dataset]:
        """A result of every draw by the draw's name, not joined.

        Args:
            name: its path in the directory of each draw.

        Returns:
            As the protocol wrote it, such as ``survival[arm, step]``, a share, or ``index[fact]`` in nats.

        Raises:
            StudyError: if a draw lacks it.
        """
        return {key: study.reading(name) for key, study in self.studies.items()}

    @cached_property
    def erase(self) -> xr.Dataset:
        """Erase index in nats and verdicts ``[state, fact]`` of all draws."""
        return self.reading("results/erase")

    def summary(self) -> pd.DataFrame:
        """A row for each change and fact of all draws."""
        return summary(self.erase)

    def overview(self) -> pd.DataFrame:
        """Means and counts of verdicts over all draws; intervals of means are over draws."""
        return overview(self.erase)

    def by_draw(self) -> pd.DataFrame:
        """The overview of each draw alone."""
        return pd.concat({key: study.overview() for key, study in self.studies.items()}, names=["draw"])

    def conclusion(self) -> str:
        """The outcome of all draws in words."""
        return conclusion(self.erase)

    def tables(self) -> Tables:
        """Every table by its name, to be made when it is asked for."""
        return {"summary": self.summary, "overview": self.overview, "by_draw": self.by_draw}

    def page(self) -> Document:
        """What the report page of the draws holds; ``mechmask.draw.report`` writes it.

        Raises:
            StudyError: if something is damaged.
        """
        from mechmask.study.pages.draws import draws_page

        return draws_page(self)


def open_draws(directory: str | Path) -> DrawnResults:
    """The results of draws that were run, without their model and without torch.

    Args:
        directory: where ``Draws.run`` was told to work. It is only read.

    Raises:
        StudyError: if it holds no finished draws.
    """
    return DrawnResults(directory)


def reseeded(config: Config, seed: int) -> Config:
    """A configuration whose trainings, wherever they stand in it, have another seed.

    Args:
        config: of a protocol.
        seed: added to that of every training.
    """
    changed = {name: _reseeded(value, seed) for name, value in config}
    return config.model_copy(update={name: value for name, value in changed.items() if value != getattr(config, name)})


def _reseeded(value: Any, seed: int) -> Any:
    if isinstance(value, FinetuneConfig):
        return value.model_copy(update={"seed": value.seed + seed})
    if isinstance(value, Configuration):
        return reseeded(value, seed)
    if isinstance(value, Mapping):
        return {name: _reseeded(inner, seed) for name, inner in value.items()}
    return value


def _unseeded(config: Any) -> Any:
    """A configuration as JSON values, without the seeds in which draws may differ."""
    if isinstance(config, Mapping):
        return {name: _unseeded(value) for name, value in config.items() if name != "seed"}
    return [_unseeded(value) for value in config] if isinstance(config, list) else config


def _name(draw: int, seed: int) -> str:
    return f"draw_{draw:03d}/seed_{seed}"


def _refuse_strangers(root: Path) -> None:
    """Leave a directory alone that holds something but draws."""
    with file_errors(root):
        there = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    strangers = [name for name in there if name != CARD and not name.startswith((f".{CARD}.", "draw_"))]
    if strangers:
        raise StudyError(f"{root} is not empty and holds no draws (there is {strangers[0]}). Give a new directory.")
