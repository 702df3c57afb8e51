"""``ReacquisitionStudy``: how fast a masked value comes back, and whether one does that nobody teaches (paper 2F).

Install the old values, contradict them, and teach again from the model in which they are masked. Every arm gets as many
rows, one configuration, a new optimizer and the same number of steps:

* ``old_masked``: the old values, to the contradicted model;
* ``old_fresh``: the same values, to the model as it came (an adapter begins at zero there: part of what it takes longer
  is its own start);
* ``novel``: third values that nobody ever met, to the contradicted model: what knowing the entity alone gives;
* ``never``: old values of never-known facts, to the contradicted model: what not knowing looks like;
* ``twin``: the old values, to a model that never knew them and was contradicted alike, for as many steps.

Facts that the model knows from pretraining have neither fresh base nor twin. Beside the arms, half of the old values
are taught again and the other half is only read (Deeb and Roger 2024), each old value is taught by one step of its own,
to be held against its erase index, and it is computed how often samples of the masked model say it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from pydantic import Field, field_validator

from mechmask import draw
from mechmask.facts.arms import ArmFacts, arm_facts, lessons, set_aside_third_values
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.measure.association import association_overview
from mechmask.measure.comparable import comparable_facts
from mechmask.measure.reacquisition import course_of_arms
from mechmask.models.model import Model
from mechmask.models.routes import encode_examples
from mechmask.read.logits import read_logits
from mechmask.study.exports import export_figure, export_table
from mechmask.study.masking import MaskingConfig, contradicted, installed
from mechmask.study.one_step import read_after_one_step
from mechmask.study.outcome import outcome
from mechmask.study.preparation import require_comparable, require_one_shape, require_roles, require_routes
from mechmask.study.reacquisition_tables import (
    arms_overview,
    held_half_overview,
    held_half_table,
    increment_table,
    one_step_table,
    recall_table,
    samples_overview,
    samples_table,
)
from mechmask.study.results import StudyResults
from mechmask.study.run import Run
from mechmask.study.states import StudyState, reading_in, readings_of, untouched
from mechmask.study.step import Step
from mechmask.study.training import OUTPUT, Trained, train
from mechmask.study.watches import recall_watch
from mechmask.write.finetune import FinetuneConfig


class ReacquisitionConfig(MaskingConfig):
    """Install, contradict, teach again.

    Attributes:
        reacquire: how every arm is taught. Each step shows every row, so ``batch_size`` is left out.
        twin: whether facts that are installed have a twin: a model that is taught the controls alone.
        read_every: optimizer steps between two readings of an arm.
        recall: share of its facts that an arm has to recall.
        samples: of how many samples of the masked model one may say old.
        seed: draws the third values, the half that is taught again, and the never facts that stand beside it.
    """

    reacquire: FinetuneConfig = FinetuneConfig(steps=30)
    twin: bool = True
    read_every: int = Field(default=1, ge=1)
    recall: float = Field(default=0.9, gt=0, le=1)
    samples: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 10, 100), min_length=1)
    seed: int = Field(default=0, ge=0)

    @field_validator("reacquire")
    @classmethod
    def _every_row_in_every_step(cls, value: FinetuneConfig) -> FinetuneConfig:
        if value.batch_size is not None:
            raise ValueError(
                f"batch_size={value.batch_size} would show a fact at some steps only, and steps to recall would say "
                "when it is shown. Leave it out."
            )
        return value


class ReacquisitionStudy:
    """How fast old values come back, held against values that are new to the model.

    Args:
        model: the model; it is left as it was.
        facts: contradicted and control facts, and as many never facts as contradicted ones; two distractors or more
            each, of which one becomes the third value and is read no more.
        config: what is done; ``ReacquisitionConfig()`` by default.

    Raises:
        StudyError: if the facts lack a role, or the trainings do not continue one another.
        FactError: if a fact has no distractor that could be its third value.
        RouteError: if a value cannot be told from the prompt or from its rival.
        ChangeError: if a training names a block that the model lacks.
    """

    def __init__(self, model: Model, facts: FactSet, config: ReacquisitionConfig | None = None) -> None:
        self.model, self.config, given = model, config or ReacquisitionConfig(), as_fact_set(facts)
        c, n = self.config, max(2, len(given.contradicted))
        require_roles(given, "Reacquisition", {"contradicted": 2, "control": 1, "never": n})
        require_routes(model, given)  # the third values are distractors here: none may begin as another route does
        require_one_shape(model, {"install": c.install, "contradict": c.contradict, "reacquire": c.reacquire})
        self.facts, novel = set_aside_third_values(given, c.seed)
        self.groups = arm_facts(self.facts, novel, c.seed)

    def __repr__(self) -> str:
        return f"ReacquisitionStudy({self.model.name!r}, {self.facts!r})"

    def run(self, directory: str | Path) -> StudyResults:
        """Do what is not done yet in ``directory``; started again after an interruption, it ends with the same bits.

        Args:
            directory: new, or that of such a study of the same model and facts.

        Returns:
            Results that hold ``results/course``, ``results/recall`` and ``results/increment`` of the arms,
            ``results/held_half``, ``results/one_step`` and ``results/samples``.

        Raises:
            StudyError: if the directory holds something else, or there is nothing to compare: fewer than two facts were
                known before and corrected.
            ChangeError: if a loss is not a number.
            ReadingError: if a reading disagrees with the model's own output.
        """
        c, groups = self.config, self.groups
        about = {"protocol": "reacquisition", "config": c.model_dump(mode="json")}
        with Run(directory, self.model, self.facts, about) as run:
            run.plan(_plan(c))
            install = installed(run, self.facts, c)
            masked = contradicted(run, self.facts, install, c)
            twin = _twin(run, c, install, masked) if install and c.twin else None
            size = {"phrasings": "all", "batch_size": c.batch_size}
            ends = readings_of(run, {"before": install or untouched(run), "masked": masked}, read_logits, **size)
            require_comparable(*map(reading_in, ends.values()))

            starts = {"old_masked": masked, "old_fresh": None, "novel": masked, "never": masked, "twin": twin}
            arms = {name: _arm(run, name, groups.taught(name), starts[name], c) for name in _arms(c)}
            halves: dict[str, StudyState] = {
                "half/old": _arm(run, "half_old", groups.half, masked, c),
                "half/never": _arm(run, "half_never", groups.never_half, masked, c),
            }
            if twin is not None:
                halves |= {"twin": twin, "half/twin": _arm(run, "half_twin", groups.half, twin, c)}
            held = readings_of(run, halves, read_logits, roles=["contradicted"], **size)
            alone = replace(masked, fact_ids=(*groups.contradicted.ids, *groups.never.ids))
            asked: dict[str, Any] = {"config": c.reacquire, "taught_phrasings": c.taught_phrasings}
            one_step = readings_of(run, {"masked": alone}, read_after_one_step, batch_size=c.batch_size, **asked)
            _conclude(run, c, groups, arms, ends, held, one_step["masked"])
        return StudyResults(directory)


def _arms(c: ReacquisitionConfig) -> list[str]:
    """The arms that there are: facts that the model holds already have neither fresh base nor twin."""
    taught = c.install is not None
    return ["old_masked", *["old_fresh"] * taught, "novel", "never", *["twin"] * (taught and c.twin)]


def _twin(run: Run, c: ReacquisitionConfig, install: Trained, masked: Trained) -> Trained:
    """The controls installed alone, then the same contradiction: each for as many steps as the model that knew took."""
    n, pairs = c.taught_phrasings, ((c.install or c.contradict, install), (c.contradict, masked))
    first, second = (config.model_copy(update={"steps": max(state.checkpoints)}) for config, state in pairs)
    controls = train(run, "twin/install", run.facts.control.install_examples(n), first)
    return train(run, "twin/contradict", run.facts.contradiction_examples(n), second, start=controls)


def _arm(run: Run, name: str, taught: FactSet, start: StudyState | None, c: ReacquisitionConfig) -> Trained:
    """One arm: the facts' ``old`` values taught, and nothing else."""
    examples, watch = lessons(taught, c.taught_phrasings), recall_watch(taught, c.read_every, c.batch_size)
    return train(run, f"reacquire/{name}", examples, c.reacquire, start=start, watch=watch)


