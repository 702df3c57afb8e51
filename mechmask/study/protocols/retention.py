"""``RetentionStudy``: what later training leaves of edits, beside what it leaves of intrinsic knowledge.

After Wen and Zhang (2025): facts that the model knows are edited, one by one or in batches, and each edited model is
fine-tuned on something that has nothing to do with them. Retention is the share of edited facts whose new value is
still said, beside the share of intrinsic facts whose true value is. What their measure cannot tell is told here: a lost
edit is held against the same fact in the same training without the edit, so that it is seen whether the new value has
decayed or is only no longer said, and whether what is said instead is the true value, a related one or something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path

import xarray as xr

from mechmask import draw
from mechmask.errors import StudyError
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.measure.retention import retention_rates
from mechmask.models.model import Model
from mechmask.progress import progress_bar
from mechmask.read.retention import with_values_apart
from mechmask.study.exports import export_figure, export_table
from mechmask.study.outcome import outcome
from mechmask.study.preparation import require_roles
from mechmask.study.results import StudyResults
from mechmask.study.retention.config import RetentionConfig
from mechmask.study.retention.readings import task_watch
from mechmask.study.retention.tables import UNEDITED, Batch, course_of, fates_of, retention_of, retention_table
from mechmask.study.retention.tasks import LaterTask, Lessons, lessons_of
from mechmask.study.run import Run
from mechmask.study.states import StudyState, edit_settings, edited_together, reading_in, untouched
from mechmask.study.step import Step
from mechmask.study.training import OUTPUT, Trained, train
from mechmask.write.edit import EditConfig


class RetentionStudy:
    """What is left of edits after training on something else.

    Args:
        model: the model; it is left as it was.
        facts: contradicted facts, which are edited, and controls, which are intrinsic; ``retention_groups`` draws them.
        config: what is done; a task at least.

    Raises:
        StudyError: if a role or a task is missing.
        ChangeError: if an editor has no setting for this model.
        ModelError: if an editor writes into a block that the model lacks.
        RouteError: if a value cannot be told from the prompt or from its rival.
        ReadingError: if the values of a fact begin alike, so that retention cannot be told.
    """

    def __init__(self, model: Model, facts: FactSet, config: RetentionConfig) -> None:
        self.model, self.facts, self.config = model, as_fact_set(facts), config
        require_roles(self.facts, "Retention", {"contradicted": 1, "control": 2})
        if not config.tasks:
            raise StudyError("A retention study has no task to train on. Give tasks, each with its kind and source.")
        self.edits = edit_settings(model, config.edits)
        alike = set(self.facts.ids) - set(with_values_apart(model, self.facts).ids)
        if alike:
            raise StudyError(
                f"The values of {len(alike)} facts begin alike ({min(alike)!r} is one), and retention is told by the "
                "first token. Draw the facts with retention_groups, which leaves them out."
            )

    def __repr__(self) -> str:
        return f"RetentionStudy({self.model.name!r}, {self.facts!r})"

    def run(self, directory: str | Path) -> StudyResults:
        """Do what is not done yet in ``directory``; started again after an interruption, it ends with the same bits.

        Args:
            directory: new, or that of a study of the same model and facts.

        Returns:
            Results that hold ``results/retention`` (what is said of every fact before and after), ``results/course``
            (the same on the way), ``results/fates`` (what is left of each edit by its trace, in nats) and
            ``results/rates`` (shares with intervals, by editor and task).

        Raises:
            StudyError: if the directory holds something else, or a task has too few examples.
            FileError: if the source of a task cannot be read.
            ChangeError: if an edit cannot be made, or a loss is not a number.
            ReadingError: if a reading disagrees with the model's own output.
        """
        c = self.config
        about = {"protocol": "retention", "config": c.model_dump(mode="json")}
        with Run(directory, self.model, self.facts, about) as run:
            run.plan(self._plan())
            lessons = {task.label: lessons_of(task, self.model, self.facts) for task in c.tasks}
            edits = {UNEDITED: {(): untouched(run)}}
            edits |= {name: dict(self._edited(run, name, config)) for name, config in self.edits.items()}
            later = {
                (name, task.label): {
                    facts: self._later(run, task, lessons[task.label], state) for facts, state in of.items()
                }
                for name, of in edits.items()
                for task in c.tasks
            }
            self._conclude(run, later)
        return StudyResults(directory)

    def _batches(self, method: str) -> list[tuple[str, ...]]:
        """The facts that a method edits at once."""
        ids, n = self.facts.contradicted.ids, self.config.together.get(method, 1)
        return [ids[start : start + n] for start in range(0, len(ids), n)]

    def _edited(self, run: Run, name: str, config: EditConfig) -> Iterator[tuple[tuple[str, ...], StudyState]]:
        """Every model that an editor makes, by the facts that it was edited on."""
        batches, others = self._batches(config.method), [fact.id for fact in self.facts if fact.role != "contradicted"]
        with progress_bar(name, len(batches)) as bar:
            for number, facts in enumerate(batches):
                read = [*facts, *others]
                yield facts, edited_together(run, untouched(run), facts, f"{name}/{number:04d}", config, read=read)
                bar(facts[-1])

    def _later(self, run: Run, task: LaterTask, lessons: Lessons, state: StudyState) -> Trained:
        """A model trained on a task."""
        read, c = state.facts_of(self.facts), self.config
        watch = task_watch(read, self.facts, lessons.held_out, task.check_every, c.batch_size)
        name = f"later/{task.label}/{_name(state)}"
        return train(run, name, lessons.train, task.finetune, on=state, until=task.until, watch=watch)

    def _conclude(self, run: Run, later: Mapping[tuple[str, str], Mapping[tuple[str, ...], Trained]]) -> None:
        """What the readings say, which needs no model."""
        c = self.config
        options = {"statistic": c.statistic, "margin_share": c.margin_share, "alpha": c.alpha}

        @cache  # of a study that is whole nothing is read again
        def batches() -> dict[tuple[str, str], list[Batch]]:
            return {key: [Batch(facts, one.readings(OUTPUT)) for facts, one in of.items()] for key, of in later.items()}

        sources = [step for of in later.values() for one in of.values() for step in one.checkpoints.values()]
        retention = outcome(run, "retention", sources, lambda: retention_of(batches()))
        course = outcome(run, "course", sources, lambda: course_of(batches()))
        fates = outcome(run, "fates", sources, lambda: fates_of(batches(), options), options)
        both = [retention, fates]
        rates = outcome(
            run,
            "rates",
            both,
            lambda: retention_rates(reading_in(retention), reading_in(fates), c.level),
            {"level": c.level},
        )
        export_table(run, "retention", [rates], lambda: retention_table(reading_in(rates)))
        export_figure(run, "retention", [rates], lambda: draw.retention(reading_in(rates)))
        for task in c.tasks:
            of_task = partial(_of_task, course, task.label)
            export_figure(run, f"course_{task.label}", [course], lambda of=of_task: draw.categories(of()))

    def _plan(self) -> dict[str, int | None]:
        """Every step that will be taken, with the most optimizer steps of a training."""
        models = {UNEDITED: 1, **{name: len(self._batches(config.method)) for name, config in self.edits.items()}}
        names = [UNEDITED if name == UNEDITED else f"{name}/{i:04d}" for name, n in models.items() for i in range(n)]
        changes = [f"changes/{name}" for name in names if name != UNEDITED]
        trained = {
            f"changes/later/{task.label}/{name}": task.finetune.steps for task in self.config.tasks for name in names
        }
        results = [f"results/{name}" for name in ("retention", "course", "fates", "rates")]
        return {**dict.fromkeys(changes), **trained, **dict.fromkeys(results)}


def _of_task(course: Step, task: str) -> xr.Dataset:
    return reading_in(course).sel(task=[task])


def _name(state: StudyState) -> str:
    """By which the readings of a state are kept."""
    return UNEDITED if state.change is None else state.name
