"""``EditStudy``: the same facts changed by every editor, and one table of what each of them did.

The editing field asks whether the new value is said, also in other words, and what else has changed (ES, PS, NS, S,
GE). This study asks beside it what became of the old value: its trace against never known, the verdict, the layer at
which the new value was written, and where the old one is back. All of it is read of the same model under the same
edits, so that a reader sees where an editor that scores well has only put the new value in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import xarray as xr

from mechmask.errors import StudyError
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.models.model import Model
from mechmask.progress import progress_bar
from mechmask.read.backends import require_backend
from mechmask.read.scoring.labels import provenance
from mechmask.study.crossover import installed_twins, joined_twins, require_shares, shares
from mechmask.study.editing.aligned import (
    BEFORE,
    Edited,
    Start,
    depth_of,
    editing_of,
    generations_of,
    joined_states,
)
from mechmask.study.editing.config import EditingConfig
from mechmask.study.editing.exports import export_editing
from mechmask.study.editing.methods import Ready
from mechmask.study.editing.readings import Rulers, require_asked, save_all
from mechmask.study.editing.results import EditResults, edited_in, readings_in
from mechmask.study.editing.sequence import costs_of, sequence_of
from mechmask.study.editing.steps import Editing, Made, calls_of, rest_of
from mechmask.study.editing.tables import erase_of_editors, metrics_of, verdicts_of
from mechmask.study.outcome import outcome
from mechmask.study.run import Run
from mechmask.study.states import StudyState, edit_settings, reading_in, require_as_it_came, untouched
from mechmask.study.step import Step
from mechmask.write.edit import EditConfig
from mechmask.write.finetune import lora_config

WITHOUT_TWINS = "model"  # the one state that is edited, where no facts are installed
_SCORED = {"edited_neighbors": "left out"}  # a table that still counts them is made again


class EditStudy:
    """A study of one model, of facts that it knows, or that are installed into twins first, and of editors.

    Args:
        model: the model; it is left as it was.
        facts: contradicted facts, controls, and facts that were never known: pseudo-subjects (``assign_roles``) of
            facts from pretraining, which the verdict is held against. Where facts are installed every fact is held
            against itself in a twin that was not taught it, and never facts only tell the noise.
        config: what is done; ``EditingConfig()`` by default.

    Raises:
        StudyError: if a role is missing, no fact has distractors and the statistic needs them, or the facts are to be
            installed by a DoRA, on which nothing can be stacked.
        ChangeError: if an editor has no setting for this model.
        ModelError: if an editor writes into a block that the model lacks.
        RouteError: if a value cannot be told from a prompt or from its rival.
        ReadingError: if an implication of a fact is of a kind that its other prompts have.
    """

    def __init__(self, model: Model, facts: FactSet, config: EditingConfig | None = None) -> None:
        self.model, self.facts, self.config = model, as_fact_set(facts), config or EditingConfig()
        self._require_usable()
        self.edits = edit_settings(model, self.config.edits)
        require_asked(model, self.facts)

    def __repr__(self) -> str:
        return f"EditStudy({self.model.name!r}, {self.facts!r})"

    @property
    def shares(self) -> dict[str, tuple[str, ...]]:
        """Ids of the contradicted facts by the twin that knows them; all of them where none is installed."""
        if self.config.install is None:
            return {WITHOUT_TWINS: self.facts.contradicted.ids}
        return shares(self.facts, self.config.twins)

    def run(self, directory: str | Path) -> EditResults:
        """Do what is not done yet in ``directory``; started again after an interruption, it ends with the same bits.

        All but what was measured of seconds and memory, which are those of the run that made each edit. An edit is one
        step, which keeps what was read and not the change; a sequence that was interrupted makes its earlier edits
        again, which takes their time and none of their readings'.

        Args:
            directory: new, or that of a study of the same model and facts.

        Returns:
            Results, of which ``summary()`` is the one table. States are ``before`` and the editors by name:

            * ``results/editing``: what ``metrics_of`` gives: ``estimate``, ``low``, ``high`` and the count ``n`` over
              ``state`` and ``metric``; of facts edited together without neighbors that are edited themselves;
            * ``results/verdicts``: ``verdict``, ``reason`` and ``failure`` ``[state, fact]``, and of the group
              ``group_verdict[state]``;
            * ``results/erase``: what ``erase_index`` gives, along ``state``;
            * ``results/depth`` (``logprob[state, fact, phrasing, route, layer]`` in nats), ``results/answers`` (what
              ``read_editing`` gives, along ``state``) and ``results/generations`` (``text[state, fact, generation]``);
            * ``results/sequence``, of a sequence: what ``sequence_of`` gives, by the number of edits;
            * ``results/cost``: seconds and bytes of memory over ``state`` and ``metric``.

        Raises:
            StudyError: if the directory holds a study of another model or of other facts.
            ChangeError: if an editor cannot be made ready.
            ReadingError: if a reading disagrees with the model's own output, or the text cannot be read.
        """
        about = {"protocol": "editing", "config": self.config.model_dump(mode="json")}
        with Run(directory, self.model, self.facts, about) as run:
            run.plan(self._plan())
            rulers = Rulers.of(run, self.config)
            starts = self._starts(run)
            before = {twin: self._before(run, twin, start, rulers) for twin, start in starts.items()}
            made = {name: list(self._edited(run, name, config, starts, rulers)) for name, config in self.edits.items()}
            self._conclude(run, before, made)
            in_sequence = self.config.edited == "sequence"
            export_editing(run, EditResults(run.root), provenance(self.model), in_sequence=in_sequence)
        return EditResults(directory)

    def _require_usable(self) -> None:
        counts = {role: len(self.facts.in_role(role)) for role in ("contradicted", "control", "never")}
        if not all(counts.values()):
            shown = ", ".join(f"{n} {role}" for role, n in counts.items())
            raise StudyError(
                f"A study of editors needs facts of each role; there are {shown}. Draw them with assign_roles."
            )
        bare = not any(fact.distractors for fact in self.facts.contradicted)
        if bare and self.config.statistic not in ("logprob", "log_odds"):
            raise StudyError(
                f"The statistic {self.config.statistic!r} holds old against distractors, and no contradicted fact has "
                "any. Give the facts distractors, or take log_odds."
            )
        require_backend(self.config.backend)
        install = self.config.install
        if install is None:
            return
        require_shares(self.facts, self.config.twins)
        if install.method == "dora":
            raise StudyError("Nothing can be stacked on an installed DoRA. Install the facts with lora or full.")
        lora_config(self.model, install)

    def _starts(self, run: Run) -> dict[str, StudyState]:
        """What is edited, by the name of the twin."""
        if self.config.install is None:
            return {WITHOUT_TWINS: untouched(run)}
        return dict(installed_twins(run, self.facts, self.shares, self.config.install, 1))

    def _before(self, run: Run, twin: str, start: StudyState, rulers: Rulers) -> Step:
        def make(directory: Path) -> None:
            require_as_it_came(run, start)
            save_all(rulers.read(start.state, self.facts.contradicted, rest_of(self.facts)), directory)

        return run.step(f"before/{twin}", rulers.settings, {**run.inputs, **start.inputs, **rulers.inputs}, make)

    def _edited(
        self, run: Run, name: str, config: EditConfig, starts: Mapping[str, StudyState], rulers: Rulers
    ) -> Iterator[Made]:
        """Every edit of one editor, in order."""
        c, batches = self.config, self._batches(self.facts.contradicted.ids)
        editing = {
            twin: Editing(run, f"{name}/{twin}", start, Ready(start.state, config), rulers, self.facts, c.edited)
            for twin, start in starts.items()
        }
        with progress_bar(name, len(batches) * len(starts)) as bar:
            for number, facts in enumerate(batches):
                steps, costs = {}, []
                for twin, one in editing.items():
                    steps[twin], cost = one.step(number, facts, is_last=number == len(batches) - 1)
                    costs += cost
                    bar(facts[-1])
                yield Made(facts, steps, costs)

    def _batches(self, ids: Sequence[str]) -> list[tuple[str, ...]]:
        """The facts that a step has edited: one alone, all, or of a sequence all up to it."""
        c = self.config
        if c.edited == "each":
            return [(fact,) for fact in ids]
        if c.edited == "together":
            return [tuple(ids)]
        ends = sorted({*range(c.read_every, len(ids), c.read_every), len(ids)})
        return [tuple(ids[:end]) for end in ends]

    def _conclude(self, run: Run, before: Mapping[str, Step], made: Mapping[str, Sequence[Made]]) -> None:
        """What the readings say, which needs no model."""
        c, level = self.config, {"level": self.config.level}
        in_sequence = c.edited == "sequence"

        @cache  # of a study that is whole nothing is read again
        def start() -> Start:
            return self._start({twin: readings_in(step) for twin, step in before.items()})

        @cache
        def read() -> dict[str, list[Edited]]:
            return {name: [edited_in(one.facts, one.steps) for one in each] for name, each in made.items()}

        def judged() -> dict[str, list[Edited]]:
            return {name: each[-1:] if in_sequence else each for name, each in read().items()}

        def along(of: Callable[[Start, Sequence[Edited]], xr.Dataset]) -> xr.Dataset:
            states = {BEFORE: [Edited(tuple(start().facts), {})], **judged()}
            return joined_states({state: of(start(), edits) for state, edits in states.items()})

        def worn() -> xr.Dataset:
            numbered = {name: {len(edit.facts): edit for edit in each} for name, each in read().items()}
            return sequence_of(start(), numbered, c.level)

        sources = [*before.values(), *(step for each in made.values() for one in each for step in one.steps.values())]
        by_ruler = {"depth": depth_of, "answers": editing_of}
        by_ruler |= {"generations": generations_of} if c.generation else {}
        for name, of in by_ruler.items():
            outcome(run, name, sources, partial(along, of))
        erase = outcome(run, "erase", sources, lambda: erase_of_editors(start(), judged(), c.options), c.options)
        judging = {
            "editing": lambda found: metrics_of(start(), judged(), found, c.level),
            "verdicts": lambda found: verdicts_of(judged(), found, c.level),
        }
        for name, judge in judging.items():
            settings = _SCORED | level if name == "editing" else level
            outcome(run, name, [*sources, erase], lambda of=judge: of(reading_in(erase)), settings)
        if in_sequence:
            outcome(run, "sequence", sources, worn, _SCORED | level)
        measured = {name: [step for one in each for step in one.costs] for name, each in made.items()}
        costs = {step.name: step for each in measured.values() for step in each}
        outcome(run, "cost", [*sources, *costs.values()], lambda: costs_of(calls_of(measured), c.level), level)

    def _start(self, readings: Mapping[str, Mapping[str, xr.Dataset]]) -> Start:
        """What was read before, of twins with what each of them knew."""
        output = [of["output"] for of in readings.values()]
        joined = output[0] if self.config.install is None else joined_twins(output, self.shares, self.facts)
        return Start(readings, joined, self.shares)

    def _plan(self) -> dict[str, int | None]:
        """Every step that will be taken, with the most optimizer steps of a training."""
        c, twins = self.config, list(self.shares)
        install = {f"changes/install/{twin}": c.install.steps for twin in twins} if c.install else {}
        lens = [] if c.lens == "logit" else [f"lenses/{c.lens}"]
        n = len(self._batches(self.facts.contradicted.ids))
        edits = [f"edits/{name}/{twin}/{i:04d}" for name in self.edits for i in range(n) for twin in twins]
        named = ["depth", "answers", *(["generations"] if c.generation else []), "erase", "editing", "verdicts"]
        named += ["sequence"] if c.edited == "sequence" else []
        results = [f"results/{name}" for name in (*named, "cost")]
        before = [f"before/{twin}" for twin in twins]
        return {**dict.fromkeys(lens), **install, **dict.fromkeys([*before, *edits, *results])}
