"""``MaskStudy``: install a fact, contradict it, and read what became of the old value (paper 2F, protocol).

Install the old values, then contradict some of them, reading on the way; edit the same facts of the same installed
model, one at a time; read output and depth of every state, and hold fine-tuning and edits to the same ruler.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import xarray as xr

from mechmask.errors import StudyError
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.models.model import Model
from mechmask.read.backends import require_backend
from mechmask.read.checkpoint import read_logits_and_depth
from mechmask.read.depth import read_depth
from mechmask.read.logits import read_logits
from mechmask.read.scoring.labels import provenance
from mechmask.study.config import StudyConfig
from mechmask.study.exports import export_study
from mechmask.study.lenses import FittedLens, fitted_lens
from mechmask.study.outcome import outcome, surprise_of
from mechmask.study.preparation import require_one_shape, require_routes
from mechmask.study.results import StudyResults
from mechmask.study.run import Run
from mechmask.study.states import (
    StudyState,
    each_edit,
    edit_settings,
    reading_in,
    readings_of,
    untouched,
)
from mechmask.study.step import Settings, Step
from mechmask.study.tables import by_method, by_state, erase_table, joined_trajectory
from mechmask.study.training import Trained, Watch, train
from mechmask.write.edit import EditConfig


class MaskStudy:
    """A study of one model and one set of facts.

    Args:
        model: the model; it is left as it was.
        facts: contradicted and control facts, and never facts where a verdict is wanted.
        config: what is done; ``StudyConfig()`` by default.

    Raises:
        StudyError: if the facts lack a role that the study needs.
        ChangeError: if an editor has no setting for this model.
        RouteError: if a value cannot be told from the prompt or from its rival.
    """

    def __init__(self, model: Model, facts: FactSet, config: StudyConfig | None = None) -> None:
        self.model = model
        self.facts = as_fact_set(facts)
        self.config = config or StudyConfig()
        self.edits = _try_out(self.model, self.facts, self.config)

    def __repr__(self) -> str:
        return f"MaskStudy({self.model.name!r}, {self.facts!r})"

    def run(self, directory: str | Path) -> StudyResults:
        """Do what is not done yet in ``directory``; started again after an interruption, it ends with the same bits.

        Args:
            directory: new, or that of a study of the same model and facts. Where its configuration was another one,
                the steps that depend on what has changed are made anew, and the others are taken up.

        Returns:
            The results, as ``mechmask.open_study`` gives them.

        Raises:
            StudyError: if the directory holds a study of another model or of other facts.
            ChangeError: if a loss is not a number.
            ReadingError: if a reading disagrees with the model's own output.
        """
        c, facts = self.config, self.facts
        with Run(directory, self.model, facts, {"protocol": "mask", "config": c.model_dump(mode="json")}) as run:
            run.plan(self._plan())
            lens = fitted_lens(run, c.lens)
            watch = self._watch(lens)
            old, new = facts.install_examples(c.taught_phrasings), facts.contradiction_examples(c.taught_phrasings)

            install = train(run, "install", old, c.install, until=c.install_recall, watch=watch) if c.install else None
            contradict = train(
                run, "contradict", new, c.contradict, start=install, until=c.contradict_until, watch=watch
            )
            before = install or untouched(run)
            edited = each_edit(run, before, facts.contradicted.ids, self.edits)
            states = {"before": before, "finetune": contradict, **edited}

            size = {"phrasings": "all", "batch_size": c.batch_size}
            output = readings_of(run, states, read_logits, score=c.score, **size)
            depth = readings_of(run, states, read_depth, roles=["contradicted"], lens=lens, backend=c.backend, **size)
            self._conclude(run, [*([install] if install else []), contradict], states, output, depth)
        return StudyResults(directory)

    def _watch(self, lens: FittedLens) -> Watch:
        """At a checkpoint: every route of every fact and what the model says; the contested ones at every layer."""
        c, facts = self.config, self.facts

        def read(model: Model) -> Mapping[str, xr.Dataset]:
            output, layers = read_logits_and_depth(
                model,
                facts,
                depth_facts=facts.contradicted,
                lens=lens.lens,
                score=c.score,
                backend=c.backend,
                generation=True,
                batch_size=c.batch_size,
            )
            return {"output": output, "depth": layers}

        settings = {"score": c.score, "backend": c.backend}
        inputs = {"lens": lens.lens.name, **lens.inputs}
        return Watch(read, Settings(settings, settings), c.checkpoint_every, inputs)

    def _conclude(
        self,
        run: Run,
        trainings: list[Trained],
        states: Mapping[str, StudyState],
        output: Mapping[str, Step],
        depth: Mapping[str, Step],
    ) -> None:
        """Tables and figures, which need no model."""
        c = self.config
        methods = {name: name if name in ("before", "finetune") else state.method for name, state in states.items()}
        passed = [step for t in trainings for step in t.checkpoints.values()]
        for name, kind in (("trajectory", "output"), ("depth_trajectory", "depth")):
            outcome(
                run, name, passed, lambda kind=kind: joined_trajectory({t.name: t.readings(kind) for t in trainings})
            )
        layers = outcome(
            run,
            "depth",
            depth.values(),
            lambda: by_state(by_method({n: reading_in(s) for n, s in depth.items()}, methods)),
        )
        after = {name: step for name, step in output.items() if name != "before"}

        def erased() -> xr.Dataset:
            readings = {name: reading_in(step) for name, step in after.items()}
            return erase_table(reading_in(output["before"]), readings, reading_in(layers), methods, **c.options)

        surprise_of(run, outcome(run, "erase", [*output.values(), layers], erased, c.options), c.level)
        export_study(run, StudyResults(run.root), provenance(self.model))

    def _plan(self) -> dict[str, int | None]:
        """Every step that will be taken, with the most optimizer steps of a training."""
        c = self.config
        edits = [f"{name}/{n:04d}" for name in self.edits for n in range(len(self.facts.contradicted))]
        readings = [f"readings/{r}/{s}" for r in ("read_logits", "read_depth") for s in ("before", "finetune", *edits)]
        install = {"changes/install": c.install.steps} if c.install else {}
        lens = [] if c.lens == "logit" else [f"lenses/{c.lens}"]
        results = [f"results/{name}" for name in ("trajectory", "depth_trajectory", "depth", "erase", "surprise")]
        changes = [f"changes/{edit}" for edit in edits]
        trained = {**install, "changes/contradict": c.contradict.steps}
        return {**dict.fromkeys(lens), **trained, **dict.fromkeys([*changes, *readings, *results])}


def _try_out(model: Model, facts: FactSet, config: StudyConfig) -> dict[str, EditConfig]:
    """Meet every refusal now that would come after the first training; the setting of every editor."""
    if not facts.contradicted or not facts.control:
        raise StudyError(
            f"A study needs contradicted and control facts; there are {len(facts.contradicted)} and "
            f"{len(facts.control)}. Give facts both roles."
        )
    require_routes(model, facts)
    require_backend(config.backend)
    require_one_shape(model, {"install": config.install, "contradict": config.contradict})
    return edit_settings(model, config.edits)
