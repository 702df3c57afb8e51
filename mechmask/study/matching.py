"""A fact changed until new leads old by so much: where ways of changing are compared (DESIGN, matched success).

A way is taken as far as it first brings a fact to the margin, a training by its checkpoints, an edit by its steps. What
the last step overshot is then taken back on the straight line in weights to where the fact started, so that every way
stands at the same margin, whatever its steps are like. The other end of every way, all of its steps, is kept beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from scipy.optimize import brentq

from mechmask.facts.fact import Example
from mechmask.facts.fact_set import FactSet
from mechmask.models.model import Model
from mechmask.models.states import Variant, active, unchanged
from mechmask.progress import progress_bar
from mechmask.read.scoring.contests import facts_of
from mechmask.write.change import Change
from mechmask.write.edit import edit
from mechmask.write.finetune import FinetuneConfig, Finetuning
from mechmask.write.interpolate import interpolated, scales
from mechmask.write.outcome import outcomes

TOLERANCE_NATS = 0.05  # by which a matched margin may miss: a hundredth of what separates the paper's two regimes

Status = Literal["reached", "not_reached", "led_before"]


@dataclass(frozen=True, eq=False)
class Matched:
    """How far a way went on one fact.

    Attributes:
        status: ``reached``; ``not_reached`` by all its steps; ``led_before``, where new led by as much at the start.
        driven_on: the change that all steps make.
        margin_driven_on: of new over old under it, in nats.
        change: the change at which new leads by the margin; ``None`` where it was not reached.
        margin: under it, in nats; NaN where there is none. It is above the margin asked for where the change cannot
            be scaled (a DoRA).
        step: optimizer steps after which the margin was first reached; -1 where it was not.
        scale: how much of the change of that step is left.
    """

    status: Status
    driven_on: Change
    margin_driven_on: float
    change: Change | None = None
    margin: float = float("nan")
    step: int = -1
    scale: float = float("nan")

    @property
    def numbers(self) -> dict[str, Any]:
        """All but the changes, as JSON values."""
        known = {"status": self.status, "margin_driven_on": self.margin_driven_on, "step": self.step}
        return known if self.change is None else {**known, "margin": self.margin, "scale": self.scale}


def trained_to_margin(
    state: Model | Variant,
    facts: FactSet,
    examples: Sequence[Example],
    config: FinetuneConfig,
    *,
    margin: float,
    every: int = 1,
) -> dict[str, Matched]:
    """Fine-tune to the last step, and find where each fact was first brought to the margin.

    Args:
        state: what is trained, a model or a state with changes of weights on; it is left as it was.
        facts: the facts that are watched.
        examples: what is taught.
        config: how.
        margin: by which new has to lead old on the prompt, in nats.
        every: optimizer steps between two looks at the margins.

    Returns:
        By the id of the fact.

    Raises:
        ChangeError: if a loss is not a number, or nothing changes.
    """
    before = now = margins_of(state, facts)
    first: dict[str, tuple[int, Change, float]] = {}
    with Finetuning(state, examples, config) as tuning, progress_bar(config.method, config.steps) as bar:
        for number in [*range(every, config.steps, every), config.steps]:
            tuning.advance(number - tuning.step, lambda loss: bar(f"loss {loss:.3f}"))
            now = margins_of(unchanged(state), facts)
            won = [fact for fact in now if fact not in first and before[fact] < margin <= now[fact]]
            if won:
                change = tuning.change()
                first |= {fact: (number, change, now[fact]) for fact in won}
        last = tuning.change()
    return {
        fact.id: _matched(state, fact.id, facts, margin, before[fact.id], first.get(fact.id), (last, now[fact.id]))
        for fact in facts
    }


def edited_to_margin(state: Model | Variant, facts: FactSet, config: Any, *, margin: float) -> dict[str, Matched]:
    """Edit each fact alone with all steps, and find the fewest with which it is brought to the margin.

    Args:
        state: what is edited, a model or a state; it is left as it was.
        facts: the facts, each by itself.
        config: of the editor, see ``EditConfig``; where it has no ``steps``, the whole edit is scaled back.
        margin: by which new has to lead old on the prompt, in nats.

    Returns:
        By the id of the fact. The fewest steps are found by bisection: one step less is below the margin.

    Raises:
        ChangeError: if the edit fails.
    """
    found = {}
    for fact in facts:
        one = facts.select([fact.id])
        before, last = margins_of(state, one)[fact.id], _edited(state, one, config)
        first = _fewest_steps(state, one, config, margin, last) if before < margin <= last[1] else None
        found[fact.id] = _matched(state, fact.id, one, margin, before, first, last)
    return found


def margins_of(state: Model | Variant, facts: FactSet) -> dict[str, float]:
    """Margin of new over old on the prompt of every fact, in nats, by its id."""
    with active(state) as now:
        return {record["id"]: record["margin"] for record in outcomes(now, facts_of(facts, distractors=False))}


def _edited(state: Model | Variant, fact: FactSet, config: Any) -> tuple[Change, float]:
    """The edit and the margin under it."""
    with warnings.catch_warnings():  # that an edit did not take is what is measured here
        warnings.simplefilter("ignore", UserWarning)
        change = edit(state, fact, config=config, progress=False)
    return change, margins_of(change.on(state), fact)[fact[0].id]


def _fewest_steps(
    state: Model | Variant, fact: FactSet, config: Any, margin: float, last: tuple[Change, float]
) -> tuple[int, Change, float]:
    """Steps, edit and margin where one step less is below the margin."""
    below, above = 0, int(getattr(config, "steps", 1))
    while above - below > 1:
        middle = (below + above) // 2
        tried = _edited(state, fact, config.model_copy(update={"steps": middle}))
        if tried[1] >= margin:
            above, last = middle, tried
        else:
            below = middle
    return above, *last


def _matched(
    state: Model | Variant,
    fact: str,
    facts: FactSet,
    margin: float,
    before: float,
    first: tuple[int, Change, float] | None,
    last: tuple[Change, float],
) -> Matched:
    if first is None:
        return Matched("led_before" if before >= margin else "not_reached", *last)
    step, change, reached = first
    if not scales(change) or reached - margin <= TOLERANCE_NATS:
        return Matched("reached", *last, change, reached, step, 1.0)
    one = facts.select([fact])
    scale = _scale_at(state, one, change, margin, (before, reached))
    part = interpolated(state, None, change, scale)
    return Matched("reached", *last, part, margins_of(part.on(state), one)[fact], step, scale)


def _scale_at(state: Model | Variant, fact: FactSet, change: Change, margin: float, ends: tuple[float, float]) -> float:
    """Where on the line from the start (0) to a change (1), at which the margin is ``ends``, it is met."""

    def beyond(scale: float) -> float:
        if scale in (0.0, 1.0):
            return ends[int(scale)] - margin
        missed = margins_of(interpolated(state, None, change, scale).on(state), fact)[fact[0].id] - margin
        return 0.0 if abs(missed) <= TOLERANCE_NATS else missed

    return float(cast("float", brentq(beyond, 0.0, 1.0, xtol=1e-4)))
