"""The facts of a study as its page lists them: text, role, and what became of each, in words with its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from mechmask.draw.page.content import FactList, FactRow, Outcome, Section
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.measure.names import state_name
from mechmask.measure.verdict import describe

_MOST_PLACES = 12  # numbers of one fact in one result: beyond, they are figures, not a list

NUMBERS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "results/reactance": (("prior", "nats before"), ("margin", "nats of margin after")),
    "results/recall": (("steps", "steps to recall"),),
    "results/one_step": (("index", "nats of index"), ("recovery", "nats back after one step")),
    "results/renewal": (("regained", "nats regained"),),
    "results/matched": (("margin", "nats of margin where matched"),),
}
"""By result, the numbers of single facts that a page lists, with their units."""


def fact_section(
    facts: FactSet, outcomes: Mapping[str, Sequence[Outcome]], names: Mapping[str, str] | None = None
) -> Section:
    """The facts to browse.

    Args:
        facts: all of them.
        outcomes: what became of each, by its label.
        names: what a fact is called on the page, by its label; by default its label.
    """
    rows = [_row(fact, outcomes.get(fact.id, ()), (names or {}).get(fact.id, fact.id)) for fact in facts]
    return list_section(rows)


def list_section(rows: Sequence[FactRow]) -> Section:
    """Rows to browse.

    Args:
        rows: of one or several studies.
    """
    counts = {role: sum(row.role == role for row in rows) for role in ("contradicted", "control", "never")}
    counted = ", ".join(f"{n} {role}" for role, n in counts.items() if n)
    said = (
        f"All {len(rows)} facts ({counted}) with their prompts and values, and of each what was found, with its "
        "interval "
        "where it has one."
    )
    return Section("The facts", [FactList(said, rows)])


def outcomes_of(erase: xr.Dataset) -> dict[str, list[Outcome]]:
    """Verdict and numbers of every fact under every change.

    Args:
        erase: what ``erase_index`` returned, or a study's ``results/erase``.
    """
    states = erase.state.values.tolist() if "state" in erase.dims else [None]
    found: dict[str, list[Outcome]] = {}
    for state in states:
        one = erase if state is None else erase.sel(state=state)
        for i, fact in enumerate(one.fact.values.tolist()):
            found.setdefault(str(fact), []).append(
                _outcome("" if state is None else state_name(state), one.isel(fact=i))
            )
    return found


def numbers_of(name: str, result: xr.Dataset) -> dict[str, list[Outcome]]:
    """The numbers of single facts in a result without verdicts.

    Args:
        name: of the result.
        result: with variables along ``fact`` and other dimensions.
    """
    found: dict[str, list[Outcome]] = {}
    for variable, unit in NUMBERS.get(name, ()):
        values = result[variable]
        rows = values.transpose("fact", ...).values.reshape(values.sizes["fact"], -1)
        places = _places(values)
        for fact, row in zip(values.fact.values.tolist(), rows, strict=True):
            shown = [(p, v) for p, v in zip(places, row.astype(float), strict=True) if not np.isnan(v)][:_MOST_PLACES]
            found.setdefault(str(fact), []).extend(Outcome(place, "", f"{value:.2f} {unit}") for place, value in shown)
    return found


def _places(values: xr.DataArray) -> list[str]:
    """What each number of a fact is of: the labels of the other dimensions."""
    others = [str(dim) for dim in values.dims if dim != "fact"]
    labels = [""]
    for dim in others:
        labels = [
            ", ".join(filter(None, [label, str(one).replace("_", " ")]))
            for label in labels
            for one in values[dim].values.tolist()
        ]
    return labels


def _row(fact: Fact, outcomes: Sequence[Outcome], name: str) -> FactRow:
    return FactRow(name, fact.role, fact.prompt, fact.old, fact.new, tuple(outcomes))


def _outcome(where: str, one: xr.Dataset) -> Outcome:
    """One fact under one change: the reason where it is undecided, then the numbers."""
    verdict, reason = str(one.verdict.item()), str(one.reason.item())
    why = [describe(reason)] if verdict == "undecided" else []
    numbers = [_number(one, "normalised", "EI*", ""), _number(one, "index", "index", " nats")]
    numbers.append(_number(one, "trace_after", "trace", " nats", f" of {_plain(one, 'trace_before')}"))
    if "commit_layer" in one and math.isfinite(float(one.commit_layer)):
        numbers.append(f"commit layer {float(one.commit_layer):g}")
    return Outcome(where, verdict, "; ".join(filter(None, [*why, *numbers])))


def _number(one: xr.Dataset, name: str, called: str, unit: str, of: str = "") -> str:
    if name not in one or math.isnan(float(one[name])):
        return ""
    low, high = (float(one[f"{name}_{end}"]) for end in ("low", "high"))
    ends = f" [{low:.2f}, {high:.2f}]" if math.isfinite(low + high) else ""
    return f"{called} {_plain(one, name)}{of}{unit}{ends}"


def _plain(one: xr.Dataset, name: str) -> str:
    return f"{float(one[name]):.2f}" if name in one else "?"
