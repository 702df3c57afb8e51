"""``TwinStudy``: every installed fact read where it was taught and where it never was, under one treatment.

A crossover. The facts that will be contradicted are dealt into as many shares as there are twins; each twin is taught
one share beside the controls, and all twins are then contradicted in all facts. So each fact is its own reference, and
whatever form, values and correction do to a fact that was never known is subtracted (DESIGN, definitions). The
correction is judged where it has just won, which is the paper's regime, and where it was driven on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import xarray as xr
from pydantic import Field

from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.measure.erase import erase_index
from mechmask.measure.trace import TWIN
from mechmask.models.model import Model
from mechmask.read.logits import read_logits
from mechmask.read.scoring.labels import provenance
from mechmask.study.config import JudgedConfig
from mechmask.study.course import course_of, judged_states
from mechmask.study.crossover import joined_twins, require_shares, shares, taught
from mechmask.study.exports import export_correction
from mechmask.study.outcome import outcome, surprise_of
from mechmask.study.preparation import require_one_shape, require_routes
from mechmask.study.results import StudyResults
from mechmask.study.run import Run
from mechmask.study.states import each_edit, edit_settings, reading_in, readings_of
from mechmask.study.step import Step
from mechmask.study.tables import concatenated
from mechmask.study.training import OUTPUT, Trained, Watch, train
from mechmask.write.finetune import FinetuneConfig


class TwinsConfig(JudgedConfig):
    """How twins are taught, contradicted, edited and judged.

    Attributes:
        twins: how many; each is taught one share of the facts. From three on, every fact is left unknown twice, so that
            the noise of a trace is known without never facts.
        replicates: of every twin, each with a seed of its own.
        install: how the old values are taught.
        contradict: how the new values are taught, from the installed adapter on, driven to the last step.
        taught_phrasings: in how many of its phrasings each fact is installed and contradicted, the prompt first.
    """

    twins: int = Field(default=2, ge=2)
    replicates: int = Field(default=1, ge=1)
    install: FinetuneConfig = FinetuneConfig(steps=40)
    contradict: FinetuneConfig = FinetuneConfig(steps=20)
    taught_phrasings: int = Field(default=2, ge=1)


class TwinStudy:
    """A study of one model, of facts that it does not know, in twins.

    Args:
        model: the model; it is left as it was.
        facts: contradicted facts, at least one for each twin, and controls; never facts tell the noise.
        config: what is done; ``TwinsConfig()`` by default.

    Raises:
        StudyError: if there are fewer contradicted facts than twins, or no control.
        ChangeError: if an editor has no setting for this model.
        RouteError: if a value cannot be told from the prompt or from its rival.
    """

    def __init__(self, model: Model, facts: FactSet, config: TwinsConfig | None = None) -> None:
        self.model, self.facts, self.config = model, as_fact_set(facts), config or TwinsConfig()
        require_shares(self.facts, self.config.twins)
        require_routes(model, self.facts)
        require_one_shape(model, {"install": self.config.install, "contradict": self.config.contradict})
        self.edits = edit_settings(model, self.config.edits)

    def __repr__(self) -> str:
        return f"TwinStudy({self.model.name!r}, {self.facts!r})"

    @property
    def shares(self) -> dict[str, tuple[str, ...]]:
        """The labels of the contradicted facts that each twin is taught, by its name."""
        return shares(self.facts, self.config.twins, self.config.replicates)

    def run(self, directory: str | Path) -> StudyResults:
        """Do what is not done yet in ``directory``; started again after an interruption, it ends with the same bits.

        Args:
            directory: new, or that of a study of the same model and facts.

        Returns:
            Results that hold ``results/course`` (what ``erase_index`` gives, along ``step`` of the contradiction),
            ``results/erase`` (the same along ``state``: ``won``, ``driven_on`` and the editors) and
            ``results/readings`` (``logprob[twin, step, fact, phrasing, route]`` in nats and ``knew[twin, fact]``).

        Raises:
            StudyError: if the directory holds a study of another model or of other facts.
            ChangeError: if a loss is not a number.
            ReadingError: if a reading disagrees with the model's own output.
        """
        c, facts = self.config, self.facts
        with Run(directory, self.model, facts, {"protocol": "twins", "config": c.model_dump(mode="json")}) as run:
            n, watch = c.taught_phrasings, Watch(self._read, every=c.checkpoint_every)
            installed, contradicted = {}, {}
            for number, (twin, share) in enumerate(self.shares.items()):
                lessons = taught(facts, share).install_examples(n)
                install, contradict = (self._seeded(config, number) for config in (c.install, c.contradict))
                installed[twin] = train(run, f"install/{twin}", lessons, install)
                contradicted[twin] = train(
                    run,
                    f"contradict/{twin}",
                    facts.contradiction_examples(n),
                    contradict,
                    start=installed[twin],
                    watch=watch,
                )
            edited = self._edited(run, installed)
            self._conclude(run, contradicted, edited)
            export_correction(run, StudyResults(run.root), provenance(self.model))
        return StudyResults(directory)

    def _seeded(self, config: FinetuneConfig, number: int) -> FinetuneConfig:
        """Replicates differ in their seed; the twins of one replicate do not."""
        return config.model_copy(update={"seed": config.seed + number // self.config.twins})

    def _read(self, model: Model) -> Mapping[str, xr.Dataset]:
        return {OUTPUT: read_logits(model, self.facts, phrasings="all", batch_size=self.config.batch_size)}

    def _edited(self, run: Run, installed: Mapping[str, Trained]) -> dict[str, dict[str, dict[str, Step]]]:
        """Every fact edited alone in every twin: by editor, by fact, the reading of each twin."""
        ids = self.facts.contradicted.ids
        readings: dict[str, dict[str, dict[str, Step]]] = {}
        for twin, state in installed.items():
            states = each_edit(run, state, ids, self.edits, below=twin)
            steps = readings_of(run, states, read_logits, phrasings="all", batch_size=self.config.batch_size)
            for name, step in steps.items():
                method, fact = states[name].method, ids[int(name.rpartition("/")[2])]
                readings.setdefault(method, {}).setdefault(fact, {})[twin] = step
        return readings

    def _conclude(
        self, run: Run, contradicted: Mapping[str, Trained], edited: Mapping[str, Mapping[str, Mapping[str, Step]]]
    ) -> None:
        """Readings joined along twins, and what they say, which needs no model."""
        c = self.config
        checkpoints = [step for twin in contradicted.values() for step in twin.checkpoints.values()]

        def joined() -> xr.Dataset:
            along = {name: twin.readings(OUTPUT) for name, twin in contradicted.items()}
            twins = [concatenated(at.values(), "step", at) for at in along.values()]
            return joined_twins(twins, self.shares, self.facts)

        readings = outcome(run, "readings", checkpoints, joined)
        course = outcome(run, "course", [readings], lambda: course_of(reading_in(readings), c.options), c.options)

        def erased() -> xr.Dataset:
            before, by_editor = reading_in(readings).isel(step=0, drop=True), {}
            for method, facts in edited.items():
                after = [concatenated(map(reading_in, twins.values()), TWIN, twins) for twins in facts.values()]
                rows = [erase_index(before.sel(fact=reading.fact), reading, **c.options) for reading in after]
                by_editor[method] = xr.concat(rows, "fact", data_vars="all", combine_attrs="drop_conflicts")
            return judged_states(reading_in(course), by_editor)

        edits = [step for facts in edited.values() for twins in facts.values() for step in twins.values()]
        surprise_of(run, outcome(run, "erase", [readings, course, *edits], erased, c.options), c.level)
