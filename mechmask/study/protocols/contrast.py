"""``ContrastStudy``: edits and fine-tuning of the same facts of the same model, where new leads by the same margin.

The paper sets fine-tuning of one model on invented facts against FT-L on another model and real ones, where the edit
drives new far further (finding 3), and says itself that this is confounded. Here every way starts from the same model
and the same facts, is given the same examples (one fact, its prompt, its new value), and is read where it has brought
new to one stated margin. What each way does when all its steps are taken is read beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

import xarray as xr

from mechmask.errors import StudyError
from mechmask.facts.choice import by_letter, by_text
from mechmask.facts.fact import Example, Fact
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.facts.probes import probed
from mechmask.measure.reading import save_reading
from mechmask.models.model import Model
from mechmask.models.routes import encode_contests
from mechmask.models.states import Variant
from mechmask.progress import progress_bar
from mechmask.read.asked import read_asked
from mechmask.read.scoring.labels import provenance
from mechmask.study.contrast_config import ContrastConfig
from mechmask.study.contrast_readings import (
    DOSES,
    Under,
    file_of,
    matched_of,
    under_way,
)
from mechmask.study.contrast_tables import auroc_of_doses, erase_of_ways, rebound_of_ways, statistics_of_ways
from mechmask.study.exports import export_contrast
from mechmask.study.matching import Matched, edited_to_margin, trained_to_margin
from mechmask.study.outcome import outcome
from mechmask.study.results import READING, StudyResults
from mechmask.study.run import Run
from mechmask.study.states import (
    StudyState,
    edit_settings,
    reading_in,
    require_as_it_came,
    state_of_change,
    untouched,
)
from mechmask.study.step import NO_SETTINGS, Settings, Step, digest_of
from mechmask.study.tables import concatenated
from mechmask.study.training import train
from mechmask.write.adapter import AdapterChange
from mechmask.write.edit import EditConfig
from mechmask.write.finetune import FinetuneConfig, lora_config
from mechmask.write.interpolate import interpolated


class ContrastStudy:
    """A study of one model and of facts that it knows, or that are installed first.

    Args:
        model: the model; it is left as it was.
        facts: contradicted facts, controls, and facts that were never known: pseudo-subjects (``assign_roles``) of
            facts from pretraining, facts of role ``never`` of installed ones.
        config: what is done; ``ContrastConfig()`` by default.

    Raises:
        StudyError: if a role or a fact's pseudo-subject is missing, there is no edit, a training and an edit have one
            name, or the facts are to be installed by a DoRA, on which nothing can be stacked.
        ChangeError: if an editor has no setting for this model, or a training does not fit it.
        RouteError: if a value cannot be told from the prompt, a probe or a question, or from its rival.
    """

    def __init__(self, model: Model, facts: FactSet, config: ContrastConfig | None = None) -> None:
        self.model, self.facts, self.config = model, as_fact_set(facts), config or ContrastConfig()
        self.edits = edit_settings(model, self.config.edits)
        self._require_usable()
        for group in (self.facts, [one for f in self.facts if f.role != "never" for one in _asked_beside(f)]):
            for phrasing in range(max(len(fact.phrasings) for fact in group)):
                encode_contests(model.tokenizer, group, phrasing)

    def __repr__(self) -> str:
        return f"ContrastStudy({self.model.name!r}, {self.facts!r})"

    def run(self, directory: str | Path) -> StudyResults:
        """Do what is not done yet in ``directory``; started again after an interruption, it ends with the same bits.

        A way on one fact (on all of them, where they are taught together) is one step, which keeps what was read and
        not the change: a full training of every fact would fill a disk.

        Args:
            directory: new, or that of a study of the same model and facts.

        Returns:
            Results, ways by name and doses ``matched`` and ``driven_on``:

            * ``results/matched``: ``status[way, fact]`` (``reached``, ``not_reached``, ``led_before``), ``margin`` and
              ``margin_driven_on`` in nats, ``step``, ``scale``; ``edited[way]``;
            * ``results/erase`` and ``results/driven_on``: what ``erase_index`` gives, along ``state``, the ways;
            * ``results/statistics``: ``value[dose, way, statistic, fact]`` and ``before[statistic, fact]``;
            * ``results/auroc``: what ``auroc_of_ways`` gives along ``dose`` and ``of``;
            * ``results/rebound``: what ``rebound_of_ways`` gives along ``dose``.

        Raises:
            StudyError: if the directory holds a study of another model or of other facts.
            ChangeError: if a loss is not a number.
            ReadingError: if a reading disagrees with the model's own output.
        """
        about = {"protocol": "contrast", "config": self.config.model_dump(mode="json")}
        with Run(directory, self.model, self.facts, about) as run:
            start = self._start(run)
            before = self._before(run, start)
            facts = self._contested(reading_in(before))
            ways = {way: self._trained(run, start, facts, way, config) for way, config in self.config.trainings.items()}
            ways |= {way: self._edited(run, start, facts, way, config) for way, config in self.edits.items()}
            self._conclude(run, before, ways)
            export_contrast(run, StudyResults(run.root), provenance(self.model))
        return StudyResults(directory)

    def _require_usable(self) -> None:
        c = self.config
        counts = {role: len(self.facts.in_role(role)) for role in ("contradicted", "control", "never")}
        if not all(counts.values()):
            shown = ", ".join(f"{n} {role}" for role, n in counts.items())
            raise StudyError(f"A contrast needs facts of each role; there are {shown}. Draw them with assign_roles.")
        owners = {fact.stands_for for fact in self.facts.never} - {""}
        bare = next((fact for fact in self.facts.contradicted.ids if owners and fact not in owners), None)
        if bare is not None:
            raise StudyError(
                f"A fact is held against pseudo-subjects of its own, and no pseudo-subject stands for {bare!r}. Draw "
                "as many with assign_roles (n_never) as facts are contradicted."
            )
        both = sorted(set(c.trainings) & set(self.edits))
        if both or not self.edits:
            cause = f"{both[0]!r} names a training and an edit" if both else "there is no edit"
            raise StudyError(
                f"A contrast is between trainings and edits, and {cause}. Give some of each, by other names."
            )
        if c.install is not None and c.install.method == "dora":
            raise StudyError("Nothing can be stacked on an installed DoRA. Install the facts with lora or full.")
        for config in (*c.trainings.values(), *filter(None, [c.install])):
            lora_config(self.model, config)

    def _start(self, run: Run) -> StudyState:
        """What every way starts from; an installed adapter stands in the weights, so that others go beside it."""
        if self.config.install is None:
            return untouched(run)
        installed = train(run, "install", self.facts.install_examples(), self.config.install)
        change = installed.change
        if not isinstance(change, AdapterChange):
            return installed
        return state_of_change(run, "installed", interpolated(self.model, change, change, 1.0))

    def _before(self, run: Run, start: StudyState) -> Step:
        def make(directory: Path) -> None:
            require_as_it_came(run, start)
            save_reading(read_asked(start.state, self.facts, batch_size=self.config.batch_size), directory / READING)

        return run.step("readings/before", NO_SETTINGS, {**run.inputs, **start.inputs, **_asked_of(self.facts)}, make)

    def _contested(self, before: xr.Dataset) -> FactSet:
        """The facts on which new does not lead by the margin before anything is changed."""
        margin = before.margin.sel(phrasing=0, fact=list(self.facts.contradicted.ids))
        left = margin.fact.values[margin.values < self.config.matched_margin].tolist()
        if not left:
            raise StudyError(
                f"New leads old by {self.config.matched_margin:g} nats on every contradicted fact before anything is "
                "changed, so that nothing is to be matched. Take facts that the model knows, or a larger margin."
            )
        return self.facts.select(left)

    def _trained(
        self, run: Run, start: StudyState, facts: FactSet, way: str, config: FinetuneConfig
    ) -> dict[str, Step]:
        """The step that holds each fact, by its id."""
        c, found = self.config, {}
        together = c.taught == "together"
        groups = [facts] if together else [facts.select([fact]) for fact in facts.ids]
        every = Settings({"checkpoint_every": c.checkpoint_every}, {"checkpoint_every": c.checkpoint_every})
        with progress_bar(way, len(groups)) as bar:
            for group in groups:
                examples = (self.facts if together else group).contradiction_examples()
                carry = partial(
                    trained_to_margin,
                    examples=examples,
                    config=config,
                    margin=c.matched_margin,
                    every=c.checkpoint_every,
                )
                found |= self._way(run, start, way, group, carry, Settings.of(config) | every, examples)
                bar(group[0].id)
        return found

    def _edited(self, run: Run, start: StudyState, facts: FactSet, way: str, config: EditConfig) -> dict[str, Step]:
        found = {}
        carry = partial(edited_to_margin, config=config, margin=self.config.matched_margin)
        with progress_bar(way, len(facts)) as bar:
            for fact in facts.ids:
                one = facts.select([fact])
                found |= self._way(run, start, way, one, carry, Settings.of(config), one.contradiction_examples())
                bar(fact)
        return found

    def _way(
        self,
        run: Run,
        start: StudyState,
        way: str,
        facts: FactSet,
        carry: Callable[[Model | Variant, FactSet], Mapping[str, Matched]],
        settings: Settings,
        examples: list[Example],
    ) -> dict[str, Step]:
        """One way on some facts, read at its doses."""

        def make(directory: Path) -> Mapping[str, object]:
            require_as_it_came(run, start)
            found = carry(start.state, facts)
            for number, (fact, one) in enumerate(found.items()):
                for dose, change in zip(DOSES, (one.change, one.driven_on), strict=True):
                    if change is not None:
                        reading = self._read(change.on(start.state), fact)
                        save_reading(reading, directory / file_of(dose, number))
            return {"facts": {fact: {**one.numbers, "number": i} for i, (fact, one) in enumerate(found.items())}}

        margin = {"matched_margin": self.config.matched_margin}
        taught = [example.written() for example in examples]
        inputs = {**run.inputs, **start.inputs, "examples": digest_of(taught), **_asked_of(self.facts)}
        number = self.facts.contradicted.ids.index(facts[0].id)
        step = run.step(f"ways/{way}/{number:04d}", settings | Settings(margin, margin), inputs, make)
        return dict.fromkeys(facts.ids, step)

    def _read(self, state: Variant, fact: str) -> xr.Dataset:
        """The changed fact and all that no way changes."""
        rest = [one.id for one in self.facts if one.role != "contradicted"]
        return read_asked(state, self.facts.select([fact, *rest]), batch_size=self.config.batch_size)

    def _conclude(self, run: Run, before: Step, ways: Mapping[str, Mapping[str, Step]]) -> None:
        """What the readings say, which needs no model."""
        c, edited = self.config, list(self.edits)
        ids = list(next(iter(ways.values())))
        sources = [before, *{step.name: step for of in ways.values() for step in of.values()}.values()]

        @cache
        def under(dose: str) -> dict[str, Under]:
            return {way: under_way(steps, dose) for way, steps in ways.items()}

        def erased(dose: str) -> xr.Dataset:
            return erase_of_ways(reading_in(before), under(dose), c.options)

        def valued() -> xr.Dataset:
            results = {dose: reading_in(step) for dose, step in erase.items()}
            return statistics_of_ways(reading_in(before), {dose: under(dose) for dose in DOSES}, results)

        def rebounded() -> xr.Dataset:
            first = reading_in(before)
            return concatenated([rebound_of_ways(first, under(dose), ids, c.level) for dose in DOSES], "dose", DOSES)

        matched = partial(matched_of, ways, edited, self.facts.contradicted.ids)
        outcome(run, "matched", sources, matched, {"edited": edited})
        names = dict(zip(DOSES, ("erase", "driven_on"), strict=True))
        erase = {dose: outcome(run, name, sources, partial(erased, dose), c.options) for dose, name in names.items()}
        statistics = outcome(run, "statistics", [*sources, *erase.values()], valued)
        level = {"level": c.level}
        options = {"edited": edited, **level}
        outcome(run, "auroc", [statistics], lambda: auroc_of_doses(reading_in(statistics), **options), options)
        outcome(run, "rebound", sources, rebounded, level)


def _asked_of(facts: FactSet) -> dict[str, str]:
    """Digest of all texts in which facts are asked beside their own phrasings."""
    texts = [one.written() for fact in facts if fact.role != "never" for one in _asked_beside(fact)]
    return {"asked": digest_of(texts)}


def _asked_beside(fact: Fact) -> tuple[Fact, ...]:
    return (probed(fact), by_text(fact), *by_letter(fact))
