"""The lens of a study: fitted when it is first needed, on the model before any change, and kept as a step."""

from __future__ import annotations

from pathlib import Path

from mechmask.read.lenses.config import LensConfig
from mechmask.read.lenses.lens import LensName, lens_of
from mechmask.read.lenses.load import cached_lens, load_lens
from mechmask.study.run import Run
from mechmask.study.states import FittedLens
from mechmask.study.step import Settings


def fitted_lens(run: Run, kind: LensName, config: LensConfig | None = None) -> FittedLens:
    """The lens of one kind for the model of a run.

    Args:
        run: where it is kept.
        kind: ``logit``, ``ridge`` or ``tuned``.
        config: how it is fitted.

    Raises:
        ReadingError: if there is no such lens, or it cannot be fitted.
    """
    if kind == "logit":
        return FittedLens(lens_of(kind, run.model), {})
    config = config or LensConfig()

    def make(directory: Path) -> None:
        cached_lens(run.model, kind, config).save(directory / "lens")

    step = run.step(f"lenses/{kind}", Settings.of(config), {"model": run.inputs["model"]}, make)
    return FittedLens(load_lens(step.directory / "lens", run.model), {step.name: step.digest})
