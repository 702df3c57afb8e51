"""``DoseStudy``: what a correction leaves of the old value and what it costs, over the doses of it that one can give.

A grid of trainings (learning rate, rank, method, and whatever else a training is configured by); every checkpoint is a
dose, and so is every multiple of the trained change, which takes no training at all. Facts that the model knows are
held against pseudo-subjects; with ``install`` they are taught first, in twins, and held against themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mechmask.errors import StudyError
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.files import content_digest
from mechmask.measure.reading import load_reading, save_reading
from mechmask.measure.trace import TWIN
from mechmask.models.corpora import Corpus
from mechmask.models.model import Model
from mechmask.models.routes import encode_contests
from mechmask.models.states import active
from mechmask.read.logits import read_logits
from mechmask.read.scoring.labels import provenance
from mechmask.read.text import held_out_text, read_text
from mechmask.read.weights import change_norm, effective_weights
from mechmask.study.crossover import installed_twins, joined_twins, require_shares, shares
from mechmask.study.dose_config import DoseConfig
from mechmask.study.doses import BY_SCALE, BY_STEP, COORDINATES, doses_of, last_states
from mechmask.study.exports import export_doses
from mechmask.study.outcome import outcome, surprise_of
from mechmask.study.results import StudyResults
from mechmask.study.run import Run
from mechmask.study.states import StudyState, reading_in, untouched
from mechmask.study.step import Settings, Step, file_in
from mechmask.study.tables import concatenated
from mechmask.study.training import OUTPUT, Trained, Watch, train
from mechmask.write.finetune_config import FinetuneConfig
from mechmask.write.interpolate import interpolated, scales
from mechmask.write.trained import trained_by


class DoseStudy:
    """A study of one model and of facts that it knows, or that are taught to twins of it.

    Args:
        model: the model; it is left as it was.
        facts: contradicted facts and controls; pseudo-subjects (``assign_roles``) where nothing is installed.
        config: which doses; ``DoseConfig()`` by default.

    Raises:
        StudyError: if a role lacks facts, or there are fewer contradicted facts than twins.
        ChangeError: if a training names a block that the model lacks, or cannot train its weights.
        RouteError: if a value cannot be told from the prompt or from its rival.
    """

    def __init__(self, model: Model, facts: FactSet, config: DoseConfig | None = None) -> None:
        self.model, self.facts, self.config = model, as_fact_set(facts), config or DoseConfig()
        c = self.config
        if c.install is not None:
            require_shares(self.facts, c.twins)
        elif not self.facts.contradicted or not self.facts.control or not any(f.stands_for for f in self.facts):
            raise StudyError(
                "A dose study needs contradicted facts, controls and, where nothing is installed, pseudo-subjects that "
                "stand for the facts. Draw them with assign_roles, or give install=."
            )
        for phrasing in range(max(len(fact.phrasings) for fact in self.facts)):
            encode_contests(model.tokenizer, self.facts, phrasing)
        for course in c.courses.values():
            trained_by(model, course)

    def __repr__(self) -> str:
        return f"DoseStudy({self.model.name!r}, {self.facts!r})"

    def run(self, directory: str | Path) -> StudyResults:
        """Do what is not done yet in ``directory``; started again after an interruption, it ends with the same bits.

        Args:
            directory: new, or that of a study of the same model and facts.

        Returns:
            Results that hold ``results/doses`` (what ``erase_index`` gives, along ``dose``, with ``margin``,
            ``control_drop``, ``text_cost`` in nats and ``norm``), ``results/readings`` (``logprob[dose, fact, phrasing,
            route]`` in nats), ``results/erase`` (the end of every training, along ``state``) and ``results/surprise``
            (of the same). ``dose_curve``, ``dose_erased`` and ``draw.dose`` take the first.

        Raises:
            StudyError: if the directory holds a study of another model or of other facts.
            ChangeError: if a loss is not a number.
            ReadingError: if a reading disagrees with the model's own output, or the text cannot be read.
        """
        c = self.config
        with Run(directory, self.model, self.facts, {"protocol": "dose", "config": c.model_dump(mode="json")}) as run:
            text, corpus = self._text(run)
            given: dict[tuple[str, str], dict[tuple[str, float], Step]] = {}
            starts = installed_twins(run, self.facts, self.shares, c.install, c.taught_phrasings)
            for start_name, start in (starts or {"": untouched(run)}).items():
                reader = _Reader(self.facts, corpus, start, c.batch_size)
                for course, config in c.courses.items():
                    given[start_name, course] = self._given(run, text, reader, start_name, start, course, config)
            self._conclude(run, given)
            export_doses(run, StudyResults(run.root), provenance(self.model))
        return StudyResults(directory)

    @property
    def shares(self) -> dict[str, tuple[str, ...]]:
        """The labels of the contradicted facts that each twin is taught; empty where nothing is installed."""
        return {} if self.config.install is None else shares(self.facts, self.config.twins)

    def _text(self, run: Run) -> tuple[Step, Corpus]:
        """The held-out text, kept as token ids: what was sampled once is read at every dose."""
        c = self.config
        settings = {"corpus": c.corpus, "n_tokens": c.text_tokens}
        inputs = {"model": run.inputs["model"]}
        if c.corpus is not None:
            inputs["corpus_file"] = content_digest(c.corpus)

        def make(directory: Path) -> None:
            corpus = held_out_text(self.model, c.corpus, n_tokens=c.text_tokens)
            content = {"sequences": corpus.sequences, "n_left_out": corpus.n_left_out, "source": corpus.source}
            (directory / "corpus.json").write_text(json.dumps(content), encoding="utf-8")

        step = run.step("corpus", Settings(settings, settings), inputs, make)
        content = json.loads(file_in(step, "corpus.json").read_text(encoding="utf-8"))
        return step, Corpus(tuple(map(tuple, content["sequences"])), content["n_left_out"], content["source"])

    def _given(
        self,
        run: Run,
        text: Step,
        reader: _Reader,
        start_name: str,
        start: StudyState,
        course: str,
        config: FinetuneConfig,
    ) -> dict[tuple[str, float], Step]:
        """Every dose of one training from one start, by what it is counted in and how much of that it is."""
        name = "/".join(filter(None, ("contradict", course, start_name)))
        inputs = {text.name: text.digest}
        watch = Watch(reader.read, every=self.config.checkpoint_every, inputs=inputs)
        examples = self.facts.contradiction_examples(self.config.taught_phrasings)
        begin = start if self.config.install is not None else None
        trained = train(run, name, examples, config, start=begin, watch=watch)
        doses: dict[tuple[str, float], Step] = {(BY_STEP, n): step for n, step in trained.checkpoints.items()}
        if trained.change is None or not scales(trained.change):
            return doses
        first, *_, last = trained.checkpoints.values()
        doses |= {(BY_SCALE, 0.0): first, (BY_SCALE, 1.0): last}
        for scale in self.config.scales:
            doses[BY_SCALE, scale] = self._scaled(run, inputs, reader, name, start, trained, scale)
        return doses

    def _scaled(
        self,
        run: Run,
        inputs: Mapping[str, str],
        reader: _Reader,
        name: str,
        start: StudyState,
        trained: Trained,
        scale: float,
    ) -> Step:
        """The readings of the model with so much of the trained change."""

        def make(directory: Path) -> None:
            change = interpolated(run.model, start.change, trained.change, scale)  # pyright: ignore[reportArgumentType]
            with active(change.on(run.model)) as model:
                for kind, reading in reader.read(model).items():
                    save_reading(reading, directory / f"{kind}.nc")

        settings = {"scale": scale}
        made_from = {**run.inputs, **start.inputs, **trained.inputs, **inputs}
        return run.step(f"scaled/{name}/{scale:g}", Settings(settings, settings), made_from, make)

    def _conclude(self, run: Run, given: Mapping[tuple[str, str], Mapping[tuple[str, float], Step]]) -> None:
        """Readings joined along doses, and what they say, which needs no model."""
        c = self.config
        places = {
            (course, *dose): [given[start, course][dose] for start in dict.fromkeys(start for start, _ in given)]
            for course in c.courses
            for dose in next(of for (_, name), of in given.items() if name == course)
        }

        def joined() -> xr.Dataset:
            rows = [self._over_starts([_whole(step) for step in steps]) for steps in places.values()]
            return concatenated(rows, "dose", range(len(rows))).assign_coords(self._coordinates(list(places)))

        sources = {step.name: step for steps in places.values() for step in steps}
        readings = outcome(run, "readings", sources.values(), joined, {"doses": [list(place) for place in places]})
        doses = outcome(run, "doses", [readings], lambda: doses_of(reading_in(readings), c.options), c.options)
        surprise_of(run, outcome(run, "erase", [doses], lambda: last_states(reading_in(doses))), c.level)

    def _over_starts(self, readings: list[xr.Dataset]) -> xr.Dataset:
        """The reading of a dose; of twins, joined, with which fact each of them was taught."""
        if self.config.install is None:
            return readings[0]
        both = joined_twins(readings, self.shares, self.facts)
        return both.assign(n_tokens=both.n_tokens.isel({TWIN: 0}, drop=True))

    def _coordinates(self, places: list[tuple[str, str, float]]) -> dict[str, tuple[str, list[Any]]]:
        """What each dose is, along ``dose``."""
        rows = []
        for course, by, at in places:
            config = self.config.courses[course]
            step, scale = (int(at), 1.0) if by == BY_STEP else (config.steps, at)
            rank = np.nan if config.method == "full" else float(config.rank)
            rows.append((f"{course}, by {by}", course, by, at, step, scale, config.lr, rank, config.method))
        return {name: ("dose", list(column)) for name, column in zip(COORDINATES, zip(*rows, strict=True), strict=True)}


class _Reader:
    """What is read at every dose that begins at one state."""

    def __init__(self, facts: FactSet, corpus: Corpus, start: StudyState, batch_size: int) -> None:
        self._facts, self._corpus, self._start, self._batch_size = facts, corpus, start, batch_size
        with active(start.state) as model:  # before a training holds the model
            self._before = {name: weight.clone() for name, weight in effective_weights(model)}

    def read(self, model: Model) -> Mapping[str, xr.Dataset]:
        """The contest on all phrasings, and the held-out text with the norm of the change."""
        text = read_text(model, self._corpus).assign(norm=change_norm(model, self._before))
        output = read_logits(model, self._facts, phrasings="all", batch_size=self._batch_size)
        return {OUTPUT: output, "text": text}


def _whole(step: Step) -> xr.Dataset:
    """All that was read at a dose."""
    output, text = (load_reading(file_in(step, f"{name}.nc")) for name in (OUTPUT, "text"))
    return output.assign(text_nll=text.nll, n_tokens=text.n_tokens, norm=text.norm)
