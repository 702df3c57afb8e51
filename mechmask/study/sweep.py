"""``Sweep``: one study file over every combination of models, draws, seeds, doses, methods, or whatever else it says.

.. code-block:: toml

    [model]
    source = "smollm2-135m"

    [facts.synthetic]
    n = 12

    [study]
    contradict = { steps = 30 }

    [sweep]
    draw = [0, 1, 2]                       # draws of facts; seed = [0, 1] would be seeds of training
    model = ["smollm2-135m", "my-model"]   # of the table [model], its source
    study.contradict.lr = [1e-4, 1e-3]     # any other key of the file by its path
    study.edits = [["ft_l"], ["rome"]]

Every combination is a study in a directory of its own, so that what is finished is kept and any of them can be opened
alone. Where they run is one argument: one after the other in this process, or as tasks of Ray.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from mechmask.errors import StudyError, known_names
from mechmask.file_errors import file_errors
from mechmask.files import write_text
from mechmask.progress import progress_bar
from mechmask.study.config import read_toml
from mechmask.study.on_ray import run_on_ray
from mechmask.study.step import sealed_text
from mechmask.study.sweep_grid import Point, grid, said
from mechmask.study.sweep_results import DRAW, FINISHED, STUDIES, SWEEP_CARD, SweepResults
from mechmask.study.toml import LastModel

Where = Literal["here", "ray"]

_TABLE = "sweep"


class Sweep:
    """A study file over every combination of what its table ``[sweep]`` lists.

    Args:
        source: a TOML file, or its tables as a mapping, in which paths are relative to the working directory.

    Raises:
        StudyError: if there is no table ``[sweep]``, an axis has no values or the same one twice, or any of the studies
            cannot be configured: then listing which and why.

    Examples:
        >>> import mechmask as mm
        >>> axes = {"draw": [0, 1], "study": {"lens": ["logit", "ridge"]}}
        >>> mm.Sweep({"facts": {"synthetic": {"n": 12}}, "sweep": axes})
        Sweep(4 studies: draw x lens)
    """

    def __init__(self, source: str | Path | Mapping[str, Any]) -> None:
        in_memory = isinstance(source, Mapping)
        path = (Path("sweep.toml") if in_memory else Path(source)).absolute()  # a worker may stand elsewhere
        content = copy.deepcopy(dict(source)) if in_memory else read_toml(path)
        if "draws" in content:
            raise StudyError(f"{path.name}: a sweep has its draws and seeds as axes. Give draw or seed under [sweep].")
        varied = content.pop(_TABLE, None)
        self.axes, self.points = grid(content, varied, path)
        self._require_sound(path.name)

    def __repr__(self) -> str:
        return f"Sweep({len(self.points)} studies: {' x '.join(self.axes)})"

    def run(
        self,
        directory: str | Path,
        on: Where = "here",
        *,
        workers: int | None = None,
        address: str | None = None,
        cpus: float = 1,
        gpus: float = 0,
    ) -> SweepResults:
        """Do what is not done yet in ``directory``; a study that cannot be done does not keep the others from it.

        Args:
            directory: new, or that of such a sweep. With ``on="ray"`` on several machines, one that all of them share.
            on: ``here``, one study after the other in this process; or ``ray``, as tasks of Ray: on a cluster, or where
                no address is given on this machine. A study whose worker is killed is taken up again.
            workers: how many studies run at once on this machine, with ``on="ray"``; as many as its processors and GPUs
                allow by default.
            address: of a Ray cluster, such as ``auto``.
            cpus: processors for each study on Ray, which are also its threads.
            gpus: GPUs for each study on Ray; a share such as 0.5 puts two on one.

        Returns:
            The results of all studies.

        Raises:
            StudyError: if the directory holds something else, ``on`` is not known or cannot be had; and, once all
                others are finished, if studies could not be done, naming each with its reason.
        """
        if on not in get_args(Where):
            raise StudyError(f"A sweep cannot run on {on!r}. {known_names(on, get_args(Where))}")
        if on == "here" and (workers, address, cpus, gpus) != (None, None, 1, 0):
            raise StudyError("workers, address, cpus and gpus are Ray's. Give on='ray' beside them, or leave them out.")
        root = Path(directory).absolute()
        _refuse_strangers(root)
        studies = {point.name: {"labels": point.labels, "made_from": point.digest} for point in self.points}
        write_text(root / SWEEP_CARD, sealed_text({"axes": self.axes, "studies": studies}))
        if on == "ray":
            done = run_on_ray(self.points, root, workers=workers, address=address, cpus=cpus, gpus=gpus)
        else:
            done = _run_here(self.points, root)
        failed: dict[str, str] = {}
        with progress_bar("studies", len(self.points)) as tick:
            for name, problem in done:
                tick(name)
                if problem:
                    failed[name] = problem
        if failed:
            raise StudyError(_failures(failed, len(self.points), root))
        return SweepResults(directory)

    def _require_sound(self, name: str) -> None:
        """Look at every study before the first is run."""
        for point in self.points:
            try:
                found = point.description
            except StudyError as error:
                raise StudyError(f"{said(point.labels)}: {error}") from error
            if found.protocol.draws_facts:
                raise StudyError(
                    f"{name}: this protocol draws its facts itself and is no single study. Sweep over a protocol that "
                    "it consists of."
                )
            if DRAW in point.labels and found.file.facts.path is not None:
                raise StudyError(f"{name}: the facts of a file are one draw. Leave draw out, or give other facts.")


def _run_here(points: tuple[Point, ...], root: Path) -> Iterator[tuple[str, str]]:
    """One study after the other; each model is loaded once, since its studies follow one another."""
    models = LastModel()
    for point in points:
        yield point.name, point.run(models, root)


def _failures(failed: Mapping[str, str], n: int, root: Path) -> str:
    lines = "\n".join(f"  {name}: {problem}" for name, problem in failed.items())
    return (
        f"{len(failed)} of {n} studies could not be done:\n{lines}\n"
        f"All others are finished; the same call goes on with these, and open_results({str(root)!r}) opens the others."
    )


def _refuse_strangers(root: Path) -> None:
    """Leave a directory alone that holds something but a sweep."""
    with file_errors(root):
        there = {path.name for path in root.iterdir()} if root.is_dir() else set()
    ours = {STUDIES, FINISHED} if SWEEP_CARD in there else set()
    others = sorted(name for name in there - ours if name != SWEEP_CARD and not name.startswith(f".{SWEEP_CARD}."))
    if others:
        raise StudyError(f"{root} is not empty and holds no sweep (there is {others[0]}). Give a new directory.")
