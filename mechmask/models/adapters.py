"""PEFT adapters on a module: which layers they wrap, which of them are on, and switching them off for a while.

Two kinds of wrapper: a tuner's layer (``BaseTunerLayer``), which adds something to a linear map, and
``modules_to_save``, which puts a trained copy in a module's place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn

from mechmask.errors import ModelError
from mechmask.interrupts import atomic_context

_UNDER = ("base_layer", "original_module")  # what peft calls the module that it wraps

Wrapper = BaseTunerLayer | AuxiliaryTrainingWrapper


def adapted_layers(module: nn.Module) -> list[BaseTunerLayer]:
    """The layers that a PEFT adapter wraps."""
    return [child for child in module.modules() if isinstance(child, BaseTunerLayer)]


def is_merged(module: nn.Module) -> bool:
    """Whether an adapter is merged into the weights under it."""
    return any(wrapper.merged_adapters for _, wrapper in _wrappers(module))


@dataclass(frozen=True)
class AdapterState:
    """What the adapters of a module do to its output.

    Attributes:
        lines: a line for each wrapped layer on which an adapter is on: names, order, scale, merged or not.
        silent: paths below which nothing takes part in the computation.
        merged: the first layer with a merged adapter, empty where there is none.
        every: paths of all that adapters brought, on or off.
        scaffold: paths of wrappers and of the containers in them, which compute nothing by themselves.
    """

    lines: tuple[str, ...]
    silent: frozenset[str]
    merged: str
    every: frozenset[str]
    scaffold: frozenset[str]

    def is_silent(self, name: str) -> bool:
        """Whether a tensor or a module of this name takes no part in what is computed."""
        parts = name.split(".")
        return any(".".join(parts[:n]) in self.silent for n in range(1, len(parts) + 1))

    def off(self) -> AdapterState:
        """What the state would be with every adapter switched off.

        Raises:
            ModelError: if an adapter is merged.
        """
        if self.merged:
            raise _merged_adapter(self.merged)
        return replace(self, lines=(), silent=self.every)


def adapter_state(module: nn.Module) -> AdapterState:
    """What the adapters of a module do to its output, as it is now."""
    lines: list[str] = []
    silent: set[str] = set()
    every: set[str] = set()
    scaffold: set[str] = set()
    merged = ""
    for path, wrapper in _wrappers(module):
        merged = merged or (path if wrapper.merged_adapters else "")
        additions = _additions(path, wrapper)
        every.update(additions)
        scaffold.update([path, *(f"{path}.{name}" for name, _ in wrapper.named_children() if name not in _UNDER)])
        on = (
            [] if wrapper.disable_adapters else [name for name in wrapper.active_adapters if name in additions.values()]
        )
        silent.update(p for p, adapter in additions.items() if adapter not in on)
        if on and isinstance(wrapper, AuxiliaryTrainingWrapper):
            silent.add(f"{path}.original_module")
        if on or wrapper.merged_adapters:
            lines.append(f"{path} {_described(wrapper, on)}")
    return AdapterState(tuple(lines), frozenset(silent), merged, frozenset(every), frozenset(scaffold))


@atomic_context
def adapters_off(module: nn.Module) -> Iterator[None]:
    """The module without its adapters; leaving puts every switch back where it was, gradients untouched.

    Raises:
        ModelError: if there is no adapter, or one is merged into the weights: what is under it could be had by
            subtraction only, which is not exact.
    """
    wrappers = _wrappers(module)
    if not wrappers:
        raise ModelError(
            "This model has no adapter to switch off. Load a PEFT adapter directory, or apply a LoRA change."
        )
    merged = next((path for path, wrapper in wrappers if wrapper.merged_adapters), "")
    if merged:
        raise _merged_adapter(merged)
    before = [wrapper._disable_adapters for _, wrapper in wrappers]
    try:
        for _, wrapper in wrappers:
            wrapper._disable_adapters = True  # enable_adapters would ask for gradients besides
        yield
    finally:
        for (_, wrapper), disabled in zip(wrappers, before, strict=True):
            wrapper._disable_adapters = disabled


def _wrappers(module: nn.Module) -> list[tuple[str, Wrapper]]:
    return [(name, child) for name, child in module.named_modules() if isinstance(child, Wrapper)]


def _additions(path: str, wrapper: Wrapper) -> dict[str, str]:
    """Every path below a wrapper that belongs to an adapter, with that adapter's name: ``lora_A.default``."""
    containers = [(name, child) for name, child in wrapper.named_children() if name not in _UNDER]
    return {
        f"{path}.{name}.{adapter}": adapter
        for name, container in containers
        for adapter in {entry.split(".")[0] for entry, _ in _entries(container)}
    }


def _entries(container: nn.Module) -> Iterator[tuple[str, object]]:
    yield from container.named_children()
    yield from container.named_parameters()
    yield from container.named_buffers()


def _described(wrapper: Wrapper, on: list[str]) -> str:
    scaling = getattr(wrapper, "scaling", {}) if isinstance(wrapper, BaseTunerLayer) else {}
    active = [(type(wrapper).__name__, name, scaling.get(name) if isinstance(scaling, dict) else None) for name in on]
    variants = {name: type(v).__name__ for name, v in getattr(wrapper, "lora_variant", {}).items() if name in on}
    return f"on {active} {variants} merged {list(wrapper.merged_adapters)}"


def _merged_adapter(path: str) -> ModelError:
    return ModelError(
        f"An adapter is merged into {path}, so the weights under it are not at hand. Unmerge it before you load the "
        "model, or load base and adapter from their directories."
    )
