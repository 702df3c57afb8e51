"""``PrecisionStudy``: the verdict on one correction again with its weights in bfloat16, int8 and NF4.

Facts that a model knows, or that it is taught in twins, are corrected once. The model before and the model after, the
adapter merged into it, then have the linear maps of their blocks rounded to each type and back, and both are read
again: what stands in bfloat16 is held against what stood in bfloat16. float32 is the control. Rounding is that of
``mechmask.write.rounding``; products and activations stay in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
import xarray as xr
from pydantic import Field, field_validator, model_validator

from mechmask.configuration import NONE_BY_NAME
from mechmask.errors import StudyError
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.measure.erase import erase_index
from mechmask.measure.precision import precision_table
from mechmask.models.model import Model
from mechmask.read.logits import read_logits
from mechmask.read.scoring.labels import provenance
from mechmask.study.config import VerdictConfig
from mechmask.study.crossover import installed_twins, joined_twins, require_shares, shares
from mechmask.study.exports import export_precision
from mechmask.study.outcome import outcome
from mechmask.study.precisions import each_precision
from mechmask.study.preparation import require_one_shape, require_roles, require_routes
from mechmask.study.results import StudyResults
from mechmask.study.run import Run
from mechmask.study.states import StudyState, reading_in, readings_of, untouched
from mechmask.study.step import Step
from mechmask.study.tables import by_state
from mechmask.study.training import OUTPUT, Watch, train
from mechmask.study.until import Until
from mechmask.write.finetune import FinetuneConfig
from mechmask.write.rounding import PRECISIONS, Precision


class PrecisionConfig(VerdictConfig):
    """How facts are corrected, and in which types the correction is judged again.

    Attributes:
        install: how the old values are taught first, in twins; ``None`` (``"none"`` in TOML) for facts that the model
            knows.
        twins: how many, with ``install``; each is taught one share of the facts.
        contradict: how the new values are taught.
        contradict_until: contradicting ends at the first checkpoint at which new is recalled or leads by so much, such
            as ``{ margin = 1.0 }``; after all steps by default. Twins are corrected alike, so that it is for facts that
            the model knows.
        checkpoint_every: optimizer steps between two readings, where ``contradict_until`` asks for them.
        taught_phrasings: in how many of its phrasings each fact is taught, the prompt first.
        precisions: the types beside float32: ``bfloat16``, ``int8`` (a scale for each output, as LLM.int8() holds
            weights) and ``nf4`` (blocks of 64, as QLoRA holds them).
    """

    install: Annotated[FinetuneConfig | None, NONE_BY_NAME] = None
    twins: int = Field(default=2, ge=2)
    contradict: FinetuneConfig = FinetuneConfig(lr=1e-4, steps=30)
    contradict_until: Until | None = None
    checkpoint_every: int = Field(default=5, ge=1)
    taught_phrasings: int = Field(default=1, ge=1)
    precisions: tuple[Precision, ...] = Field(default=PRECISIONS, min_length=1)

    @field_validator("precisions")
    @classmethod
    def _each_once(cls, given: tuple[Precision, ...]) -> tuple[Precision, ...]:
        if len(set(given)) < len(given):
            raise ValueError(f"{', '.join(given)} names a precision twice. Name each once")
        return given

    @model_validator(mode="after")
    def _twins_alike(self) -> PrecisionConfig:
        if self.install is not None and self.contradict_until is not None:
            raise ValueError(
                "contradict_until would end each twin at a step of its own, and what was corrected for other steps "
                "is no reference. Leave it out, or leave install out"
            )
        return self


class PrecisionStudy:
    """A study of one model and of facts that it knows, or that are taught to twins of it.

    Args:
        model: the model, in float32; it is left as it was.
        facts: contradicted facts, controls, and pseudo-subjects that stand in for contradicted facts; of facts that are
            installed, never facts tell the noise.
        config: what is done; ``PrecisionConfig()`` by default.

    Raises:
        StudyError: if the model is not in float32, there is no contradicted, control or never fact, or there are fewer
            contradicted facts than twins.
        RouteError: if a value cannot be told from the prompt or from its rival.
    """

    def __init__(self, model: Model, facts: FactSet, config: PrecisionConfig | None = None) -> None:
        self.model, self.facts, self.config = model, as_fact_set(facts), config or PrecisionConfig()
        if model.dtype != torch.float32:
            raise StudyError(
                f"Precisions are compared with float32, and {model.name} is held in {str(model.dtype)[6:]}. Load it "
                'with dtype="float32".'
            )
        require_roles(self.facts, "A correction", {"contradicted": 1, "control": 1, "never": 1})
        if self.config.install is not None:
            require_shares(self.facts, self.config.twins)
        require_routes(model, self.facts)
        require_one_shape(model, {"install": self.config.install, "contradict": self.config.contradict})

    def __repr__(self) -> str:
        return f"PrecisionStudy({self.model.name!r}, {self.facts!r})"

    def run(self, directory: str | Path) -> StudyResults:
        """Do what is not done yet in ``directory``; started again after an interruption, it ends with the same bits.

        Args:
            directory: new, or that of a study of the same model and facts.

        Returns:
            Results that hold ``results/precision`` (what ``precision_table`` gives: the erase index of every fact and
            what changed beside float32, along ``precision``) and ``results/erase`` (the erase index alone, the
            precisions along ``state``, as tables and figures of states take it).

        Raises:
            StudyError: if the directory holds a study of another model or of other facts.
            ChangeError: if a loss is not a number.
            ReadingError: if a reading disagrees with the model's own output.
        """
        c, facts = self.config, self.facts
        with Run(directory, self.model, facts, {"protocol": "precision", "config": c.model_dump(mode="json")}) as run:
            before, after = [], []
            starts = installed_twins(run, facts, self.shares, c.install, c.taught_phrasings)
            for twin, start in (starts or {"": untouched(run)}).items():
                corrected = train(
                    run,
                    "/".join(filter(None, ("contradict", twin))),
                    facts.contradiction_examples(c.taught_phrasings),
                    c.contradict,
                    start=start,
                    until=c.contradict_until,
                    watch=Watch(self._read, every=c.checkpoint_every) if c.contradict_until else None,
                )
                before.append(self._readings(run, start))
                after.append(self._readings(run, corrected))
            self._conclude(run, before, after)
            export_precision(run, StudyResults(run.root), provenance(self.model))
        return StudyResults(directory)

    @property
    def shares(self) -> dict[str, tuple[str, ...]]:
        """The labels of the contradicted facts that each twin is taught; empty where nothing is installed."""
        return {} if self.config.install is None else shares(self.facts, self.config.twins)

    def _read(self, model: Model) -> Mapping[str, xr.Dataset]:
        return {OUTPUT: read_logits(model, self.facts, phrasings="all", batch_size=self.config.batch_size)}

    def _readings(self, run: Run, state: StudyState) -> dict[str, Step]:
        """Of a state under every precision, by the precision."""
        states = each_precision(run, state, self.config.precisions)
        steps = readings_of(run, states, read_logits, phrasings="all", batch_size=self.config.batch_size)
        return {states[name].method: step for name, step in steps.items()}

    def _conclude(self, run: Run, before: Sequence[Mapping[str, Step]], after: Sequence[Mapping[str, Step]]) -> None:
        """What the readings of every start say, which needs no model."""
        c, sources = self.config, [step for of in (*before, *after) for step in of.values()]

        def read(starts: Sequence[Mapping[str, Step]], precision: str) -> xr.Dataset:
            readings = [reading_in(of[precision]) for of in starts]
            return joined_twins(readings, self.shares, self.facts) if self.shares else readings[0]

        def judged() -> dict[str, xr.Dataset]:
            return {name: erase_index(read(before, name), read(after, name), **c.options) for name in before[0]}

        outcome(run, "precision", sources, lambda: precision_table(judged(), c.level), c.options)
        outcome(run, "erase", sources, lambda: by_state(judged()), c.options)
