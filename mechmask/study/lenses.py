"""The lens of a study: fitted when it is first needed, on the model before any change, and kept as a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mechmask.errors import StudyError
from mechmask.read.lenses.config import LensConfig
from mechmask.read.lenses.lens import Lens, LensName, lens_of
from mechmask.read.lenses.load import cached_lens, load_lens
from mechmask.study.run import Run
from mechmask.study.step import Settings


@dataclass(frozen=True, eq=False)
class FittedLens:
    """A lens of a run, and digests of the steps that hold it, by name; none for the logit lens, which is not fitted.

    Raises:
        StudyError: if another lens comes without a digest: what it reads could not be told from another lens's.
    """

    lens: Lens
    inputs: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.lens.name != "logit" and not self.inputs:
            raise StudyError(
                f"The lens {self.lens.name} names nothing that tells it from another lens of that name. Take "
                "fitted_lens(run, name), or give a digest of it among the inputs."
            )


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
