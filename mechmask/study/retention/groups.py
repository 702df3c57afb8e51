"""``retention_groups``: facts to edit beside facts to leave alone, alike before the edit and with nothing in common.

Wen and Zhang (2025, appendix B) keep the facts whose true value leads every other token by 0.1 and draw 50 to edit and
100 intrinsic ones without a shared subject, relation or object. Their groups turned out alike in how surely they were
known; here they are matched on it, since what is known better may last longer, edited or not.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import numpy as np
import xarray as xr

from mechmask.errors import StudyError
from mechmask.facts.fact import Fact, Role
from mechmask.facts.fact_set import FactSet
from mechmask.facts.roles import assign_roles
from mechmask.models.model import Model
from mechmask.models.states import Variant, active
from mechmask.read.retention import read_retention, with_values_apart
from mechmask.read.scoring.contests import Facts, facts_of

MIN_LEAD = 0.1


def retention_groups(
    model: Model | Variant,
    facts: Facts,
    *,
    n_edited: int = 50,
    n_intrinsic: int = 100,
    n_never: int = 0,
    min_lead: float = MIN_LEAD,
    seed: int = 0,
    batch_size: int = 64,
) -> FactSet:
    """Draw facts to edit, and intrinsic ones that match them.

    Relations are dealt to the groups at random, in proportion to their sizes; each edited fact takes its share of the
    intrinsic ones nearest to it in the probability of the true value.

    Args:
        model: that is to be edited.
        facts: facts in any form that a reading takes, whatever their role; ``old`` is the true value. Those whose
            values the first token cannot tell apart are left out.
        n_edited: facts of role ``contradicted``.
        n_intrinsic: facts of role ``control``.
        n_never: facts about pseudo-subjects in the edited facts' prompts.
        min_lead: by how much the probability of the true value has to exceed that of any other token.
        seed: the same seed gives the same draw.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        The facts in the order contradicted, control, never. No edited fact shares subject, relation, old or new value
        with an intrinsic one; a fact without a relation is one of its own.

    Raises:
        FactError: listing every problem of the facts in one message.
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ReadingError: if the values of no fact can be told apart by the first token.
        StudyError: if a count is not positive, or there are not enough such facts, saying how many there are.
    """
    if n_edited < 1 or n_intrinsic < 1:
        raise StudyError(f"{n_edited} edited and {n_intrinsic} intrinsic facts make no groups. Give at least one each.")
    with active(model) as now:
        pool = with_values_apart(now, facts_of(facts))
        surely = read_retention(now, pool, batch_size=batch_size).sel(route="old")
    known = [fact for fact, lead in zip(pool, surely.lead.values, strict=True) if lead >= min_lead]
    probability = dict(zip(pool.ids, surely.probability.values.tolist(), strict=True))
    rng = random.Random(seed)
    first, second = _dealt(known, n_edited, n_intrinsic, rng)
    edited = rng.sample(first, min(n_edited, len(first)))
    free = _apart(second, edited)
    intrinsic = _nearest(edited, free, n_intrinsic, probability)
    if len(edited) < n_edited or len(intrinsic) < n_intrinsic:
        raise StudyError(
            f"Of {len(pool)} facts the model holds {len(known)} by a lead of {min_lead:g}, which give {len(first)} to "
            f"edit and {len(free)} with nothing in common with those drawn; {n_edited} and {n_intrinsic} are asked "
            "for. Give more facts, ask for fewer, or lower min_lead."
        )
    named = [*_in_role(edited, "contradicted"), *_in_role(intrinsic, "control")]
    if not n_never:
        return FactSet(named)
    beside = assign_roles(FactSet(edited), n_contradicted=n_edited, n_control=0, n_never=n_never, seed=seed)
    return FactSet([*named, *beside.never])


def balance(groups: FactSet, reading: xr.Dataset) -> dict[str, float]:
    """How alike the groups were before the edit.

    Args:
        groups: what ``retention_groups`` drew.
        reading: ``read_retention`` of them before the edit, ``probability[fact, route]``.

    Returns:
        ``edited`` and ``intrinsic``, the mean probability of the true value, and ``difference``, that of the means by
        the standard deviation of a fact (pooled over both groups), NaN with fewer than two facts in each.
    """
    old = reading.probability.sel(route="old")
    edited, intrinsic = (old.sel(fact=list(groups.in_role(role).ids)).values for role in ("contradicted", "control"))
    spread = (
        np.sqrt((edited.var(ddof=1) + intrinsic.var(ddof=1)) / 2) if min(len(edited), len(intrinsic)) > 1 else np.nan
    )
    means = float(edited.mean()), float(intrinsic.mean())
    return {"edited": means[0], "intrinsic": means[1], "difference": (means[0] - means[1]) / float(spread)}


def _dealt(facts: Sequence[Fact], n_first: int, n_second: int, rng: random.Random) -> tuple[list[Fact], list[Fact]]:
    """The facts in two parts that share no relation, each as long as its count asks for where that can be."""
    by_relation: dict[str, list[Fact]] = {}
    for fact in sorted(facts, key=lambda fact: fact.id):
        by_relation.setdefault(fact.relation or f"\0{fact.id}", []).append(fact)
    relations = list(by_relation.values())
    rng.shuffle(relations)
    parts: tuple[list[Fact], list[Fact]] = ([], [])
    for relation in sorted(relations, key=len, reverse=True):  # the large first, while either part can still take one
        shares = len(parts[0]) / n_first, len(parts[1]) / n_second
        parts[0 if shares[0] <= shares[1] else 1].extend(relation)
    return parts


def _apart(facts: Iterable[Fact], others: Sequence[Fact]) -> list[Fact]:
    """The facts that have neither subject nor value in common with any of the others."""
    subjects = {fact.subject.casefold() for fact in others}
    values = {value for fact in others for value in _values(fact)}
    return [fact for fact in facts if fact.subject.casefold() not in subjects and not values & _values(fact)]


def _values(fact: Fact) -> set[str]:
    return {value.casefold() for value in (fact.old, fact.new, *fact.old_aliases, *fact.new_aliases)}


def _nearest(edited: Sequence[Fact], free: Sequence[Fact], n: int, probability: dict[str, float]) -> list[Fact]:
    """As many of the free facts as are wanted, each the nearest to one of the edited, in turn."""
    left, chosen = list(free), []
    while left and edited and len(chosen) < n:
        wanted = probability[edited[len(chosen) % len(edited)].id]
        best = min(left, key=lambda fact: abs(probability[fact.id] - wanted))
        left.remove(best)
        chosen.append(best)
    return chosen


def _in_role(facts: Iterable[Fact], role: Role) -> list[Fact]:
    return [fact.model_copy(update={"role": role}) for fact in facts]
