"""One reading over the prompt, or over the prompt and its paraphrases along a dimension ``phrasing``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import xarray as xr

from mechmask.errors import ReadingError
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.models.model import Model
from mechmask.models.routes import Contest, encode_contests


def over_phrasings(
    model: Model,
    facts: FactSet | Sequence[Fact],
    phrasings: str,
    read: Callable[[list[Fact], list[Contest | None]], xr.Dataset],
) -> xr.Dataset:
    """``read`` applied once to the contests of the prompt, or to those of every phrasing.

    Args:
        model: whose tokenizer makes the contests.
        facts: the facts.
        phrasings: ``prompt`` or ``all``.
        read: takes contests and the fact of each, ``None`` where that fact has no such phrasing, and answers along
            ``fact``.

    Raises:
        ReadingError: if ``phrasings`` is not known or there is no fact.
    """
    if phrasings not in ("prompt", "all"):
        raise ReadingError(f"phrasings={phrasings!r} is not known. Give 'prompt' or 'all'.")
    if not len(facts):
        raise ReadingError("There is no fact to read. Give at least one.")
    if phrasings == "prompt":
        return read(list(facts), encode_contests(model.tokenizer, facts))
    numbers = range(max(len(fact.phrasings) for fact in facts))
    contests = [contest for number in numbers for contest in encode_contests(model.tokenizer, facts, number)]
    reading = read(list(facts) * len(numbers), contests)
    n = len(facts)
    joined = xr.concat(
        [reading.isel(fact=slice(number * n, (number + 1) * n)) for number in numbers],
        xr.DataArray(list(numbers), dims="phrasing", name="phrasing"),
        combine_attrs="override",
    )
    leading = [dim for dim in ("fact", "phrasing", "route", "layer") if dim in joined.dims]
    return joined.transpose(*leading, ...)
