"""``MaskStudy``: install a fact, contradict it, and read what became of the old value (paper 2F, protocol).

Install the old values, read; contradict some of them, reading on the way; read output and depth again; edit the same
facts of the same installed model by FT-L, one at a time, and hold both to the same ruler.
"""

from __future__ import annotations

import functools
import html
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from mechmask.draw import checkpoints as draw_checkpoints
from mechmask.draw import depth as draw_depth
from mechmask.draw import erase as draw_erase
from mechmask.draw import save_figure
from mechmask.draw import trajectory as draw_trajectory
from mechmask.errors import StudyError
from mechmask.facts.fact import Example, Fact
from mechmask.facts.fact_set import FactSet
from mechmask.files import write_text
from mechmask.measure.commit import commit_layer
from mechmask.measure.erase import erase_index
from mechmask.measure.summary import conclusion, overview, summary
from mechmask.models.model import Model
from mechmask.models.routes import encode_contests
from mechmask.progress import PhaseBar, phase_bar
from mechmask.read.backends import Backend, backend_of, require_backend
from mechmask.read.depth import read_depth
from mechmask.read.generate import generate
from mechmask.read.lenses.lens import lens_of
from mechmask.read.logits import read_logits
from mechmask.read.scoring.labels import provenance
from mechmask.study.config import StudyConfig
from mechmask.study.folder import StudyFolder
from mechmask.write.adapter import AdapterChange
from mechmask.write.change import Change
from mechmask.write.edit import edit, preset_for
from mechmask.write.finetune import FinetuneConfig, Finetuning, lora_config
from mechmask.write.methods.ft_l import FTLConfig


