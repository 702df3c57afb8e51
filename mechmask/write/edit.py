"""``edit``: a localized edit by name. A new method is one file and one line in ``METHODS``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from mechmask.errors import ChangeError
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.models.model import Model
from mechmask.write.change import Change
from mechmask.write.methods.ft_l import FTLConfig, ft_l


class Method(NamedTuple):
    """An edit method: what makes the change, and the class of its configuration."""

    make: Callable[[Model, Sequence[Fact], Any], Change]
    config: type[BaseModel]


METHODS: dict[str, Method] = {"ft_l": Method(ft_l, FTLConfig)}


def edit(
    model: Model, facts: FactSet | Sequence[Fact], method: str = "ft_l", config: BaseModel | None = None
) -> Change:
    """Write the new value of every fact by a localized edit; the model is left as it was.

    Args:
        model: the model, as it is now: an applied change counts.
        facts: the facts, edited together; one fact alone for an edit of its own.
        method: ``ft_l``.
        config: the method's own configuration; what is published or found for this model by default.

    Raises:
        ChangeError: if the method is not known, the configuration is another method's, or the edit fails.
    """
    if method not in METHODS:
        raise ChangeError(f"There is no edit method {method!r}. There are {', '.join(METHODS)}.")
    wanted = METHODS[method].config
    if config is not None and not isinstance(config, wanted):
        raise ChangeError(f"{method} takes a {wanted.__name__}, not a {type(config).__name__}.")
    return METHODS[method].make(model, tuple(facts), config)
