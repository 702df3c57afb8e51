"""``CorrectionStudy``: facts that a model knows from pretraining, corrected step by step and edited one at a time.

Nothing is installed, so the reference is pseudo-subjects in the same prompts (``assign_roles``), or where there is a
model that never held the facts, such as TOFU's retain model beside its full one, that model, corrected and edited
alike. The correction is judged where it has just won, which is the paper's regime, and where it was driven on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import xarray as xr
from pydantic import Field

from mechmask.configuration import NONE_BY_NAME
from mechmask.errors import StudyError
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.measure.erase import erase_index
from mechmask.models.load import load_model
from mechmask.models.model import Model
from mechmask.read.logits import read_logits
from mechmask.read.scoring.labels import provenance
from mechmask.study.config import JudgedConfig
from mechmask.study.course import course_of, judged_states
from mechmask.study.exports import export_correction
from mechmask.study.outcome import outcome, surprise_of
from mechmask.study.preparation import require_alike, require_one_shape, require_roles, require_routes
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
        reference: a model that never held the contradicted facts, by its source as under ``[model]``. It has the same
            tokenizer and is loaded whole on the device of the studied model. Pseudo-subjects by default.
    """

    contradict: FinetuneConfig = FinetuneConfig(lr=1e-4, steps=30)
    taught_phrasings: int = Field(default=1, ge=1)
    reference: Annotated[str | None, NONE_BY_NAME] = None


class CorrectionStudy:
    """A study of one model and of facts that it knows.

    Args:
        model: the model; it is left as it was.
        facts: contradicted facts, controls, and never facts: pseudo-subjects that stand in for contradicted facts, or
            beside a reference model whatever neither of the two holds.
        config: what is done; ``CorrectionConfig()`` by default.
        reference: a model that never held the contradicted facts; that of ``config`` is loaded by default.

    Raises:
        StudyError: if there is no contradicted, control or never fact; if the reference is the model itself, is given
            twice, has another type of numbers or reads the facts as other tokens.
        ChangeError: if an editor has no setting for this model, or a training does not fit.
        RouteError: if a value cannot be told from the prompt or from its rival.
        ModelError: if the reference cannot be loaded, or lacks a block that is edited.
    """

    def __init__(
        self, model: Model, facts: FactSet, config: CorrectionConfig | None = None, reference: Model | None = None
    ) -> None:
        self.model, self.facts, self.config = model, as_fact_set(facts), config or CorrectionConfig()
        require_roles(self.facts, "A correction", {"contradicted": 1, "control": 1, "never": 1})
        self._require_fit(model)
        self.edits = edit_settings(model, self.config.edits)
        self.reference = self._reference(reference)
        if self.reference is not None:
            require_alike(model, self.reference, self.facts)
            self._require_fit(self.reference)
            edit_settings(self.reference, list(self.edits.values()))

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
        about: dict[str, Any] = {"protocol": "correction", "config": c.model_dump(mode="json")}
        if self.reference is not None:
            about["reference"] = {"name": self.reference.name, "fingerprint": self.reference.fingerprint}
        with Run(directory, self.model, facts, about) as run:
            corrected = self._corrected(run)
            reference = self._corrected(run.with_model(self.reference), "reference/") if self.reference else None
            self._conclude(run, corrected, reference)
            export_correction(run, StudyResults(run.root), provenance(self.model))
        return StudyResults(directory)

    def _require_fit(self, model: Model) -> None:
        require_routes(model, self.facts)
        require_one_shape(model, {"contradict": self.config.contradict})

    def _reference(self, given: Model | None) -> Model | None:
        """The one that is given, or the one that the configuration names."""
        named = self.config.reference
        if named is None:
            return given
        if given is not None:
            raise StudyError(f"The reference is given twice, as {given.name} and as {named}. Leave one of them out.")
        return load_model(named, dtype=self.model.dtype, device=self.model.device)

    def _corrected(self, run: Run, below: str = "") -> _Corrected:
        """The correction, step by step, and every edit, in the model of a run.

        Args:
            run: whose model it is.
            below: what stands before the names of its states.
        """
        c, facts = self.config, self.facts
        examples = facts.contradiction_examples(c.taught_phrasings)
        watch = Watch(self._read, every=c.checkpoint_every)
        corrected = train(run, f"{below}contradict", examples, c.contradict, watch=watch)
        states = each_edit(run, untouched(run), facts.contradicted.ids, self.edits, below=below.rstrip("/"))
        steps = readings_of(run, states, read_logits, phrasings="all", batch_size=c.batch_size)
        methods = {name: state.method for name, state in states.items()}
        return _Corrected(corrected, {name.removeprefix(below): step for name, step in steps.items()}, methods)

    def _read(self, model: Model) -> Mapping[str, xr.Dataset]:
        return {OUTPUT: read_logits(model, self.facts, phrasings="all", batch_size=self.config.batch_size)}

    def _conclude(self, run: Run, corrected: _Corrected, reference: _Corrected | None) -> None:
        """What the readings say, which needs no model."""
        options = self.config.options
        readings = outcome(run, "readings", corrected.checkpoints, corrected.course)
        both = [readings, *(reference.checkpoints if reference else ())]

        def course() -> xr.Dataset:
            return course_of(reading_in(readings), options, reference.course() if reference else None)

        judged = outcome(run, "course", both, course, options)

        def erased() -> xr.Dataset:
            before, rows = reading_in(readings).isel(step=0, drop=True), {}
            beside = reference.course().isel(step=0, drop=True) if reference else None
            for name, step in corrected.edits.items():
                after, pair = reading_in(step), None
                if reference and beside is not None:
                    pair = (beside.sel(fact=after.fact), reading_in(reference.edits[name]))
                rows[name] = erase_index(before.sel(fact=after.fact), after, reference=pair, **options)
            return judged_states(reading_in(judged), by_method(rows, corrected.methods))

        edits = [*corrected.edits.values(), *(reference.edits.values() if reference else ())]
        surprise_of(run, outcome(run, "erase", [judged, *both, *edits], erased, options), self.config.level)


@dataclass(frozen=True)
class _Corrected:
    """What a model went through: the correction; its reading after every edit, and the method of each, by name."""

    trained: Trained
    edits: Mapping[str, Step]
    methods: Mapping[str, str]

    @property
    def checkpoints(self) -> list[Step]:
        return list(self.trained.checkpoints.values())

    def course(self) -> xr.Dataset:
        """The readings along ``step``."""
        along = self.trained.readings(OUTPUT)
        return concatenated(along.values(), "step", along)