class MaskStudy:
    """A study of one model and one set of facts.

    Args:
        model: the model; it is left as it was.
        facts: contradicted and control facts, and never facts where a verdict is wanted.
        config: what is done; ``StudyConfig()`` by default.

    Raises:
        StudyError: if the facts lack a role that the study needs, or FT-L has no setting for this model.
        RouteError: if a value cannot be told from the prompt or from its rival.
    """

    def __init__(self, model: Model, facts: FactSet, config: StudyConfig | None = None) -> None:
        config = config or StudyConfig()
        if not facts.contradicted or not facts.control:
            raise StudyError(
                f"A study needs contradicted and control facts; there are {len(facts.contradicted)} and "
                f"{len(facts.control)}. Give facts both roles."
            )
        if config.edit == "preset":
            config = config.model_copy(update={"edit": preset_for(model)})
        _try_out(model, facts, config)
        self.model = model
        self.facts = facts
        self.config = config
        self._lens = lens_of(config.lens, model)  # one lens reads every state: that of the model before any change
        self._folder: StudyFolder | None = None

    def run(self, directory: str | Path) -> MaskStudy:
        """Do what is not done yet in ``directory``; started again after an interruption, it ends with the same bits.

        Args:
            directory: new, or that of the same study.

        Returns:
            The study itself, its results at hand.

        Raises:
            StudyError: if the directory holds another study.
            ChangeError: if a loss is not a number.
            ReadingError: if a reading disagrees with the model's own output.
        """
        folder = StudyFolder(directory)
        with folder.opened(self._description(), self.facts):
            self._folder = folder
            c, taught = self.config, self.config.taught_phrasings
            old, new = self.facts.install_examples(taught), self.facts.contradiction_examples(taught)
            install = self._phase("install", old, c.install, None, c.install_recall)
            self._read_state("before", install)
            contradict = self._phase("contradict", new, c.contradict, install, None)
            self._read_state("finetune", contradict)
            self._edit_each(install)
            self._conclude()
        return self

    def __repr__(self) -> str:
        where = f", in {str(self._folder.root)!r}" if self._folder else ""
        return f"MaskStudy({self.model.name!r}, {self.facts!r}{where})"

    def _repr_html_(self) -> str:
        """What it is, and once it has been run the outcome and the overview."""
        shown = f"<p>{html.escape(repr(self))}</p>"
        try:
            table = self.overview().to_html(escape=True, float_format="{:.2f}".format)
        except StudyError:
            return shown
        return f"{shown}<p>{html.escape(self.conclusion())}</p>{table}"

    @cached_property
    def before(self) -> xr.Dataset:
        """Output reading of every fact and phrasing before the contradiction."""
        return self._stored("results/before")

    @cached_property
    def after(self) -> xr.Dataset:
        """The same after it."""
        return self._stored("results/finetune")

    @cached_property
    def trajectory(self) -> xr.Dataset:
        """The readout at every checkpoint: ``[step, fact, ...]``; ``attrs["onset_step"]`` is the onset."""
        return self._stored("results/trajectory")

    @cached_property
    def depth_trajectory(self) -> xr.Dataset:
        """Depth reading of the contradicted facts' prompts at every checkpoint ``[step, fact, route, layer]``."""
        return self._stored("results/depth_trajectory")

    @cached_property
    def depth(self) -> xr.Dataset:
        """Depth reading of the contradicted facts ``[state, fact, phrasing, route, layer]``."""
        return self._stored("results/depth")

    @cached_property
    def erase(self) -> xr.Dataset:
        """Erase index, verdict and commit layer ``[state, fact]``."""
        return self._stored("results/erase")

    @property
    def commit(self) -> xr.DataArray:
        """Commit layer of the new value ``[state, fact]``."""
        return self.erase.commit_layer

    def summary(self) -> pd.DataFrame:
        """Erase index beside commit layer: a row for each change and fact."""
        return summary(self.erase)

    def overview(self) -> pd.DataFrame:
        """Mean index and counts of verdicts, with intervals: a row for each change."""
        return overview(self.erase)

    def conclusion(self) -> str:
        """The outcome in two sentences."""
        return conclusion(self.erase)

    def _phase(
        self,
        name: str,
        examples: Sequence[Example],
        config: FinetuneConfig | None,
        start: AdapterChange | None,
        until_recall: float | None,
    ) -> AdapterChange | None:
        """Train until recall or to the last step, with the readout at every checkpoint."""
        if config is None:
            return start
        change = self._kept.change(name, lambda: self._train(name, examples, config, start, until_recall))
        self._kept.drop_state(name)
        if not isinstance(change, AdapterChange):
            raise StudyError(f"changes/{name} in {self._kept.root} is not this study's. Give a new directory.")
        return change

    def _train(
        self,
        name: str,
        examples: Sequence[Example],
        config: FinetuneConfig,
        start: AdapterChange | None,
        until_recall: float | None,
    ) -> Change:
        folder, every = self._kept, self.config.checkpoint_every
        with Finetuning(self.model, examples, config, start) as run:
            stored = folder.state(name)
            if stored is not None:
                run.restore(stored)
            with phase_bar(name, config.steps, run.step) as bar:
                recall = self._checkpoint(name, run, bar)
                while run.step < config.steps and not (until_recall is not None and recall >= until_recall):
                    run.advance(min(every, config.steps - run.step), bar.step)
                    recall = self._checkpoint(name, run, bar)
            return run.change()

    def _checkpoint(self, phase: str, run: Finetuning, bar: PhaseBar) -> float:
        """Read, then store the state: a process killed in between reads once more and gets the same bits."""
        reading = self._kept.checkpoint(phase, run.step, self._readout)
        self._kept.checkpoint(f"{phase}/depth", run.step, self._depth_readout)
        if run.step:
            self._kept.save_state(phase, run.state())
        taught = reading.recalled.sel(fact=reading.role != "never")
        wanted = (taught.role == "contradicted") & (phase == "contradict")
        recall = float(xr.where(wanted, taught.sel(route="new"), taught.sel(route="old")).mean())
        bar.recall(recall)
        return recall

    def _readout(self) -> xr.Dataset:
        """What is read at a checkpoint: every route of every fact, and what the model says."""
        reading = read_logits(self.model, self.facts, self.config.score, batch_size=self.config.batch_size)
        return reading.assign(generation=generate(self.model, self.facts, reading=reading))

    def _depth_readout(self) -> xr.Dataset:
        """The contest of the contradicted facts at every layer, by the prompt alone."""
        return self._read_layers(self.facts.contradicted, phrasings="prompt")

    def _read_state(self, state: str, change: Change | None) -> None:
        """Output of every fact and depth of the contradicted ones, over all phrasings."""
        with self._applied(change):
            self._kept.reading(f"results/{state}", lambda: self._read_output(self.facts))
            self._kept.reading(f"results/depth_{state}", lambda: self._read_layers(self.facts.contradicted))

    def _read_output(self, facts: Sequence[Fact]) -> xr.Dataset:
        return read_logits(self.model, facts, self.config.score, phrasings="all", batch_size=self.config.batch_size)

    def _read_layers(self, facts: Sequence[Fact], backend: Backend | None = None, phrasings: str = "all") -> xr.Dataset:
        c = self.config
        watcher = backend or c.backend
        return read_depth(self.model, facts, self._lens, backend=watcher, phrasings=phrasings, batch_size=c.batch_size)

    def _edit_each(self, install: Change | None) -> None:
        """FT-L on each contradicted fact alone; controls and never facts are read under each edit."""
        setting = self.config.edit
        if not isinstance(setting, FTLConfig):
            return
        others = [*self.facts.control, *self.facts.never]
        with self._applied(install), phase_bar("ft_l", len(self.facts.contradicted)) as bar:
            # made once: it shares the weights, so it sees each edit
            backend = functools.cache(lambda: backend_of(self.config.backend, self.model))
            for number, fact in enumerate(self.facts.contradicted):
                name = f"ft_l/{number:04d}"
                change = self._kept.change(name, lambda fact=fact: edit(self.model, [fact], "ft_l", setting))
                with change.applied(self.model):
                    self._kept.reading(f"results/{name}", lambda fact=fact: self._read_output([fact, *others]))
                    self._kept.reading(f"results/{name}_depth", lambda fact=fact: self._read_layers([fact], backend()))
                bar.tick()

    def _conclude(self) -> None:
        """Tables and figures, which need no model."""
        for name in ("before", "after", "trajectory", "depth_trajectory", "depth", "erase"):
            self.__dict__.pop(name, None)
        self._kept.reading("results/trajectory", self._trajectory)
        self._kept.reading("results/depth_trajectory", functools.partial(self._trajectory, "/depth"))
        self._kept.reading("results/depth", self._depth)
        self._kept.reading("results/erase", self._erase)
        drawn = {
            "trajectory": draw_trajectory,
            "depth_trajectory": draw_checkpoints,
            "depth": draw_depth,
            "erase": draw_erase,
        }
        for name, draw in drawn.items():
            for suffix in ("pdf", "png"):  # drawn anew for each: saving a figure moves what its layout begins from
                self._kept.file(
                    f"figures/{name}.{suffix}",
                    lambda path, name=name, draw=draw: save_figure(draw(getattr(self, name)), path),
                )
        self._kept.file("summary.csv", lambda path: write_text(path, self.summary().to_csv()))
        self._kept.file("overview.csv", lambda path: write_text(path, self.overview().to_csv()))
        about = provenance(self.model)
        self._kept.file("provenance.json", lambda path: write_text(path, json.dumps(about, indent=2, sort_keys=True)))

    def _trajectory(self, kind: str = "") -> xr.Dataset:
        """The readings of both phases as one; ``/depth`` are those at every layer."""
        onset, pieces = 0, []
        for phase in ("install", "contradict"):
            readings = self._kept.checkpoints(f"{phase}{kind}")
            # the first reading of the contradiction is the last one of the installation
            kept = readings if not pieces else readings[1:]
            pieces += [
                reading.expand_dims(step=[onset + step]).assign_coords(phase=("step", [phase]))
                for step, reading in kept
            ]
            onset += readings[-1][0] if readings and phase == "install" else 0
        return xr.concat(pieces, "step", combine_attrs="drop_conflicts").assign_attrs(onset_step=onset)

    def _depth(self) -> xr.Dataset:
        states = {"before": self._stored("results/depth_before"), "finetune": self._stored("results/depth_finetune")}
        edited = [self._stored(f"results/{name}_depth") for name in self._edits()]
        if edited:
            states["ft_l"] = xr.concat(edited, "fact", combine_attrs="drop_conflicts")
        return _by_state(states)

    def _erase(self) -> xr.Dataset:
        options = {"cutoff_nats": self.config.cutoff_nats, "level": self.config.level}
        rows = {"finetune": _with_recall(erase_index(self.before, self.after, **options), self.after)}
        edited = [
            _with_recall(erase_index(self.before.sel(fact=after.fact), after, **options), after)
            for after in (self._stored(f"results/{name}") for name in self._edits())
        ]
        if edited:
            rows["ft_l"] = xr.concat(edited, "fact", data_vars="all", combine_attrs="drop_conflicts")
        committed = commit_layer(self.depth, "new").sel(state=list(rows))
        return _by_state(rows).assign(
            commit_layer=committed.sel(phrasing=0, drop=True),
            commit_low=committed.min("phrasing"),
            commit_high=committed.max("phrasing"),
        )

    def _edits(self) -> list[str]:
        count = len(self.facts.contradicted) if isinstance(self.config.edit, FTLConfig) else 0
        return [f"ft_l/{number:04d}" for number in range(count)]

    def _applied(self, change: Change | None) -> AbstractContextManager[Any]:
        return nullcontext() if change is None else change.applied(self.model)

    @property
    def _kept(self) -> StudyFolder:
        if self._folder is None:
            raise StudyError("This study has no results yet. Run it: study.run(directory).")
        return self._folder

    def _stored(self, name: str) -> xr.Dataset:
        missing: Callable[[], xr.Dataset] = self._missing
        return self._kept.reading(name, missing)

    def _missing(self) -> xr.Dataset:
        raise StudyError("This study has not been run to its end. Run it: study.run(directory).")

    def _description(self) -> dict[str, object]:
        model = {
            "name": self.model.name,
            "family": self.model.family,
            "fingerprint": self.model.fingerprint,
            "dtype": str(self.model.dtype),
        }
        return {
            "schema_version": 2,
            "config": self.config.model_dump(mode="json"),
            "model": model,
            "facts": self.facts.fingerprint(),
        }


