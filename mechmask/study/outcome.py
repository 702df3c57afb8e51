"""An outcome of a run: labelled arrays below ``results/``, made from steps that it names as its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import xarray as xr

from mechmask.measure.reading import load_reading, save_reading
from mechmask.measure.surprise import surprise_and_margin
from mechmask.study.results import READING
from mechmask.study.run import Run
from mechmask.study.step import Settings, Step, file_in


def outcome(
    run: Run,
    name: str,
    sources: Iterable[Step],
    make: Callable[[], xr.Dataset],
    settings: Mapping[str, Any] | None = None,
) -> Step:
    """The outcome of that name, as it is there or made now.

    Args:
        run: whose outcome it is.
        name: below ``results/``.
        sources: the steps that it is made from.
        make: makes it; no model is needed.
        settings: what else it depends on, as JSON values.

    Raises:
        StudyError: if a source has been replaced since, or it cannot be written.
    """
    chosen = dict(settings or {})
    inputs = {**run.inputs, **{step.name: step.digest for step in sources}}
    return run.step(
        f"results/{name}", Settings(chosen, chosen), inputs, lambda directory: save_reading(make(), directory / READING)
    )


def surprise_of(run: Run, erased: Step, level: float) -> Step:
    """The outcome ``surprise`` of a study that ends in a correction: of each of its states, from ``results/erase``.

    Args:
        run: whose outcome it is.
        erased: what ``erase_index`` gave, along ``state``.
        level: of the intervals.
    """

    def surprising() -> xr.Dataset:
        return surprise_and_margin(load_reading(file_in(erased, READING)), level)

    return outcome(run, "surprise", [erased], surprising, {"level": level})
