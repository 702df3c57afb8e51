"""``edit`` and ``prepare``: localized edits by name.

A new method is one file in ``methods``, one line in ``METHODS`` and one in ``EditConfig``.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from pydantic import Field

from mechmask.configuration import Configuration
from mechmask.errors import ChangeError, known_names
from mechmask.models.model import Model
from mechmask.models.states import Variant, unchanged
from mechmask.write.editor import Edit, Editor, Facts, warn_of_failures
from mechmask.write.methods.alphaedit import AlphaEdit, AlphaEditConfig
from mechmask.write.methods.emmet import EMMET, EMMETConfig
from mechmask.write.methods.ft import FT, FTConfig
from mechmask.write.methods.ft_l import FTL, FTLConfig
from mechmask.write.methods.ft_prompt_last import FTPromptLast, FTPromptLastConfig
from mechmask.write.methods.malmen import MALMEN, MALMENConfig
from mechmask.write.methods.memit import MEMIT, MEMITConfig
from mechmask.write.methods.r_rome import RROME, RROMEConfig
from mechmask.write.methods.rome import ROME, ROMEConfig
from mechmask.write.presets import preset_of

EditConfig = Annotated[
    FTConfig
    | FTLConfig
    | FTPromptLastConfig
    | ROMEConfig
    | RROMEConfig
    | MEMITConfig
    | EMMETConfig
    | AlphaEditConfig
    | MALMENConfig,
    Field(discriminator="method"),
]


class Method(NamedTuple):
    """An edit method.

    Attributes:
        editor: the class that is at work on a model; it takes a state and a configuration.
        config: the class of its configuration, which has a field ``method``, and ``steps`` where it takes steps.
    """

    editor: type[Editor[Any]]
    config: type[Configuration]


METHODS: dict[str, Method] = {
    "ft": Method(FT, FTConfig),
    "ft_l": Method(FTL, FTLConfig),
    "ft_prompt_last": Method(FTPromptLast, FTPromptLastConfig),
    "rome": Method(ROME, ROMEConfig),
    "r_rome": Method(RROME, RROMEConfig),
    "memit": Method(MEMIT, MEMITConfig),
    "emmet": Method(EMMET, EMMETConfig),
    "alphaedit": Method(AlphaEdit, AlphaEditConfig),
    "malmen": Method(MALMEN, MALMENConfig),
}


def edit(
    model: Model | Variant,
    facts: Facts,
    method: str | None = None,
    config: Any = None,
    *,
    progress: bool = True,
) -> Edit:
    """Write the new value of every fact by a localized edit; the model is left as it was.

    What became of each fact stands in ``change.details["facts"]``, see ``mechmask.write.outcome``; facts on which the
    edit did not take are warned of. For a sequence of edits, ``prepare`` an editor once.

    Args:
        model: the model as it is now, or a state of it, such as ``install.on(model)``: the change goes on that.
        facts: the facts in any form that ``as_fact_set`` takes, edited together; one fact alone for an edit of its own.
        method: ``ft``, ``ft_l``, ``ft_prompt_last``, ``rome``, ``r_rome``, ``memit``, ``emmet``, ``alphaedit`` or
            ``malmen``; by default what ``config`` says, else ``ft_l``.
        config: the method's own configuration; what is published or found for this model by default.
        progress: whether a bar shows how far it is, when it takes more than two seconds.

    Raises:
        ChangeError: if the method is not known, the configuration is another method's, there is no setting for this
            model, or the edit fails.
        FactError: if the facts cannot be used together.
        RouteError: if a value merges with its prompt, cannot be told from another one, or is longer than the model
            reads.
    """
    editor = prepare(model, method, config)
    change = editor.edited(facts, progress=progress)
    warn_of_failures(editor.method, change.details["facts"])
    return change


def prepare(model: Model | Variant, method: str | None = None, config: Any = None) -> Editor[Any]:
    """An edit method made ready for a model: what it reads of the model once, whatever is edited.

    ``editor.edit(facts)`` gives a change and goes on from it: the next edit is made on ``editor.state``, the model with
    all edits so far, and knows what the method remembers of them (AlphaEdit the keys of their facts). What was read
    belongs to the model as it was then: one that has changed by the time of an edit is refused.

    Args:
        model: the model as it is now, or a state of it; it is left as it was.
        method: as in ``edit``.
        config: as in ``edit``.

    Raises:
        ChangeError: if the method is not known, the configuration is another method's, there is no setting for this
            model, there is no such layer, or an adapter on it does more than add to what its weight gives out.

    Examples:
        >>> import mechmask as mm
        >>> model = mm.load_model("smollm2-135m")
        >>> mm.prepare(model, "memit").state is model
        True
    """
    name = method or getattr(config, "method", "ft_l")
    known = _method(name)
    if config is not None and not isinstance(config, known.config):
        raise ChangeError(f"{name} takes a {known.config.__name__}, not a {type(config).__name__}.")
    return known.editor(model, config if config is not None else preset_for(unchanged(model), name))


def preset_for(model: Model, method: str = "ft_l") -> Any:
    """The configuration that is published or was found for a model's family and size.

    Args:
        model: the model.
        method: the name of an edit method.

    Raises:
        ChangeError: if the method is not known, or there is no setting for this model.
    """
    return _method(method).config.model_validate(preset_of(method, model).config)


def layers_of(config: Any) -> tuple[int, ...]:
    """The blocks that an editor writes into.

    Args:
        config: a configuration of any method.
    """
    return (config.layer,) if hasattr(config, "layer") else tuple(config.layers)


def _method(name: str) -> Method:
    if name not in METHODS:
        raise ChangeError(f"There is no edit method {name!r}. {known_names(name, METHODS)}")
    return METHODS[name]
