"""``CorrectionStudy``: facts that a model knows from pretraining, corrected step by step and edited one at a time.

Nothing is installed, so the reference is pseudo-subjects in the same prompts (``assign_roles``). The correction is
judged where it has just won, which is the paper's regime, and where it was driven on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import xarray as xr
from pydantic import Field

from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.measure.erase import erase_index
from mechmask.models.model import Model
from mechmask.read.logits import read_logits
from mechmask.read.scoring.labels import provenance
from mechmask.study.config import JudgedConfig
from mechmask.study.course import course_of, judged_states
from mechmask.study.exports import export_correction
from mechmask.study.outcome import outcome, surprise_of
from mechmask.study.preparation import require_one_shape, require_roles, require_routes
from mechmask.study.results import StudyResults
from mechmask.study.run import Run
from mechmask.study.states import each_edit, edit_settings, reading_in, readings_of, untouched
from mechmask.study.step import Step
from mechmask.study.tables import by_method, concatenated
from mechmask.study.training import OUTPUT, Trained, Watch, train
from mechmask.write.finetune import FinetuneConfig


class CorrectionConfig(JudgedConfig):
    """How facts from pretraining are corrected, edited and judged.

    Attributes:
        contradict: how the new values are taught, driven to the last step.
        taught_phrasings: in how many of its phrasings each fact is contradicted, the prompt first.
    """

    contradict: FinetuneConfig = FinetuneConfig(lr=1e-4, steps=30)
    taught_phrasings: int = Field(default=1, ge=1)


class CorrectionStudy:
    """A study of one model and of facts that it knows.

    Args:
        model: the model; it is left as it was.
        facts: contradicted facts, controls, and pseudo-subjects that stand in for contradicted facts.
        config: what is done; ``CorrectionConfig()`` by default.

    Raises:
        StudyError: if there is no contradicted, control or never fact.
        ChangeError: if an editor has no setting for this model.
        RouteError: if a value cannot be told from the prompt or from its rival.
    """

    def __init__(self, model: Model, facts: FactSet, config: CorrectionConfig | None = None) -> None:
        self.model, self.facts, self.config = model, as_fact_set(facts), config or CorrectionConfig()
        require_roles(self.facts, "A correction", {"contradicted": 1, "control": 1, "never": 1})
        require_routes(model, self.facts)
        require_one_shape(model, {"contradict": self.config.contradict})
        self.edits = edit_settings(model, self.config.edits)

    def __repr__(self) -> str:
        return f"CorrectionStudy({self.model.name!r}, {self.facts!r})"

    def run(self, directory: str | Path) -> StudyResults:
        """Do what is not done yet in ``directory``; started again after an interruption, it ends with the same bits.

        Args:
            directory: new, or that of a study of the same model and facts.

        Returns:
            Results that hold ``results/readings`` (``logprob[step, fact, phrasing, route]`` in nats),
            ``results/course`` (what ``erase_index`` gives, along ``step``) and ``results/erase`` (the same along
            ``state``: ``won``, ``driven_on`` and the editors).

        Raises:
            StudyError: if the directory holds a study of another model or of other facts.
            ChangeError: if a loss is not a number.
            ReadingError: if a reading disagrees with the model's own output.
        """
        c, facts = self.config, self.facts
        with Run(directory, self.model, facts, {"protocol": "correction", "config": c.model_dump(mode="json")}) as run:
            watch = Watch(self._read, every=c.checkpoint_every)
            corrected = train(
                run, "contradict", facts.contradiction_examples(c.taught_phrasings), c.contradict, watch=watch
            )
            states = each_edit(run, untouched(run), facts.contradicted.ids, self.edits)
            edits = readings_of(run, states, read_logits, phrasings="all", batch_size=c.batch_size)
            methods = {name: state.method for name, state in states.items()}
            self._conclude(run, corrected, edits, methods)
            export_correction(run, StudyResults(run.root), provenance(self.model))
        return StudyResults(directory)

    def _read(self, model: Model) -> Mapping[str, xr.Dataset]:
        return {OUTPUT: read_logits(model, self.facts, phrasings="all", batch_size=self.config.batch_size)}

    def _conclude(self, run: Run, corrected: Trained, edits: Mapping[str, Step], methods: Mapping[str, str]) -> None:
        """What the readings say, which needs no model."""
        c = self.config

        def joined() -> xr.Dataset:
            along = corrected.readings(OUTPUT)
            return concatenated(along.values(), "step", along)

        readings = outcome(run, "readings", corrected.checkpoints.values(), joined)
        course = outcome(run, "course", [readings], lambda: course_of(reading_in(readings), c.options), c.options)

        def erased() -> xr.Dataset:
            before = reading_in(readings).isel(step=0, drop=True)
            rows = {}
            for name, step in edits.items():
                after = reading_in(step)
                rows[name] = erase_index(before.sel(fact=after.fact), after, **c.options)
            return judged_states(reading_in(course), by_method(rows, methods))

        surprise_of(run, outcome(run, "erase", [readings, course, *edits.values()], erased, c.options), c.level)
