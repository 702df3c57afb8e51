"""Planning a study of twins: how many facts, twins, replicates, phrasings and distractors a wanted precision needs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from mechmask.errors import ReadingError
from mechmask.measure.power import Decided, fact_power, group_power
from mechmask.measure.twin_design import Expected, TwinDesign

MOST = 10_000  # of anything that is looked at: nobody runs more
GROUP_POWER, FACT_POWER = 0.95, 0.80  # what the rightly judged groups and single facts are to be, whole or gone
_LEAST = {"facts": 2, "twins": 2, "replicates": 1, "phrasings": 1, "distractors": 1}
_ENDS = (1.0, 0.0)


def facts_needed(
    share: float, power: float = 0.95, design: TwinDesign | None = None, expected: Expected | None = None
) -> int | None:
    """How many facts a group needs so that it is judged rightly with a probability.

    Args:
        share: of every fact's trace before that is left.
        power: the probability.
        design: of the study, but for the number of its facts.
        expected: of its readings.

    Returns:
        The count; ``None`` where 10,000 facts are not enough, as for a share that lies on the margin.

    Raises:
        ReadingError: if the share is not a finite number, or the power not between 0 and 1.
    """
    design, expected = design or TwinDesign(), expected or Expected()
    return _fewest(lambda n: group_power(share, design.model_copy(update={"facts": n}), expected).right, power, 2)


def replicates_needed(
    share: float, power: float = 0.80, design: TwinDesign | None = None, expected: Expected | None = None
) -> int | None:
    """How many replicates of the twins single facts need so that this share of them is judged rightly.

    Args:
        share: of every fact's trace before that is left.
        power: the share of facts.
        design: of the study, but for the number of its replicates.
        expected: of its readings.

    Returns:
        The count; ``None`` where 10,000 replicates are not enough, as where too many facts have hardly a trace.

    Raises:
        ReadingError: if the share is not a finite number, or the power not between 0 and 1.
    """
    design, expected = design or TwinDesign(), expected or Expected()
    return _fewest(lambda n: fact_power(share, design.model_copy(update={"replicates": n}), expected).right, power, 1)


def counts_needed(design: TwinDesign | None = None, expected: Expected | None = None) -> pd.DataFrame:
    """How many of each a study needs, all others as they are, to judge rightly what is whole and what is gone.

    Args:
        design: of the study.
        expected: of its readings.

    Returns:
        A row for each of ``facts``, ``twins``, ``replicates``, ``phrasings`` and ``distractors``: ``planned``, and how
        many it takes for 95% of groups (``for_groups``) and for 80% of single facts (``for_facts``). NaN where 10,000
        are not enough, or as many twins as there are facts: no number of phrasings averages out what training histories
        differ by.

    Examples:
        >>> counts_needed().loc["facts"].to_dict()
        {'planned': 12.0, 'for_groups': 18.0, 'for_facts': nan}
    """
    design, expected = design or TwinDesign(), expected or Expected()

    def needed(field: str, power_of: Callable[..., Decided], power: float) -> int | None:
        def both_right(n: int) -> float:
            return min(power_of(share, design.model_copy(update={field: n}), expected).right for share in _ENDS)

        most = design.facts if field == "twins" else MOST  # each is taught a share of its own
        return _fewest(both_right, power, _LEAST[field], most)

    rows = {
        field: {
            "planned": getattr(design, field),
            "for_groups": needed(field, group_power, GROUP_POWER),
            "for_facts": needed(field, fact_power, FACT_POWER),
        }
        for field in _LEAST
    }
    return pd.DataFrame.from_dict(rows, orient="index").astype(float).rename_axis("count")


def power_table(
    grid: Mapping[str, Sequence[Any]] | None = None,
    expected: Expected | None = None,
    *,
    shares: Sequence[float] = (1.0, 0.0),
) -> pd.DataFrame:
    """What is decided by each of many designs, a row for each and for each share that may be left.

    Args:
        grid: values of fields of ``TwinDesign``, such as ``{"facts": (6, 12, 24), "twins": (2, 3)}``; every combination
            is a design.
        expected: of the readings.
        shares: of the trace before that may be left.

    Returns:
        The columns of the grid; ``share`` left; ``error_nats``, of one trace; ``freedom`` of the noise; the shares of
        facts and of groups that are decided each way, ``fact_masked`` to ``group_wrong``; ``facts_needed`` for a group
        that is judged rightly with 95%, and ``replicates_needed`` for 80% of single facts (NaN where 10,000 are not
        enough).

    Raises:
        ReadingError: if a field or a value is not one that a design can have, or a share not a finite number.

    Examples:
        >>> table = power_table({"facts": (6, 24)}, shares=(0.0,))
        >>> table[["facts", "group_erased"]].round(2).to_dict("list")
        {'facts': [6, 24], 'group_erased': [0.31, 0.99]}
    """
    grid, expected = dict(grid or {}), expected or Expected()
    designs = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    rows = [{**fields, **_row(share, TwinDesign(**fields), expected)} for fields in designs for share in shares]
    return pd.DataFrame(rows).astype({"facts_needed": float, "replicates_needed": float})


def _row(share: float, design: TwinDesign, expected: Expected) -> dict[str, Any]:
    row: dict[str, Any] = {"share": share, "error_nats": expected.error(design), "freedom": design.freedom}
    for unit, of in (("fact", fact_power), ("group", group_power)):
        row |= {f"{unit}_{verdict}": found for verdict, found in of(share, design, expected)._asdict().items()}
    return row | {
        "facts_needed": facts_needed(share, 0.95, design, expected),
        "replicates_needed": replicates_needed(share, 0.80, design, expected),
    }


def power_conclusion(design: TwinDesign | None = None, expected: Expected | None = None) -> str:
    """In words: what a design decides where nothing is lost and where all is, and what would decide enough.

    Args:
        design: of the study.
        expected: of its readings.
    """
    design, expected = design or TwinDesign(), expected or Expected()
    facts, groups = ([of(share, design, expected).right for share in _ENDS] for of in (fact_power, group_power))
    replicates = _largest([replicates_needed(share, FACT_POWER, design, expected) for share in _ENDS])
    n_facts = _largest([facts_needed(share, GROUP_POWER, design, expected) for share in _ENDS])
    unknown = "" if design.freedom else ", as the noise is not known without never facts, a third twin or a replicate"
    return (
        f"With {_count(design.facts, 'fact')} in {design.twins} twins and {_count(design.replicates, 'replicate')}, a "
        f"fact that is whole is called masked in {facts[0]:.0%} and one that is gone erased in {facts[1]:.0%} of cases"
        f"{unknown}, the group in {groups[0]:.0%} and {groups[1]:.0%}; to decide both in 80% of facts it takes "
        f"{_count(replicates, 'replicate')}, to decide both in 95% of groups {_count(n_facts, 'fact')}."
    )


def _count(n: int | None, noun: str) -> str:
    return f"more than {MOST} {noun}s" if n is None else f"{n} {noun}{'s' * (n != 1)}"


def _largest(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return max(known) if len(known) == len(counts) else None


def _fewest(power_of: Callable[[int], float], power: float, least: int, most: int = MOST) -> int | None:
    """The smallest number from ``least`` on to ``most`` with so much power, which grows with it."""
    if not 0 < power < 1:
        raise ReadingError(f"A power of {power:g} is never reached or always. Give one between 0 and 1, such as 0.8.")
    low, high = least - 1, least
    while power_of(high) < power:
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= power else (middle, high)
    return high