def _try_out(model: Model, facts: FactSet, config: StudyConfig) -> None:
    """Meet every refusal now that would come after the first training."""
    for phrasing in range(max(len(fact.phrasings) for fact in facts)):
        encode_contests(model.tokenizer, facts, phrasing)
    require_backend(config.backend)
    if isinstance(config.edit, FTLConfig):
        model.anatomy.mlp_output(config.edit.layer)
    lora_config(model, config.contradict)
    if config.install is not None:
        lora_config(model, config.install)
        shape = {"rank", "alpha", "projections", "layers"}
        first, second = config.install.model_dump(include=shape), config.contradict.model_dump(include=shape)
        if first != second:
            raise StudyError(
                f"Contradicting continues the installed adapter, so rank, alpha, projections and layers have to be the "
                f"same: install has {first}, contradict {second}. Make them equal."
            )


def _with_recall(result: xr.Dataset, after: xr.Dataset) -> xr.Dataset:
    recalled = after.recalled.sel(route="new", phrasing=0, drop=True)
    return result.assign(recalled=recalled.sel(fact=result.fact))


def _by_state(parts: dict[str, xr.Dataset]) -> xr.Dataset:
    states = xr.DataArray(list(parts), dims="state", name="state")
    spread = [
        part.assign({n: v.broadcast_like(part.fact) for n, v in part.data_vars.items()}) for part in parts.values()
    ]
    return xr.concat(spread, states, combine_attrs="drop_conflicts")  # pyright: ignore[reportReturnType]
