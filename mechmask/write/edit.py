"""``edit``: a localized edit by name. A new method is one file, one line in ``METHODS`` and one in ``EditConfig``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias

from pydantic import BaseModel, Field

from mechmask.errors import ChangeError, known_names
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.models.model import Model
from mechmask.models.states import Variant, active
from mechmask.progress import Tick, progress_bar
from mechmask.write.change import Change
from mechmask.write.methods.ft import FTConfig, ft
from mechmask.write.methods.ft_l import FTLConfig, ft_l
from mechmask.write.outcome import outcomes
from mechmask.write.presets import preset_of

if TYPE_CHECKING:
    import pandas as pd

Facts: TypeAlias = "FactSet | Sequence[Fact | Mapping[str, Any]] | pd.DataFrame | str | Path"
EditConfig = Annotated[FTConfig | FTLConfig, Field(discriminator="method")]


class Method(NamedTuple):
    """An edit method.

    Attributes:
        make: makes the change from a model, facts and a configuration; the last argument is called after every step.
        config: the class of its configuration, which has a field ``method``, and ``steps`` where it takes steps.
    """

    make: Callable[[Model, Sequence[Fact], Any, Tick | None], Change]
    config: type[BaseModel]


METHODS: dict[str, Method] = {"ft": Method(ft, FTConfig), "ft_l": Method(ft_l, FTLConfig)}


def edit(
    model: Model | Variant,
    facts: Facts,
    method: str | None = None,
    config: FTConfig | FTLConfig | None = None,
    *,
    progress: bool = True,
) -> Change:
    """Write the new value of every fact by a localized edit; the model is left as it was.

    What became of each fact stands in ``change.details["facts"]``, see ``mechmask.write.outcome``; facts on which the
    edit did not take are warned of.

    Args:
        model: the model as it is now, or a state of it, such as ``install.on(model)``: the change goes on that.
        facts: the facts in any form that ``as_fact_set`` takes, edited together; one fact alone for an edit of its own.
        method: ``ft_l`` or ``ft``; by default what ``config`` says, else ``ft_l``.
        config: the method's own configuration; what is published or found for this model by default.
        progress: whether a bar shows how far it is, when it takes more than two seconds.

    Raises:
        ChangeError: if the method is not known, the configuration is another method's, there is no setting for this
            model, or the edit fails.
        FactError: if the facts cannot be used together.
        RouteError: if a value merges with its prompt.
    """
    name = method or (config.method if config is not None else "ft_l")
    wanted = _method(name).config
    if config is not None and not isinstance(config, wanted):
        raise ChangeError(f"{name} takes a {wanted.__name__}, not a {type(config).__name__}.")
    chosen = as_fact_set(facts)
    with active(model) as whole:
        settings = config if config is not None else preset_for(whole, name)
        with progress_bar(name, getattr(settings, "steps", len(chosen)), shown=progress) as tick:
            change = METHODS[name].make(whole, tuple(chosen), settings, tick)
        with change.applied(whole) as changed:
            change.details["facts"] = outcomes(changed, chosen)
    _warn_of_failures(name, change.details["facts"])
    return change


def preset_for(model: Model, method: str = "ft_l") -> Any:
    """The configuration that is published or was found for a model's family and size.

    Raises:
        ChangeError: if the method is not known, or there is no setting for this model.
    """
    return _method(method).config.model_validate(preset_of(method, model).config)


def _method(name: str) -> Method:
    if name not in METHODS:
        raise ChangeError(f"There is no edit method {name!r}. {known_names(name, METHODS)}")
    return METHODS[name]


def _warn_of_failures(method: str, facts: Sequence[dict[str, Any]]) -> None:
    failed = [repr(fact["id"]) for fact in facts if not fact["took"]]
    if failed:
        shown = ", ".join(failed[:5]) + (f" and {len(failed) - 5} more" if len(failed) > 5 else "")
        warnings.warn(
            f"The {method} edit did not take on {len(failed)} of {len(facts)} facts ({shown}): the new value does not "
            "lead, so whether the old one is masked cannot be judged there. Give the edit more steps or a wider clamp.",
            stacklevel=3,
        )
