"""Calibration: what readings say where the truth is known by construction (Dorna et al. 2025; DESIGN, definitions).

One draw of facts is told to six models in six ways, three of which make the model know the old values and three do
not. Each is then contradicted and read at every dose, made to relearn, edited fact by fact, and left alone but for its
controls. Which candidate tells the pools apart is computed from these readings in ``measure/calibration.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import xarray as xr
from pydantic import Field, model_validator

from mechmask.configuration import Configuration
from mechmask.facts.fact_set import FactSet
from mechmask.facts.pools import KNOWING, UNKNOWING, Pool, told, without_spare
from mechmask.facts.synthetic import synthetic_facts
from mechmask.measure.depth_score import depth_score, lens_depth_score
from mechmask.models.model import Model
from mechmask.models.states import Variant
from mechmask.read.depth import read_depth
from mechmask.read.linear_probe import read_linear_probe
from mechmask.read.logits import read_logits
from mechmask.read.patch import patch_residual
from mechmask.read.scoring.contests import facts_of
from mechmask.study.config import Editor
from mechmask.study.outcome import outcome
from mechmask.study.results import StudyResults
from mechmask.study.run import Run
from mechmask.study.states import StudyState, each_edit, edit_settings, reading_in, readings_of
from mechmask.study.step import Step
from mechmask.study.tables import by_method, concatenated
from mechmask.study.training import OUTPUT, Trained, Watch, train
from mechmask.write.edit import EditConfig
from mechmask.write.finetune import FinetuneConfig

POOLS: tuple[Pool, ...] = (*KNOWING, *UNKNOWING)
_ENDS: dict[str, Pool] = {"full": "verbatim", "blank": "never"}
"""The models that a depth score asks for: one that knows, and one that never learned it. They are told as these pools
are, with another seed, so that neither is an ancestor of a model that is judged."""


class CalibrationConfig(Configuration):
    """How the models of a draw are told, contradicted, relearned and edited.

    Attributes:
        n_contradicted: facts that the six models are told in six ways, and that are then contradicted.
        n_control: facts that every model is told verbatim and keeps.
        distractors: values that are read beside old and new.
        taught_phrasings: in how many phrasings a fact is told and contradicted; twice as many are read.
        tell: how a history is told.
        contradict: how the new values are taught; draws take them in turn.
        n_doses: at how many places of the contradiction it is read, evenly spaced, the last step included; the steps
            of every contradiction are a multiple of it.
        relearn: the budget within which the old values are taught again.
        relearn_every: optimizer steps between two readings of it.
        edits: one editor, which changes each fact alone in each of the six models; empty for none.
        batch_size: prompts per forward pass when reading; affects memory only.
    """

    n_contradicted: int = Field(default=8, ge=1)
    n_control: int = Field(default=3, ge=1)
    distractors: int = Field(default=8, ge=2)
    taught_phrasings: int = Field(default=2, ge=1)
    tell: FinetuneConfig = FinetuneConfig(steps=32)
    contradict: tuple[FinetuneConfig, ...] = Field(
        default=(FinetuneConfig(steps=21), FinetuneConfig(lr=1e-4, steps=30)), min_length=1
    )
    n_doses: int = Field(default=3, ge=1)
    relearn: FinetuneConfig = FinetuneConfig(steps=16)
    relearn_every: int = Field(default=2, ge=1)
    edits: tuple[Editor, ...] = Field(default=("ft_l",), max_length=1)
    batch_size: int = Field(default=32, ge=1)

    @model_validator(mode="after")
    def _same_doses_in_every_draw(self) -> CalibrationConfig:
        uneven = [one.steps for one in self.contradict if one.steps % self.n_doses]
        if uneven:
            raise ValueError(
                f"{uneven[0]} steps of contradict cannot be read at {self.n_doses} places evenly. Give a multiple"
            )
        return self


@dataclass(frozen=True)
class _Treated:
    """A model of one pool, and what was done to it."""

    told: Trained
    contradicted: Trained
    relearned: Trained
    alone: Trained
    edited: Mapping[str, StudyState]


def calibrate_draw(
    model: Model, directory: str | Path, seed: int = 0, config: CalibrationConfig | None = None
) -> StudyResults:
    """Six models of one draw of facts, told in six ways and treated alike.

    Args:
        model: the model; it is left as it was.
        directory: of the run; taken up again where it stopped.
        seed: draws the facts.
        config: how; ``CalibrationConfig()`` by default.

    Returns:
        Results that hold ``results/doses`` (``logprob[pool, step, fact, phrasing, route]`` in nats), ``results/alone``
        (the same without ``step``, trained on the controls alone), ``results/edited`` (the contested facts, each read
        where it alone was edited; only with an editor), ``results/relearned`` (``logprob[pool, step, fact, route]`` and
        ``recalled``), and ``results/depth`` (what ``_left_of_old`` says, ``[treatment, pool, fact]``).

    Raises:
        StudyError: if the directory holds something else.
        ChangeError: if a loss is not a number, or the editor has no setting for this model.
        ReadingError: if a reading disagrees with the model's own output.
    """
    c = config or CalibrationConfig()
    drawn = synthetic_facts(
        c.n_contradicted + c.n_control,
        seed=seed,
        n_contradicted=c.n_contradicted,
        n_never=0,
        distractors=c.distractors + 1,
    )
    facts = without_spare(drawn)
    edits = edit_settings(model, c.edits)
    about = {"protocol": "calibrate", "seed": seed, "config": c.model_dump(mode="json")}
    with Run(directory, model, facts, about) as run:
        models: dict[Pool, _Treated] = {pool: _treated(run, drawn, pool, seed, c, edits) for pool in POOLS}
        for name, trained in (
            ("doses", {pool: treated.contradicted for pool, treated in models.items()}),
            ("relearned", {pool: treated.relearned for pool, treated in models.items()}),
        ):
            steps = [step for one in trained.values() for step in one.checkpoints.values()]
            outcome(run, name, steps, lambda trained=trained: _by_pool({p: _course(t) for p, t in trained.items()}))
        alone = {pool: treated.alone for pool, treated in models.items()}
        _keep(run, "alone", readings_of(run, alone, read_logits, phrasings="all", batch_size=c.batch_size))
        if c.edits:
            edited = {name: state for treated in models.values() for name, state in treated.edited.items()}
            options = {"roles": ["contradicted"], "batch_size": c.batch_size}
            _keep(run, "edited", readings_of(run, edited, read_logits, phrasings="all", **options))
        again = c.tell.model_copy(update={"seed": c.tell.seed + 1})
        ends = {
            name: train(run, f"ends/{name}", told(drawn, pool, phrasings=c.taught_phrasings, seed=seed), again)
            for name, pool in _ENDS.items()
        }
        _read_depths(run, models, ends, c)
    return StudyResults(directory)


def _treated(
    run: Run, drawn: FactSet, pool: Pool, seed: int, c: CalibrationConfig, edits: Mapping[str, EditConfig]
) -> _Treated:
    n, facts = c.taught_phrasings, run.facts
    contradict = c.contradict[seed % len(c.contradict)]
    output = Watch(lambda now: _read(now, facts, c), every=max(1, contradict.steps // c.n_doses))
    recall = Watch(lambda now: _recall(now, facts.contradicted, c), every=c.relearn_every)
    history = train(run, f"told/{pool}", told(drawn, pool, phrasings=n, seed=seed), c.tell)
    new, old = facts.contradiction_examples(n), facts.contradicted.install_examples(n)
    contradicted = train(run, f"contradicted/{pool}", new, contradict, start=history, watch=output)
    again = train(run, f"relearned/{pool}", old, c.relearn, start=contradicted, until=1.0, watch=recall)
    alone = train(run, f"alone/{pool}", facts.control.install_examples(n), contradict, start=history)
    edited = each_edit(run, history, facts.contradicted.ids, edits, below=f"edited/{pool}")
    return _Treated(history, contradicted, again, alone, edited)


def _read_depths(
    run: Run, models: Mapping[Pool, _Treated], ends: Mapping[str, StudyState], c: CalibrationConfig
) -> None:
    """What is left of old below the output after every treatment: by patching, by the logit lens, by a probe."""
    treatments: dict[str, dict[str, StudyState]] = {
        "contradicted": {f"contradicted/{pool}": treated.contradicted for pool, treated in models.items()},
        "left alone": {f"alone/{pool}": treated.alone for pool, treated in models.items()},
        "edited": {name: state for treated in models.values() for name, state in treated.edited.items()},
    }
    states = {name: state for of in treatments.values() for name, state in of.items()}
    of_contested = {"roles": ["contradicted"], "batch_size": c.batch_size}
    patched = readings_of(run, {**states, "blank": ends["blank"]}, patched_into, target=ends["full"], **of_contested)
    lens = readings_of(run, {**states, **ends}, read_depth, **of_contested)
    probed = {name: state for of in ("contradicted", "left alone") for name, state in treatments[of].items()}
    probe = readings_of(run, probed, read_linear_probe, phrasings="all", batch_size=c.batch_size)

    def depths() -> xr.Dataset:
        known = {name: reading_in(lens[name]) for name in ends}
        reference = reading_in(patched["blank"])

        def left(name: str) -> xr.Dataset:
            probing = reading_in(probe[name]) if name in probe else None
            return _left_of_old(reading_in(patched[name]), reference, reading_in(lens[name]), known, probing)

        found = {
            treatment: _by_pool(_joined({name: left(name) for name in of}))
            for treatment, of in treatments.items()
            if of
        }
        return concatenated(found.values(), "treatment", found)

    outcome(run, "depth", [*patched.values(), *lens.values(), *probe.values()], depths)


def _left_of_old(
    patched: xr.Dataset,
    reference: xr.Dataset,
    lens: xr.Dataset,
    ends: Mapping[str, xr.Dataset],
    probe: xr.Dataset | None,
) -> xr.Dataset:
    """What three readings below the output say is left in one model, each more where more is left; ``[fact]``, shares.

    ``depth_score`` and ``lens_depth_score`` are 1 less the published scores, which say how much is gone;
    ``linear_probe`` is the mean over all blocks, and missing without a probe. The attribute ``phrasings`` says over
    which of them each is read.
    """
    facts = patched.fact
    by_patching = depth_score(reference.sel(fact=facts), patched)
    by_lens = lens_depth_score(ends["full"].sel(fact=facts), ends["blank"].sel(fact=facts), lens)
    left = {"depth_score": 1 - by_patching.score, "lens_depth_score": 1 - by_lens.score}
    if probe is not None:
        left["linear_probe"] = probe.probe.sel(fact=facts).isel(layer=slice(1, None)).mean("layer")
    read = {name: "all" if name == "linear_probe" else "prompt" for name in left}
    return xr.Dataset(
        {name: values.reset_coords(drop=True).assign_attrs(phrasings=read[name]) for name, values in left.items()}
    )


def patched_into(
    state: Model | Variant, facts: FactSet, *, target: Model | Variant, batch_size: int = 32
) -> xr.Dataset:
    """The contest in ``target`` when the residual stream at one layer comes from a state, see ``patch_residual``.

    Args:
        state: where the residuals come from.
        facts: the facts.
        target: what is run with them.
        batch_size: prompts per forward pass; affects memory only.
    """
    return patch_residual(state, target, facts, batch_size=batch_size, progress=False)


def _keep(run: Run, name: str, steps: Mapping[str, Step]) -> None:
    """The readings of one treatment as an outcome, by pool."""
    kept = ["logprob", "recalled"]  # what else is read has no common shape
    outcome(
        run, name, steps.values(), lambda: _by_pool(_joined({of: reading_in(step)[kept] for of, step in steps.items()}))
    )


def _joined(readings: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """The readings of one pool, whose states are ``treatment/pool`` or ``treatment/pool/editor/number``, in one."""
    return by_method(readings, {name: name.split("/")[1] if "/" in name else name for name in readings})


def _read(model: Model, facts: FactSet, config: CalibrationConfig) -> Mapping[str, xr.Dataset]:
    return {OUTPUT: read_logits(model, facts, phrasings="all", batch_size=config.batch_size)}


def _recall(model: Model, facts: FactSet, config: CalibrationConfig) -> Mapping[str, xr.Dataset]:
    return {OUTPUT: read_logits(model, facts_of(facts, distractors=False), batch_size=config.batch_size)}


def _course(trained: Trained) -> xr.Dataset:
    """The readings of a training along ``step``."""
    readings = trained.readings(OUTPUT)
    return concatenated(readings.values(), "step", readings)


def _by_pool(readings: Mapping[str, xr.Dataset]) -> xr.Dataset:
    return concatenated(readings.values(), "pool", readings)