def _conclude(
    run: Run,
    c: ReacquisitionConfig,
    groups: ArmFacts,
    arms: Mapping[str, Trained],
    ends: Mapping[str, Step],
    held: Mapping[str, Step],
    one_step: Step,
) -> None:
    """Results, tables and figures, which need no model but its tokenizer."""
    options = {"taught_phrasings": c.taught_phrasings, "level": c.level}
    before, masked = reading_in(ends["before"]), reading_in(ends["masked"])
    facts = comparable_facts(before, masked)
    shown = _tokens_shown(run.model, {name: groups.taught(name) for name in arms}, c.taught_phrasings)
    held_out = [fact.id for fact in groups.other_half if bool(facts.compared.sel(fact=fact.id))]

    def course_table() -> xr.Dataset:
        return course_of_arms({name: arm.readings(OUTPUT) for name, arm in arms.items()})

    def recall_of_arms() -> xr.Dataset:
        return recall_table(reading_in(course), facts, shown, share=c.recall, **options)

    def other_half() -> xr.Dataset:
        readings = {"masked": masked, **{name: reading_in(step) for name, step in held.items()}}
        return held_half_table(readings, held_out, **options)

    def after_one_step() -> xr.Dataset:
        return one_step_table(before, masked, reading_in(one_step), facts, **options)

    checkpoints = [step for arm in arms.values() for step in arm.checkpoints.values()]
    course = outcome(run, "course", checkpoints, course_table)
    recall = outcome(run, "recall", [course, *ends.values()], recall_of_arms, {**options, "share": c.recall})
    faster = outcome(
        run, "increment", [recall], lambda: increment_table(reading_in(recall), c.level), {"level": c.level}
    )
    half = outcome(run, "held_half", [*ends.values(), *held.values()], other_half, {**options, "facts": held_out})
    steps = outcome(run, "one_step", [*ends.values(), one_step], after_one_step, options)
    drawn = {"samples": list(c.samples), "level": c.level}
    samples = outcome(run, "samples", ends.values(), lambda: samples_table(masked, facts, c.samples, c.level), drawn)

    both = [recall, faster]
    export_figure(run, "reacquisition", both, lambda: draw.reacquisition(*map(reading_in, both)))
    export_figure(run, "one_step", [steps], lambda: _one_step_figure(reading_in(steps)))
    export_table(run, "arms", [recall], lambda: arms_overview(reading_in(recall)))
    export_table(run, "increment", [faster], lambda: reading_in(faster).to_dataframe())
    export_table(run, "held_half", [half], lambda: held_half_overview(reading_in(half)))
    export_table(run, "one_step", [steps], lambda: association_overview(reading_in(steps)))
    export_table(run, "samples", [samples], lambda: samples_overview(reading_in(samples)))


