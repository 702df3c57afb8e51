"""What a dose study does, as a frozen configuration: a grid of trainings, multiples of their changes, how all is read.

The grid says in what each training differs from one; whatever a training can be configured by may stand in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from mechmask.configuration import Configuration
from mechmask.measure.erase import PAPER_CUTOFF_NATS
from mechmask.measure.old_value import StatisticName
from mechmask.measure.trace import STATISTIC
from mechmask.measure.verdict import ALPHA, MARGIN_SHARE
from mechmask.write.finetune_config import OF_ADAPTERS, FinetuneConfig

_CONTINUED = ("rank", "alpha", "projections", "layers", "method")  # what a change that is trained further keeps


class DoseConfig(Configuration):
    """Which doses are given, and how they are read and judged.

    Attributes:
        contradict: how the new values are taught.
        grid: a training for each entry, which says in what it differs from ``contradict``; a table of lists, such as
            ``{"lr": [1e-4, 1e-3], "rank": [4, 16]}``, stands for all their combinations.
        scales: multiples of each trained change that are read as well; 0 is none of it, 1 all. A DoRA has none.
        install: how the old values are taught first, in twins; ``None`` for facts that the model knows.
        twins: how many, with ``install``; each is taught one share of the facts.
        taught_phrasings: in how many of its phrasings each fact is taught, the prompt first.
        checkpoint_every: optimizer steps between two doses.
        corpus: text on which a dose's cost is read, the path of a UTF-8 file; by default what the model samples.
        text_tokens: how much of it.
        statistic: of the old value, of which the trace is made.
        margin_share: the margin of the verdict, as a share of the trace before.
        alpha: the rate at which each verdict may be wrong.
        cutoff_nats: erase index above which the paper's criterion says erased.
        level: of the intervals of means.
        batch_size: prompts per forward pass; affects memory only.
    """

    contradict: FinetuneConfig = FinetuneConfig(lr=1e-4, steps=30)
    grid: tuple[dict[str, Any], ...] = Field(default=({},), min_length=1)
    scales: tuple[float, ...] = (-1.0, -0.5, 0.25, 0.5, 0.75, 1.25, 1.5)
    install: FinetuneConfig | None = None
    twins: int = Field(default=2, ge=2)
    taught_phrasings: int = Field(default=1, ge=1)
    checkpoint_every: int = Field(default=5, ge=1)
    corpus: str | None = None
    text_tokens: int = Field(default=2048, ge=64)
    statistic: StatisticName = STATISTIC
    margin_share: float = Field(default=MARGIN_SHARE, gt=0, lt=1)
    alpha: float = Field(default=ALPHA, gt=0, lt=0.5)
    cutoff_nats: float = Field(default=PAPER_CUTOFF_NATS, gt=0)
    level: float = Field(default=0.95, gt=0, lt=1)
    batch_size: int = Field(default=32, ge=1)

    @field_validator("grid", mode="before")
    @classmethod
    def _combinations(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        lists = {name: values if isinstance(values, list | tuple) else [values] for name, values in given.items()}
        return tuple(dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))

    @field_validator("scales")
    @classmethod
    def _finite(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if not np.isfinite(scales).all():
            raise ValueError("a scale is not a finite number. Give numbers such as 0.5")
        return tuple(sorted(set(scales) - {0.0, 1.0}))  # those two are read at the ends of the training

    @model_validator(mode="after")
    def _trainings(self) -> DoseConfig:
        if len(self.courses) < len(self.grid):
            raise ValueError("two entries of the grid are the same training. Leave one out")
        for name, course in self.courses.items():
            for field in _CONTINUED if self.install is not None else ():
                here, there = getattr(course, field), getattr(self.install, field)
                if here != there:
                    raise ValueError(
                        f"the training {name!r} has {field} {here} and goes on from an installed change with {there}. "
                        f"Give both the same {field}, or vary it on facts that the model knows (install=None)"
                    )
        return self

    @property
    def courses(self) -> dict[str, FinetuneConfig]:
        """Every training by its name, which says in what it differs from ``contradict``.

        Raises:
            ChangeError: if an entry of the grid is none that a training can have.
        """
        return {
            ", ".join(f"{name}={value}" for name, value in sorted(entry.items())) or "contradict": self._course(entry)
            for entry in self.grid
        }

    def _course(self, entry: Mapping[str, Any]) -> FinetuneConfig:
        """The training that an entry means; one of all weights takes over nothing that belongs to adapters."""
        without: set[str] = set(OF_ADAPTERS) if entry.get("method") == "full" else set()
        return FinetuneConfig.model_validate({**self.contradict.model_dump(exclude=without), **entry})

    @property
    def options(self) -> dict[str, Any]:
        """What ``erase_index`` is called with."""
        return self.model_dump(include={"statistic", "margin_share", "alpha", "cutoff_nats", "level"})
