"""How facts are asked: as plain prompts, in the tokenizer's chat template, or both ways side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast, get_args

import xarray as xr
import xxhash

from mechmask.facts.fact_set import FactSet
from mechmask.models.model import Model
from mechmask.read.scoring.contests import Facts, facts_of
from mechmask.read.scoring.labels import require_choice

Template = Literal["plain", "chat", "both"]
_ONE_WAY = ("plain", "chat")


def as_asked(facts: Facts, template: str | None) -> FactSet:
    """The facts as a reading asks them.

    Args:
        facts: facts in any form that ``as_fact_set`` takes.
        template: ``plain``, ``chat``, or ``None``: each as it says itself.

    Raises:
        FactError: listing every problem of the facts.
        ReadingError: if there is no fact, or the template is not known.
    """
    checked = facts_of(facts)
    if template is None:
        return checked
    require_choice("template", template, get_args(Template))
    return checked.in_chat() if template == "chat" else checked.as_plain()


def asking(model: Model, facts: FactSet) -> dict[str, str]:
    """Which chat template a reading's conversations stand in, as a digest; nothing where all are plain prompts.

    Args:
        model: whose tokenizer has the template.
        facts: the facts as they are asked.
    """
    if not any(fact.messages for fact in facts):
        return {}
    return {"chat_template": xxhash.xxh3_128_hexdigest(str(model.tokenizer.chat_template).encode())}


def in_both(read: Callable[..., xr.Dataset]) -> xr.Dataset:
    """A reading of plain prompts and of prompts in the chat template, along a new dimension ``template``.

    Args:
        read: makes a reading by its keyword ``template``.
    """
    readings = [read(template=template) for template in _ONE_WAY]
    longest = max(reading.sizes.get("value_token", 0) for reading in readings)
    widened = [
        reading.pad(value_token=(0, longest - reading.sizes["value_token"]), constant_values=-1)
        if "value_token" in reading.dims
        else reading
        for reading in readings
    ]
    axis = xr.DataArray(list(_ONE_WAY), dims="template", name="template")
    error = max(reading.attrs["check_error_nats"] for reading in readings)
    both = cast("xr.Dataset", xr.concat(widened, axis, combine_attrs="drop_conflicts"))
    return both.assign_attrs(template="both", check_error_nats=error)
