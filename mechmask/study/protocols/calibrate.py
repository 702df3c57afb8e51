"""Calibration: what readings say where the truth is known by construction (Dorna et al. 2025; DESIGN, definitions).

One draw of facts is told to six models in six ways, three of which make the model know the old values and three do
not. Each is then contradicted, read at every dose, and made to relearn; each is also trained on the controls alone.
Which statistic tells the pools apart is computed from these readings in ``measure/calibration.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import xarray as xr
from pydantic import Field

from mechmask.configuration import Configuration
from mechmask.facts.fact_set import FactSet
from mechmask.facts.pools import KNOWING, UNKNOWING, Pool, told, without_spare
from mechmask.facts.synthetic import synthetic_facts
from mechmask.models.model import Model
from mechmask.read.logits import read_logits
from mechmask.read.scoring.contests import facts_of
from mechmask.study.outcome import outcome
from mechmask.study.results import StudyResults
from mechmask.study.run import Run
from mechmask.study.states import reading_in, readings_of
from mechmask.study.tables import concatenated
from mechmask.study.training import OUTPUT, Trained, Watch, train
from mechmask.write.finetune import FinetuneConfig

POOLS: tuple[Pool, ...] = (*KNOWING, *UNKNOWING)


class CalibrationConfig(Configuration):
    """How the models of a draw are told, contradicted and relearned.

    Attributes:
        n_contradicted: facts that the six models are told in six ways, and that are then contradicted.
        n_control: facts that every model is told verbatim and keeps.
        distractors: values that are read beside old and new.
        taught_phrasings: in how many phrasings a fact is told and contradicted; twice as many are read.
        tell: how a history is told.
        contradict: how the new values are taught; draws take them in turn.
        n_doses: at how many places of the contradiction it is read, evenly spaced, the last step included.
        relearn: the budget within which the old values are taught again.
        relearn_every: optimizer steps between two readings of it.
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
    batch_size: int = Field(default=32, ge=1)


def calibrate_draw(
    model: Model, directory: str | Path, seed: int = 0, config: CalibrationConfig | None = None
) -> StudyResults:
    """Six models of one draw of facts, told in six ways and contradicted alike.

    Args:
        model: the model; it is left as it was.
        directory: of the run; taken up again where it stopped.
        seed: draws the facts.
        config: how; ``CalibrationConfig()`` by default.

    Returns:
        Results that hold ``results/doses`` (``logprob[pool, step, fact, phrasing, route]`` in nats), ``results/alone``
        (the same without ``step``, trained on the controls alone) and ``results/relearned`` (``logprob[pool, step,
        fact, route]`` and ``recalled``).

    Raises:
        StudyError: if the directory holds something else.
        ChangeError: if a loss is not a number.
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
    about = {"protocol": "calibrate", "seed": seed, "config": c.model_dump(mode="json")}
    with Run(directory, model, facts, about) as run:
        n = c.taught_phrasings
        doses, relearned, alone = {}, {}, {}
        contradict = c.contradict[seed % len(c.contradict)]
        output = Watch(lambda now: _read(now, facts, c), every=max(1, contradict.steps // c.n_doses))
        recall = Watch(lambda now: _recall(now, facts.contradicted, c), every=c.relearn_every)
        old, new = facts.contradicted.install_examples(n), facts.contradiction_examples(n)
        for pool in POOLS:
            history = train(run, f"told/{pool}", told(drawn, pool, phrasings=n, seed=seed), c.tell)
            doses[pool] = train(run, f"contradicted/{pool}", new, contradict, start=history, watch=output)
            relearned[pool] = train(
                run, f"relearned/{pool}", old, c.relearn, start=doses[pool], until=1.0, watch=recall
            )
            controls = facts.control.install_examples(n)
            alone[pool] = train(run, f"alone/{pool}", controls, contradict, start=history)
        left = readings_of(run, alone, read_logits, phrasings="all", batch_size=c.batch_size)
        for name, trained in (("doses", doses), ("relearned", relearned)):
            steps = [step for one in trained.values() for step in one.checkpoints.values()]
            outcome(run, name, steps, lambda trained=trained: _by_pool({p: _course(t) for p, t in trained.items()}))
        outcome(run, "alone", left.values(), lambda: _by_pool({p: reading_in(step) for p, step in left.items()}))
    return StudyResults(directory)


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
