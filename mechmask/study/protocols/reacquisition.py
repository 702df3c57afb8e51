"""``reacquisition``: how fast a masked value comes back, and whether one does that nobody teaches (paper 2F).

Install the old values, contradict them, and teach again from the model in which they are masked. Every arm gets as many
rows, one configuration, a new optimizer and the same number of steps:

* ``old_masked``: the old values, to the contradicted model;
* ``old_fresh``: the same values, to the model as it came, by a fresh adapter (which begins at zero: part of what it
  takes longer is the adapter's own start);
* ``novel``: third values that nobody ever met, to the contradicted model: what knowing the entity alone gives;
* ``never``: old values of never-known facts, to the contradicted model: what not knowing looks like;
* ``twin``: the old values, to a model that was contradicted alike and never knew them.

Beside them, half of the old values are taught again and the other half is only read (Deeb and Roger 2024), and each old
value is taught by one step of its own, to be held against its erase index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray as xr
from pydantic import Field, field_validator

from mechmask import draw
from mechmask.configuration import Configuration
from mechmask.errors import StudyError
from mechmask.facts.arms import ArmFacts, arm_facts, lessons
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.facts.third_value import set_aside_third_values
from mechmask.measure.comparable import comparable_facts
from mechmask.measure.reacquisition import course_of_arms
from mechmask.models.model import Model
from mechmask.models.routes import encode_examples
from mechmask.read.logits import read_logits
from mechmask.study.exports import export_figure, export_table
from mechmask.study.one_step import read_after_one_step
from mechmask.study.outcome import outcome
from mechmask.study.preparation import require_comparable, require_one_shape, require_roles, require_routes
from mechmask.study.reacquisition_tables import (
    arms_overview,
    held_half_overview,
    held_half_table,
    increment_table,
    one_step_overview,
    one_step_table,
    recall_table,
)
from mechmask.study.results import StudyResults
from mechmask.study.run import Run
from mechmask.study.states import StudyState, reading_in, readings_of, state_of_change, untouched
from mechmask.study.step import Step
from mechmask.study.training import OUTPUT, Trained, train
from mechmask.study.twin import adapter_of_twin, trained_twin
from mechmask.study.until import Until
from mechmask.study.watches import recall_watch
from mechmask.write.adapter import AdapterChange
from mechmask.write.finetune import FinetuneConfig


class ReacquisitionConfig(Configuration):
    """Install, contradict, teach again.

    Attributes:
        install: how the old values are taught first; ``None`` for facts that the model holds already, of which there
            is no fresh base and no twin.
        install_recall: installing ends at the first checkpoint at which this share of the taught facts is recalled.
        contradict: how the new values are taught, from the installed adapter on.
        contradict_until: contradicting ends at the first checkpoint at which new is recalled or leads by so much: a
            correction that has just won.
        reacquire: how every arm is taught. Each step shows every row, so ``batch_size`` is left out.
        twin: whether a twin is trained that never knew the contradicted facts: the controls installed alone, then the
            same contradiction, each for as many steps as the model that knew.
        taught_phrasings: in how many of its phrasings each fact is taught, the prompt first; recall counts on the
            prompt, and the others are only read.
        checkpoint_every: optimizer steps between two readings while installing and contradicting.
        read_every: optimizer steps between two readings of an arm.
        recall: share of its facts that an arm has to recall.
        seed: draws the third values, the half that is taught again, and the never facts that stand beside it.
        level: of all intervals.
        batch_size: prompts per forward pass when reading; affects memory only.
    """

    install: FinetuneConfig | None = FinetuneConfig(steps=60)
    install_recall: float = Field(default=1.0, gt=0, le=1)
    contradict: FinetuneConfig = FinetuneConfig(steps=30)
    contradict_until: Until = Until(recall=1.0)
    reacquire: FinetuneConfig = FinetuneConfig(steps=30)
    twin: bool = False
    taught_phrasings: int = Field(default=1, ge=1)
    checkpoint_every: int = Field(default=5, ge=1)
    read_every: int = Field(default=1, ge=1)
    recall: float = Field(default=0.9, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    level: float = Field(default=0.95, gt=0, lt=1)
    batch_size: int = Field(default=32, ge=1)

    @field_validator("reacquire")
    @classmethod
    def _every_row_in_every_step(cls, value: FinetuneConfig) -> FinetuneConfig:
        if value.batch_size is not None:
            raise ValueError(
                f"batch_size={value.batch_size} would show a fact at some steps only, and steps to recall would say "
                "when it is shown. Leave it out."
            )
        return value


def reacquisition(
    model: Model,
    facts: FactSet,
    directory: str | Path,
    config: ReacquisitionConfig | None = None,
    *,
    twin: AdapterChange | StudyState | None = None,
) -> StudyResults:
    """How fast old values come back, held against values that are new to the model.

    Args:
        model: the model; it is left as it was.
        facts: contradicted and control facts, and as many never facts as contradicted ones; two distractors or more
            each, of which one becomes the third value and is read no more.
        directory: new, or that of such a study of the same model and facts, which is taken up.
        config: what is done; ``ReacquisitionConfig()`` by default.
        twin: a model that never knew the contradicted facts and was contradicted alike, as an adapter on ``model`` or
            the state that has it on, in place of the one that ``config.twin`` trains.

    Returns:
        The results, as ``mechmask.open_study`` gives them: ``results/course``, ``results/recall``,
        ``results/increment``, ``results/held_half`` and ``results/one_step``.

    Raises:
        StudyError: if the facts lack a role, the trainings do not continue one another, a twin is asked for that cannot
            be, nothing was there or nothing took, or the directory holds something else.
        FactError: if a fact has no distractor that could be its third value.
        RouteError: if a value cannot be told from the prompt or from its rival.
        ChangeError: if a loss is not a number.
        ReadingError: if a reading disagrees with the model's own output.
    """
    c, given = config or ReacquisitionConfig(), as_fact_set(facts)
    _refuse(model, given, c, twin)
    facts, novel = set_aside_third_values(given, c.seed)
    groups = arm_facts(facts, novel, c.seed)
    with Run(directory, model, facts, {"protocol": "reacquisition", "config": c.model_dump(mode="json")}) as run:
        run.plan(_plan(c, twin))
        install, masked = _installed_and_contradicted(run, facts, c)
        before = install or untouched(run)
        ignorant = _twin(run, c, install, masked, twin)

        size = {"phrasings": "all", "batch_size": c.batch_size}
        ends = readings_of(run, {"before": before, "masked": masked}, read_logits, **size)
        require_comparable(*map(reading_in, ends.values()))

        starts = {"old_masked": masked, "old_fresh": None, "novel": masked, "never": masked, "twin": ignorant}
        there = {"old_masked", "novel", "never", *(["old_fresh"] if install else []), *(["twin"] if ignorant else [])}
        arms = {name: _arm(run, name, groups.taught(name), starts[name], c) for name in starts if name in there}
        halves: dict[str, StudyState] = {
            "half/old": _arm(run, "half_old", groups.half, masked, c),
            "half/never": _arm(run, "half_never", groups.never_half, masked, c),
        }
        if ignorant is not None:
            halves |= {"twin": ignorant, "half/twin": _arm(run, "half_twin", groups.half, ignorant, c)}

        held = readings_of(run, halves, read_logits, roles=["contradicted"], **size)
        alone = replace(masked, fact_ids=(*groups.contradicted.ids, *groups.never.ids))
        asked: dict[str, Any] = {"config": c.reacquire, "taught_phrasings": c.taught_phrasings}
        one_step = readings_of(run, {"masked": alone}, read_after_one_step, batch_size=c.batch_size, **asked)
        _conclude(run, c, groups, arms, ends, held, one_step["masked"])
    return StudyResults(directory)


def _installed_and_contradicted(run: Run, facts: FactSet, c: ReacquisitionConfig) -> tuple[Trained | None, Trained]:
    """The model that knew, if it is installed, and the one in which the old values are masked."""
    watch = recall_watch(facts, c.checkpoint_every, c.batch_size)
    install = None
    if c.install is not None:
        old = facts.install_examples(c.taught_phrasings)
        install = train(run, "install", old, c.install, until=c.install_recall, watch=watch)
    new = facts.contradiction_examples(c.taught_phrasings)
    masked = train(run, "contradict", new, c.contradict, start=install, until=c.contradict_until, watch=watch)
    return install, masked


def _twin(
    run: Run, c: ReacquisitionConfig, install: Trained | None, masked: Trained, given: AdapterChange | StudyState | None
) -> StudyState | None:
    """The twin that was given, or one of this run; ``None`` where there is to be none."""
    if given is not None:
        return state_of_change(run, "given_twin", adapter_of_twin(run.model, given))
    if not c.twin or c.install is None or install is None:
        return None
    contradictions = run.facts.contradiction_examples(c.taught_phrasings)
    return trained_twin(run, contradictions, (c.install, install), (c.contradict, masked), c.taught_phrasings)


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
    """Results, tables and the figure, which need no model but its tokenizer."""
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

    export_figure(
        run, "reacquisition", [recall, faster], lambda: draw.reacquisition(reading_in(recall), reading_in(faster))
    )
    export_table(run, "arms", [recall], lambda: arms_overview(reading_in(recall)))
    export_table(run, "increment", [faster], lambda: reading_in(faster).to_dataframe())
    export_table(run, "held_half", [half], lambda: held_half_overview(reading_in(half)))
    export_table(run, "one_step", [steps], lambda: one_step_overview(reading_in(steps)))


def _tokens_shown(model: Model, taught: Mapping[str, FactSet], taught_phrasings: int) -> xr.DataArray:
    """Tokens of the taught value that one step of each arm shows ``[arm, fact]``, NaN where it is not taught."""
    arms = []
    for facts in taught.values():
        n = dict.fromkeys(facts.ids, 0)
        for example in encode_examples(model.tokenizer, lessons(facts, taught_phrasings)):
            n[example.fact_id] += len(example.value)
        arms.append(xr.DataArray(list(n.values()), {"fact": list(n)}, "fact").astype(float))
    return xr.concat(arms, xr.DataArray(list(taught), dims="arm", name="arm"), join="outer")  # pyright: ignore[reportReturnType]


def _refuse(model: Model, facts: FactSet, c: ReacquisitionConfig, twin: AdapterChange | StudyState | None) -> None:
    """Meet every refusal now that would come after the first training."""
    n = max(2, len(facts.contradicted))
    require_roles(facts, "Reacquisition", {"contradicted": 2, "control": 1, "never": n})
    require_routes(model, facts)  # the third values are distractors here: none may begin as another route does
    install = {} if c.install is None else {"install": c.install}
    require_one_shape(model, {**install, "contradict": c.contradict, "reacquire": c.reacquire})
    if c.twin and c.install is None:
        raise StudyError(
            "A twin never knew the facts, and these the model holds from the start (install is None). Install facts of "
            "your own, or set twin=False."
        )
    if c.twin and twin is not None:
        raise StudyError("A twin is given and another one is to be trained. Leave twin= out, or set twin=False.")
    if twin is not None:
        adapter_of_twin(model, twin)


def _plan(c: ReacquisitionConfig, twin: object) -> dict[str, int | None]:
    """Every step that will be taken, with the most optimizer steps of a training."""
    has_twin = c.twin or twin is not None
    arms = ["old_masked", *(["old_fresh"] if c.install else []), "novel", "never", *(["twin"] if has_twin else [])]
    halves = ["old", "never", *(["twin"] if has_twin else [])]
    own_twin = {"twin/install": c.install.steps, "twin/contradict": c.contradict.steps} if c.install and c.twin else {}
    trained = {
        **({"install": c.install.steps} if c.install else {}),
        "contradict": c.contradict.steps,
        **own_twin,
        **{f"reacquire/{name}": c.reacquire.steps for name in (*arms, *(f"half_{name}" for name in halves))},
    }
    given_twin = ["changes/given_twin"] if twin is not None else []
    states = ["before", "masked", *(["twin"] if has_twin else []), *(f"half/{name}" for name in halves)]
    readings = [*(f"readings/read_logits/{name}" for name in states), "readings/read_after_one_step/masked"]
    results = [f"results/{name}" for name in ("course", "recall", "increment", "held_half", "one_step")]
    changes = {f"changes/{name}": steps for name, steps in trained.items()}
    return {**changes, **dict.fromkeys([*given_twin, *readings, *results])}
