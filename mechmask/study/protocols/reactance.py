"""``ReactanceStudy``: does a stronger prior resist its correction, and a more surprising one rise further (paper 2F)?

Install the old values as far as each condition says, contradict every condition alike and for the same number of steps,
and hold the final margin of each fact against logp(old) and -logp(new) before (findings 4 and 2). Facts that the model
knows from pretraining are one condition, with the strength that they have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import xarray as xr
from matplotlib.figure import Figure
from pydantic import Field, field_validator

from mechmask import draw
from mechmask.configuration import NONE_BY_NAME, Configuration
from mechmask.draw.style import SERIES
from mechmask.errors import StudyError
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.measure.association import association_overview
from mechmask.measure.reactance import prior_and_margin
from mechmask.measure.reading import load_reading
from mechmask.measure.surprise import magnitude_overview, surprise_table
from mechmask.models.model import Model
from mechmask.read.logits import read_logits
from mechmask.study.exports import export_figure, export_table
from mechmask.study.outcome import outcome
from mechmask.study.preparation import require_one_shape, require_roles, require_routes
from mechmask.study.results import StudyResults
from mechmask.study.run import Run
from mechmask.study.states import StudyState, reading_in, readings_of, untouched
from mechmask.study.step import Step, file_in
from mechmask.study.training import OUTPUT, Trained, train
from mechmask.study.until import Until, recall_of
from mechmask.study.watches import recall_watch
from mechmask.write.finetune import FinetuneConfig

_BESIDE = ("mean_margin", "mean_margin_low", "mean_margin_high", "prior_spread", "recalled")


class ReactanceConfig(Configuration):
    """Install to several strengths, contradict each alike.

    Attributes:
        install: how the old values are taught, and for how many steps at most; ``None`` (``"none"`` in TOML) for facts
            that the model holds already, which are one condition, ``known``.
        levels: where installing ends, a condition each: at a share that is recalled, such as ``{ recall = 0.5 }``, or
            after so many optimizer steps. Without installing they say nothing.
        contradict: how the new values are taught, from each installed adapter on, for all of its steps.
        taught_phrasings: in how many of its phrasings each fact is taught, the prompt first.
        checkpoint_every: optimizer steps between two readings while installing: how exactly a level is met.
        level: of all intervals.
        batch_size: prompts per forward pass when reading; affects memory only.
    """

    install: Annotated[FinetuneConfig | None, NONE_BY_NAME] = FinetuneConfig(steps=60)
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


class ReactanceStudy:
    """Whether facts that the model holds more strongly resist being contradicted.

    Args:
        model: the model; it is left as it was.
        facts: contradicted and control facts; a correlation wants 12 contradicted ones or more.
        config: what is done; ``ReactanceConfig()`` by default.

    Raises:
        StudyError: if the facts lack a role, or the trainings do not continue one another.
        RouteError: if a value cannot be told from the prompt or from its rival.
        ChangeError: if a training names a block that the model lacks.
    """

    def __init__(self, model: Model, facts: FactSet, config: ReactanceConfig | None = None) -> None:
        self.model, self.facts, self.config = model, as_fact_set(facts), config or ReactanceConfig()
        require_roles(self.facts, "Reactance", {"contradicted": 3, "control": 1})
        require_routes(model, self.facts)
        require_one_shape(model, {"install": self.config.install, "contradict": self.config.contradict})

    def __repr__(self) -> str:
        return f"ReactanceStudy({self.model.name!r}, {self.facts!r})"

    def run(self, directory: str | Path) -> StudyResults:
        """Do what is not done yet in ``directory``; started again after an interruption, it ends with the same bits.

        Args:
            directory: new, or that of such a study of the same model and facts.

        Returns:
            Results that hold ``results/reactance`` and ``results/surprise``, along ``condition``.

        Raises:
            StudyError: if a level is not reached, two levels end at the same step, or the directory holds something
                else.
            ChangeError: if a loss is not a number.
            ReadingError: if a reading disagrees with the model's own output.
        """
        c = self.config
        about = {"protocol": "reactance", "config": c.model_dump(mode="json")}
        with Run(directory, self.model, self.facts, about) as run:
            run.plan(_plan(c))
            before = _before(run, c)
            new = self.facts.contradiction_examples(c.taught_phrasings)
            after = {
                name: train(run, f"contradict/{name}", new, c.contradict, start=start) for name, start in before.items()
            }
            states = {f"before/{name}": state for name, state in before.items()}
            states |= {f"after/{name}": state for name, state in after.items()}
            read = readings_of(run, states, read_logits, roles=["contradicted"], batch_size=c.batch_size)
            _conclude(run, c, list(before), read)
        return StudyResults(directory)


def _levels(c: ReactanceConfig) -> dict[str, tuple[FinetuneConfig, int | Until]]:
    """By condition, how it is installed and where that ends; none for facts that the model holds already."""
    return {} if c.install is None else {_condition(level): (c.install, level) for level in c.levels}


def _before(run: Run, c: ReactanceConfig) -> dict[str, StudyState]:
    """The state before the contradiction, by condition."""
    installed = {name: _installed(run, name, *how, c) for name, how in _levels(c).items()}
    _require_apart(installed)
    return {**installed} or {"known": untouched(run)}


def _condition(level: int | Until) -> str:
    """The name of a level: ``recall_0.5``, ``steps_20``."""
    return f"steps_{level}" if isinstance(level, int) else f"recall_{level.recall:g}"


def _installed(run: Run, name: str, install: FinetuneConfig, level: int | Until, c: ReactanceConfig) -> Trained:
    """The old values, taught as far as a level says.

    Raises:
        StudyError: if it is not reached.
    """
    examples = run.facts.install_examples(c.taught_phrasings)
    if isinstance(level, int):
        return train(run, f"install/{name}", examples, install.model_copy(update={"steps": level}))
    watch = recall_watch(run.facts, c.checkpoint_every, c.batch_size)
    trained = train(run, f"install/{name}", examples, install, until=level, watch=watch)
    last = load_reading(file_in(trained.checkpoints[max(trained.checkpoints)], f"{OUTPUT}.nc")).sel(phrasing=0)
    taught = {(example.fact_id, example.value) for example in examples}
    if not level.reached(last, taught):
        raise StudyError(
            f"After all {install.steps} steps of installing {recall_of(last, taught):.0%} of the old values are "
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


def _conclude(run: Run, c: ReactanceConfig, conditions: Sequence[str], read: Mapping[str, Step]) -> None:
    """Results, tables and figures, which need no model."""

    def resisting() -> xr.Dataset:
        before, after = ({n: reading_in(read[f"{when}/{n}"]) for n in conditions} for when in ("before", "after"))
        return prior_and_margin(before, after, c.level)

    def surprising() -> xr.Dataset:
        resisted = reading_in(reactance)
        return surprise_table(resisted.surprise, resisted.margin, c.level)

    options = {"level": c.level, "conditions": list(conditions)}
    reactance = outcome(run, "reactance", read.values(), resisting, options)
    surprise = outcome(run, "surprise", [reactance], surprising, {"level": c.level})
    for step, x in ((reactance, "prior"), (surprise, "surprise")):
        name = step.name.removeprefix("results/")
        export_figure(run, name, [step], lambda step=step, x=x: _figure(reading_in(step), x))
        export_table(run, name, [step], lambda step=step: association_overview(reading_in(step), _BESIDE))
    export_table(run, "surprise_by_magnitude", [surprise], lambda: magnitude_overview(reading_in(surprise)))


def _figure(table: xr.Dataset, x: str) -> Figure:
    """Of as many conditions as there are line styles."""
    return draw.association(table.isel(condition=slice(len(SERIES))), x, "margin")


def _plan(c: ReactanceConfig) -> dict[str, int | None]:
    """Every step that will be taken, with the most optimizer steps of a training."""
    levels = _levels(c)
    installs = {f"changes/install/{n}": lv if isinstance(lv, int) else by.steps for n, (by, lv) in levels.items()}
    conditions = list(levels) or ["known"]
    contradicts = {f"changes/contradict/{name}": c.contradict.steps for name in conditions}
    readings = [f"readings/read_logits/{when}/{name}" for when in ("before", "after") for name in conditions]
    return {**installs, **contradicts, **dict.fromkeys([*readings, "results/reactance", "results/surprise"])}
