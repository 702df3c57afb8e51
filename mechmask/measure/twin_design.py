"""A study of twins before it is run: what it is to read, and what is expected of these readings.

The noise of one reading of a never-known fact has three parts: over training histories, which only more readings
average out, over phrasings and over distractors. Each is what differs between two models that should read the same.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator

from mechmask.configuration import Configuration
from mechmask.errors import ReadingError
from mechmask.measure.verdict import ALPHA, MARGIN_SHARE

NOISE_NATS = 2.6
"""Standard deviation of one reading of a never-known fact over training histories, in nats: the part that neither
phrasings nor distractors average out. Like the two below and the trace, of SmolLM2-135M on invented facts, from six
draws of the calibration (``tests/benchmarks/ruler.py``, ``expected`` in its results); ``noise`` of ``erase_index`` is
that of a study, all three parts together."""

NOISE_PHRASING_NATS = 2.3
"""What one phrasing adds to it, in nats."""

NOISE_DISTRACTOR_NATS = 2.3
"""What one distractor adds to it, in nats."""

SPREAD_NATS = 8.0
"""Standard deviation of the traces of facts before the change, in nats. A round number: in the calibration's draws
they spread no more than the noise of their references would have them, and a study that counts on that is too small."""

TRACE_NATS = 17.0
"""Mean trace of facts before the change, in nats."""


class TwinDesign(Configuration):
    """What a study of twins reads, and by which rule it decides.

    Attributes:
        facts: contradicted facts.
        never: facts that no twin is taught, from which the noise is known as well.
        twins: each is taught its share of the facts, so that a fact is known in one of them and unknown in the others.
        replicates: of every twin.
        phrasings: of every fact, over which a reading is averaged.
        distractors: of every fact, over which its standing is averaged.
        margin_share: the margin of the verdict, as a share of the trace before.
        alpha: the rate at which each verdict may be wrong.
    """

    refusal = ReadingError

    facts: int = Field(default=12, ge=1)
    never: int = Field(default=12, ge=0)
    twins: int = Field(default=2, ge=2)
    replicates: int = Field(default=1, ge=1)
    phrasings: int = Field(default=4, ge=1)
    distractors: int = Field(default=8, ge=1)
    margin_share: float = Field(default=MARGIN_SHARE, gt=0, lt=1)
    alpha: float = Field(default=ALPHA, gt=0, lt=0.5)

    @property
    def n_knew(self) -> int:
        """Readings of a fact where it is known."""
        return self.replicates

    @property
    def n_never(self) -> int:
        """Readings of a fact where it is not."""
        return (self.twins - 1) * self.replicates

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the noise; with 0 no single fact is decided."""
        return self.facts * (self.n_never - 1) + self.never * (self.twins * self.replicates - 1)


class Expected(Configuration):
    """What is expected of traces and of their noise, from a calibration or an earlier study.

    Attributes:
        trace_before: mean trace of facts before the change, in nats.
        spread: standard deviation of these traces over facts, in nats.
        noise_history: standard deviation of one reading of a never-known fact over training histories, in nats.
        noise_phrasing: what one phrasing adds to it, in nats; averages out over phrasings.
        noise_distractor: what one distractor adds to it, in nats; averages out over distractors.
    """

    refusal = ReadingError

    trace_before: float = Field(default=TRACE_NATS, gt=0, allow_inf_nan=False)
    spread: float = Field(default=SPREAD_NATS, ge=0, allow_inf_nan=False)
    noise_history: float = Field(default=NOISE_NATS, ge=0, allow_inf_nan=False)
    noise_phrasing: float = Field(default=NOISE_PHRASING_NATS, ge=0, allow_inf_nan=False)
    noise_distractor: float = Field(default=NOISE_DISTRACTOR_NATS, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _some_noise(self) -> Expected:
        if not self.noise_history + self.noise_phrasing + self.noise_distractor > 0:
            raise ValueError("readings without any noise decide everything. Give a noise above 0 nats")
        return self

    def noise(self, design: TwinDesign) -> float:
        """Standard deviation of one reading of a never-known fact, in nats.

        Args:
            design: over how many phrasings and distractors it is a mean.
        """
        parts = (self.noise_history, self.noise_phrasing, self.noise_distractor)
        counts = (1, design.phrasings, design.distractors)
        return float(np.sqrt(sum(part**2 / n for part, n in zip(parts, counts, strict=True))))

    def error(self, design: TwinDesign) -> float:
        """Standard error of one trace, in nats.

        Args:
            design: how many readings it is made of.
        """
        return self.noise(design) * float(np.sqrt(1 / design.n_knew + 1 / design.n_never))