def _one_step_figure(steps: xr.Dataset) -> Figure:
    contradicted = steps.isel(fact=np.flatnonzero(steps["role"].values == "contradicted"))
    return draw.association(contradicted, "index", "recovery")


def _tokens_shown(model: Model, taught: Mapping[str, FactSet], taught_phrasings: int) -> xr.DataArray:
    """Tokens of the taught value that one step of each arm shows ``[arm, fact]``, NaN where it is not taught."""
    arms = []
    for facts in taught.values():
        n = dict.fromkeys(facts.ids, 0)
        for example in encode_examples(model.tokenizer, lessons(facts, taught_phrasings)):
            n[example.fact_id] += len(example.value)
        arms.append(xr.DataArray(list(n.values()), {"fact": list(n)}, "fact").astype(float))
    return xr.concat(arms, xr.DataArray(list(taught), dims="arm", name="arm"), join="outer")  # pyright: ignore[reportReturnType]


def _plan(c: ReacquisitionConfig) -> dict[str, int | None]:
    """Every step that will be taken, with the most optimizer steps of a training."""
    arms, twin = _arms(c), ["twin"] if "twin" in _arms(c) else []
    halves = ["old", "never", *twin]
    install = {"install": c.install.steps} if c.install else {}
    own_twin = {"twin/install": c.install.steps, "twin/contradict": c.contradict.steps} if c.install and twin else {}
    again = {f"reacquire/{name}": c.reacquire.steps for name in (*arms, *(f"half_{name}" for name in halves))}
    states = ["before", "masked", *twin, *(f"half/{name}" for name in halves)]
    readings = [*(f"readings/read_logits/{name}" for name in states), "readings/read_after_one_step/masked"]
    results = [f"results/{name}" for name in ("course", "recall", "increment", "held_half", "one_step", "samples")]
    trained = {**install, "contradict": c.contradict.steps, **own_twin, **again}
    return {**{f"changes/{name}": steps for name, steps in trained.items()}, **dict.fromkeys([*readings, *results])}
