"""``reactance``: does a stronger prior resist its correction, and a more surprising one rise further (paper 2F)?

Install the old values as far as each condition says, contradict every condition alike and for the same number of steps,
and hold the final margin of each fact against logp(old) and -logp(new) before (findings 4 and 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import xarray as xr
from pydantic import Field, field_validator

from mechmask import draw
from mechmask.configuration import Configuration
from mechmask.errors import StudyError
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.measure.reactance import prior_and_margin
from mechmask.measure.reading import load_reading
from mechmask.measure.surprise import surprise_and_margin, surprise_by_magnitude
from mechmask.models.model import Model
from mechmask.read.logits import read_logits
from mechmask.study.exports import export_figure, export_table
from mechmask.study.outcome import outcome
from mechmask.study.preparation import require_one_shape, require_roles, require_routes
from mechmask.study.results import StudyResults
from mechmask.study.run import Run
from mechmask.study.states import reading_in, readings_of
from mechmask.study.step import Step, file_in
from mechmask.study.training import OUTPUT, Trained, train
from mechmask.study.until import Until, recall_of
from mechmask.study.watches import recall_watch
from mechmask.write.finetune import FinetuneConfig


class ReactanceConfig(Configuration):
    """Install to several strengths, contradict each alike.

    Attributes:
        install: how the old values are taught, and for how many steps at most.
        levels: where installing ends, a condition each: at a share that is recalled, such as ``{ recall = 0.5 }``, or
            after so many optimizer steps.
        contradict: how the new values are taught, from each installed adapter on, for all of its steps.
        taught_phrasings: in how many of its phrasings each fact is taught, the prompt first.
        checkpoint_every: optimizer steps between two readings while installing: how exactly a level is met.
        level: of all intervals.
        batch_size: prompts per forward pass when reading; affects memory only.
    """

    install: FinetuneConfig = FinetuneConfig(steps=60)
    levels: tuple[int | Until, ...] = (Until(recall=0.5), Until(recall=1.0))
    contradict: FinetuneConfig = FinetuneConfig(steps=15)
    taught_phrasings: int = Field(default=1, ge=1)
    checkpoint_every: int = Field(default=2, ge=1)
    level: float = Field(default=0.95, gt=0, lt=1)
    batch_size: int = Field(default=32, ge=1)

    @field_validator("levels")
    @classmethod
    def _usable(cls, value: tuple[int | Until, ...]) -> tuple[int | Until, ...]:
        if any(isinstance(one, Until) and one.recall is None for one in value):
            raise ValueError(
                "old values are installed until they are recalled, or for so many steps. Give one of these"
            )
        if any(isinstance(one, int) and one < 1 for one in value):
            raise ValueError("a level of no steps installs nothing. Give one step or more")
        if not value or len(set(map(_condition, value))) < len(value):
            raise ValueError("each level is a condition of its own. Give at least one, and none twice")
        return value


def reactance(
    model: Model, facts: FactSet, directory: str | Path, config: ReactanceConfig | None = None
) -> StudyResults:
    """Whether facts that were installed more strongly resist being contradicted.

    Args:
        model: the model; it is left as it was.
        facts: contradicted and control facts; a correlation wants 12 contradicted ones or more.
        directory: new, or that of such a study of the same model and facts, which is taken up.
        config: what is done; ``ReactanceConfig()`` by default.

    Returns:
        The results, as ``mechmask.open_study`` gives them: ``results/reactance``, and ``results/surprise/CONDITION``
        for each condition.

    Raises:
        StudyError: if the facts lack a role, the trainings do not continue one another, a level is not reached, or two
            levels end at the same step; if the directory holds something else.
        RouteError: if a value cannot be told from the prompt or from its rival.
        ChangeError: if a loss is not a number.
        ReadingError: if a reading disagrees with the model's own output.
    """
    c, facts = config or ReactanceConfig(), as_fact_set(facts)
    require_roles(facts, "Reactance", {"contradicted": 3, "control": 1})
    require_routes(model, facts)
    require_one_shape(model, {"install": c.install, "contradict": c.contradict})
    conditions = {_condition(level): level for level in c.levels}
    with Run(directory, model, facts, {"protocol": "reactance", "config": c.model_dump(mode="json")}) as run:
        run.plan(_plan(c, conditions))
        installed = {name: _installed(run, name, level, c) for name, level in conditions.items()}
        _require_apart(installed)
        contradictions = facts.contradiction_examples(c.taught_phrasings)
        contradicted = {
            name: train(run, f"contradict/{name}", contradictions, c.contradict, start=start)
            for name, start in installed.items()
        }
        states = {f"{when}/{n}": s for when, by in _by_time(installed, contradicted) for n, s in by.items()}
        read = readings_of(run, states, read_logits, roles=["contradicted"], batch_size=c.batch_size)
        _conclude(run, c, conditions, read)
    return StudyResults(directory)


def _by_time(before: Mapping[str, Trained], after: Mapping[str, Trained]) -> list[tuple[str, Mapping[str, Trained]]]:
    return [("before", before), ("after", after)]


def _condition(level: int | Until) -> str:
    """The name of a level: ``recall_0.5``, ``steps_20``."""
    return f"steps_{level}" if isinstance(level, int) else f"recall_{level.recall:g}"


def _installed(run: Run, name: str, level: int | Until, c: ReactanceConfig) -> Trained:
    """The old values, taught as far as a level says.

    Raises:
        StudyError: if it is not reached.
    """
    examples = run.facts.install_examples(c.taught_phrasings)
    if isinstance(level, int):
        return train(run, f"install/{name}", examples, c.install.model_copy(update={"steps": level}))
    watch = recall_watch(run.facts, c.checkpoint_every, c.batch_size)
    trained = train(run, f"install/{name}", examples, c.install, until=level, watch=watch)
    last = load_reading(file_in(trained.checkpoints[max(trained.checkpoints)], f"{OUTPUT}.nc")).sel(phrasing=0)
    taught = {(example.fact_id, example.value) for example in examples}
    if not level.reached(last, taught):
        raise StudyError(
            f"After all {c.install.steps} steps of installing {recall_of(last, taught):.0%} of the old values are "
            f"recalled, so that the level {level} is not reached. Give install more steps, or lower the level."
        )
    return trained


def _require_apart(installed: Mapping[str, Trained]) -> None:
    """Refuse two conditions that are one model."""
    steps = {name: state.change.details["steps"] for name, state in installed.items() if state.change}
    first = {}
    for name, n in steps.items():
        if n in first:
            raise StudyError(
                f"The levels {first[n]} and {name} both end after {n} steps, so that the two conditions are one model. "
                "Lower checkpoint_every, or set the levels further apart."
            )
        first[n] = name


def _conclude(run: Run, c: ReactanceConfig, conditions: Mapping[str, object], read: Mapping[str, Step]) -> None:
    """Results, tables and figures, which need no model."""

    def held_together() -> xr.Dataset:
        before, after = ({n: reading_in(read[f"{when}/{n}"]) for n in conditions} for when in ("before", "after"))
        return prior_and_margin(before, after, c.level)

    options = {"level": c.level, "conditions": list(conditions)}
    table = outcome(run, "reactance", read.values(), held_together, options)
    surprises = {}
    for name in conditions:
        pair = [read[f"before/{name}"], read[f"after/{name}"]]

        def surprising(pair: list[Step] = pair) -> xr.Dataset:
            return surprise_and_margin(reading_in(pair[0]), reading_in(pair[1]), c.level)

        surprises[name] = outcome(run, f"surprise/{name}", pair, surprising, {"level": c.level})
    export_figure(run, "reactance", [table], lambda: draw.association(reading_in(table), "prior", "margin"))
    export_figure(
        run, "surprise", surprises.values(), lambda: draw.association(_joined(surprises), "surprise", "margin")
    )
    export_table(run, "reactance", [table], lambda: _overview(reading_in(table)))
    export_table(run, "surprise", surprises.values(), lambda: _overview(_joined(surprises)))
    export_table(run, "surprise_by_magnitude", surprises.values(), lambda: _by_magnitude(_joined(surprises), c.level))


def _joined(surprises: Mapping[str, Step]) -> xr.Dataset:
    conditions = xr.DataArray(list(surprises), dims="condition", name="condition")
    return xr.concat([reading_in(step) for step in surprises.values()], conditions)


def _overview(table: xr.Dataset) -> pd.DataFrame:
    """One row for each condition and correlation."""
    columns = ["estimate", "low", "high", "p_value", "n"]
    more = [
        name
        for name in ("mean_margin", "mean_margin_low", "mean_margin_high", "prior_spread", "recalled")
        if name in table
    ]
    return table[[*columns, *more]].to_dataframe(dim_order=["condition", "correlation"])[[*columns, *more]]


def _by_magnitude(table: xr.Dataset, level: float) -> pd.DataFrame:
    """One row for each condition and magnitude: mean surprise in nats."""
    rows = [surprise_by_magnitude(table.surprise.sel(condition=name, drop=True), level) for name in table.condition]
    columns = ["estimate", "low", "high", "n"]
    return xr.concat(rows, table.condition)[columns].to_dataframe(dim_order=["condition", "magnitude"])[columns]


def _plan(c: ReactanceConfig, conditions: Mapping[str, int | Until]) -> dict[str, int | None]:
    """Every step that will be taken, with the most optimizer steps of a training."""
    installs = {f"changes/install/{n}": lv if isinstance(lv, int) else c.install.steps for n, lv in conditions.items()}
    contradicts = {f"changes/contradict/{name}": c.contradict.steps for name in conditions}
    readings = [f"readings/read_logits/{when}/{name}" for when in ("before", "after") for name in conditions]
    results = ["results/reactance", *(f"results/surprise/{name}" for name in conditions)]
    return {**installs, **contradicts, **dict.fromkeys([*readings, *results])}
