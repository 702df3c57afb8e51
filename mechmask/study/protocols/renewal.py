"""``RenewalStudy``: does old return where it is asked in another context than the one in which it was contradicted?

Three orders of contexts, after Bouton (2014; paper 2F, finding 6): installed in A and contradicted in B, asked in A
again (ABA) or in a third context (ABC); installed and contradicted in A, asked in B (AAB). Each is held against the
context of the contradiction, and against what the same two contexts do to never-known facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from mechmask import draw
from mechmask.errors import StudyError
from mechmask.facts.fact_set import FactSet
from mechmask.facts.frames import frame_text, framed
from mechmask.facts.load import as_fact_set
from mechmask.measure.comparable import comparable_facts
from mechmask.measure.renewal import renewal as renewal_of
from mechmask.models.model import Model
from mechmask.read.framed import read_framed, require_frame
from mechmask.study.exports import export_figure, export_table
from mechmask.study.masking import MaskingConfig, contradicted, installed
from mechmask.study.outcome import outcome
from mechmask.study.preparation import require_comparable, require_one_shape, require_roles, require_routes
from mechmask.study.results import StudyResults
from mechmask.study.run import Run
from mechmask.study.states import StudyState, reading_in, readings_of, untouched
from mechmask.study.step import Step

# Each order: the state by where it was contradicted, the context of the contradiction, and the one that is asked.
ORDERS = {"ABA": ("b", "b", "a"), "ABC": ("b", "b", "c"), "AAB": ("a", "a", "b")}


class RenewalConfig(MaskingConfig):
    """Install in one context, contradict in one or another, ask in all.

    Attributes:
        install: how the old values are taught, in the context A; ``None`` (``"none"`` in TOML) for facts that the model
            holds already, which have to be recalled there.
        contradict: how the new values are taught, from what was installed on, in A and in B.
        a: the frame of the context A: a name in ``FRAMES`` (``none`` for the bare prompt), or a text of your own that
            ends in white space.
        b: the frame of B.
        c: the frame of C.
    """

    a: str = "catalogue"
    b: str = "dialogue"
    c: str = "news"

    @property
    def frames(self) -> dict[str, str]:
        """The frame of each context."""
        return {"a": self.a, "b": self.b, "c": self.c}


class RenewalStudy:
    """What the old values regain in another context, in three orders of contexts.

    Args:
        model: the model; it is left as it was.
        facts: contradicted, control and never facts, of the first and the last at least two.
        config: what is done; ``RenewalConfig()`` by default.

    Raises:
        StudyError: if the facts lack a role, the trainings do not continue one another, or two contexts are one.
        FactError: if a context is no frame, or names a subject or value of some fact.
        RouteError: if a value cannot be told from the prompt or from its rival.
        ReadingError: if a frame runs into the prompts as tokens.
        ChangeError: if a training names a block that the model lacks.
    """

    def __init__(self, model: Model, facts: FactSet, config: RenewalConfig | None = None) -> None:
        self.model, self.facts, self.config = model, as_fact_set(facts), config or RenewalConfig()
        c = self.config
        require_roles(self.facts, "Renewal", {"contradicted": 2, "control": 1, "never": 2})
        if len({frame_text(frame) for frame in c.frames.values()}) < len(c.frames):
            raise StudyError(
                f"Two of the contexts are one ({c.frames}), so that nothing changes between them. Name three."
            )
        require_routes(model, self.facts)
        for frame in c.frames.values():
            require_frame(model.tokenizer, self.facts, frame)
        require_one_shape(model, {"install": c.install, "contradict": c.contradict})

    def __repr__(self) -> str:
        return f"RenewalStudy({self.model.name!r}, {self.facts!r})"

    def run(self, directory: str | Path) -> StudyResults:
        """Do what is not done yet in ``directory``; started again after an interruption, it ends with the same bits.

        Args:
            directory: new, or that of such a study of the same model and facts.

        Returns:
            Results that hold ``results/renewal``, along ``order``.

        Raises:
            StudyError: if the directory holds something else, or there is nothing to compare: fewer than two facts were
                known before and corrected.
            ChangeError: if a loss is not a number.
            ReadingError: if a reading disagrees with the model's own output.
        """
        c = self.config
        about = {"protocol": "renewal", "config": c.model_dump(mode="json")}
        with Run(directory, self.model, self.facts, about) as run:
            run.plan(_plan(c))
            in_context = {name: framed(self.facts, frame) for name, frame in c.frames.items()}
            before = installed(run, in_context["a"], c) or untouched(run)
            masked = {
                name: contradicted(run, in_context[name], before, c, f"contradict_in_{name}") for name in ("a", "b")
            }
            asked = {"before/a": before}
            asked |= {f"masked_{name}/{where}": state for name, state in masked.items() for where in _contexts(name)}
            read = _read(run, asked, c)
            for name in masked:
                require_comparable(reading_in(read["before/a"]), reading_in(read[f"masked_{name}/{name}"]))
            _conclude(run, c, read)
        return StudyResults(directory)


def _contexts(name: str) -> list[str]:
    """The contexts in which the state that was contradicted in one is asked."""
    return list(dict.fromkeys(context for state, *contexts in ORDERS.values() if state == name for context in contexts))


def _read(run: Run, asked: Mapping[str, StudyState], c: RenewalConfig) -> dict[str, Step]:
    """Every state in the contexts in which it is asked, named ``state/context``."""
    read: dict[str, Step] = {}
    for context, frame in c.frames.items():
        states = {name: state for name, state in asked.items() if name.endswith(f"/{context}")}
        read |= readings_of(run, states, read_framed, frame=frame, batch_size=c.batch_size)
    return read


def _conclude(run: Run, c: RenewalConfig, read: Mapping[str, Step]) -> None:
    """Result, table and figure, which need no model."""
    options = {"taught_phrasings": c.taught_phrasings, "level": c.level, "contexts": c.frames}

    def of_orders() -> xr.Dataset:
        readings = {name: reading_in(step) for name, step in read.items()}
        parts = [_order(readings, order, c) for order in ORDERS]
        return xr.concat(parts, xr.DataArray(list(ORDERS), dims="order", name="order"), join="outer")

    result = outcome(run, "renewal", read.values(), of_orders, options)
    export_figure(run, "renewal", [result], lambda: draw.renewal(reading_in(result)))
    export_table(run, "renewal", [result], lambda: _overview(reading_in(result)))


def _order(readings: Mapping[str, xr.Dataset], order: str, c: RenewalConfig) -> xr.Dataset:
    """One order of contexts, of the facts that were known and corrected there."""
    state, first, second = ORDERS[order]
    reference, test = readings[f"masked_{state}/{first}"], readings[f"masked_{state}/{second}"]
    facts = comparable_facts(readings["before/a"], reference)
    left_out = facts.fact.values[~facts.compared.values]
    kept = np.flatnonzero(~np.isin(reference.fact.values, left_out))
    found = renewal_of(reference.isel(fact=kept), test.isel(fact=kept), c.taught_phrasings, c.level)
    says_old = test.recalled.sel(route="old", phrasing=0, drop=True).isel(fact=kept)
    n_recalled = int(says_old.sel(fact=found.fact).where(found.role == "contradicted", False).sum())
    return found.assign(n_left_out=len(left_out), n_recalled=n_recalled).drop_vars("role")


def _overview(result: xr.Dataset) -> pd.DataFrame:
    """One row for each order, quantity and way to ask: means and their difference in nats, and counts of facts."""
    names = [f"{name}{end}" for name in ("mean", "never", "difference") for end in ("", "_low", "_high")]
    columns = [*names, "n", "n_never", "n_positive", "positive_low", "positive_high", "n_left_out", "n_recalled"]
    return result[columns].to_dataframe(dim_order=["order", "quantity", "asked"])[columns]


def _plan(c: RenewalConfig) -> dict[str, int | None]:
    """Every step that will be taken, with the most optimizer steps of a training."""
    contradicts = {f"changes/contradict_in_{name}": c.contradict.steps for name in ("a", "b")}
    asked = ["before/a", *(f"masked_{name}/{context}" for name in ("a", "b") for context in _contexts(name))]
    readings = [f"readings/read_framed/{name}" for name in asked]
    install = {"changes/install": c.install.steps} if c.install else {}
    return {**install, **contradicts, **dict.fromkeys([*readings, "results/renewal"])}
