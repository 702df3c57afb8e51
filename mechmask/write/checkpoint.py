"""A whole checkpoint as a change of the model that it was trained from: the weights that differ.

Shards are read tensor by tensor, and of a weight of which most entries stayed only the others are kept, so that no
second model is ever in memory.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from mechmask.errors import ChangeError
from mechmask.file_errors import file_errors
from mechmask.models.fingerprint import canonical_name
from mechmask.models.model import Model
from mechmask.models.states import settings_apart
from mechmask.models.writable import require_writable
from mechmask.write.change import named_weights
from mechmask.write.weights import Entries, WeightChange, compact, tensor_digest

SETTINGS = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def change_from_checkpoint(directory: Path, model: Model) -> WeightChange:
    """What a checkpoint changes in a model of its architecture.

    Weights that are stored in another type are taken into the model's.

    Args:
        directory: with ``config.json`` and safetensors, as ``save_pretrained`` and transformers' trainer write it.
        model: what it was trained from, as it is now.

    Raises:
        ChangeError: if it is of another architecture, lacks weights or holds others, is damaged, or has the model's own
            weights.
    """
    require_writable(model, "A checkpoint as a change")
    apart = settings_apart(_config(directory), model.module.config)
    if apart:
        raise ChangeError(
            f"The checkpoint in {directory} does not compute as {model.name} does: {apart}. Give the model that it was "
            "trained from."
        )
    weights = named_weights(model.module)
    after: dict[str, Tensor | Entries] = {}
    stored_as: set[str] = set()
    left = set(weights)
    for name, stored in _tensors(directory, model):
        weight = weights[name]
        if stored.shape != weight.shape:
            shapes = f"{tuple(stored.shape)} there, {tuple(weight.shape)} here"
            raise ChangeError(f"The checkpoint in {directory} does not fit {model.name}: {name} is {shapes}.")
        stored_as.add(str(stored.dtype).removeprefix("torch."))
        left.discard(name)
        new = compact(weight.detach().cpu(), stored.to(weight.dtype))
        if isinstance(new, Tensor) or len(new.positions):
            after[name] = new
    if left:
        raise _lacks(directory, left)
    before = {name: tensor_digest(weights[name]) for name in after}
    details = {"directory": str(directory), "stored_as": sorted(stored_as)}
    return WeightChange(after, before, model.fingerprint, "checkpoint", details)


def weight_files(directory: Path) -> list[Path]:
    """The files of a checkpoint's weights, in order.

    Raises:
        ChangeError: if there are none, the index is damaged, or one that it names is missing.
    """
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if not (directory / INDEX).is_file():
        raise ChangeError(
            f"The checkpoint in {directory} has no {WEIGHTS} and no {INDEX}; pickled weights are refused. Save it in "
            "safetensors."
        )
    try:
        with file_errors(directory / INDEX, "read"):
            mapped = json.loads((directory / INDEX).read_bytes().decode("utf-8"))["weight_map"]
        files = [directory / name for name in sorted(set(mapped.values()))]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ChangeError(
            f"{directory / INDEX} is damaged ({type(error).__name__}). Save the checkpoint again."
        ) from error
    missing = next((path for path in files if not path.is_file()), None)
    if missing is not None or not files:
        raise ChangeError(f"The checkpoint in {directory} lacks {getattr(missing, 'name', 'its shards')}.")
    return files


def _tensors(directory: Path, model: Model) -> Iterator[tuple[str, Tensor]]:
    """The weights of a checkpoint by their names in the model, one after the other."""
    names = _names(model.module)
    buffers = {name for name, _ in model.module.named_buffers()}
    files = weight_files(directory)
    if not {name for path in files for name in _keys(path)} <= names.keys() | buffers:
        yield from _renamed(directory, model)  # transformers knows some families' weights by other names in files
        return
    for path in files:
        with _reading(path), safe_open(path, "pt") as file:
            for name in names.keys() & set(file.keys()):
                yield names[name], file.get_tensor(name)


def _renamed(directory: Path, model: Model) -> Iterator[tuple[str, Tensor]]:
    """The same by transformers' own reader, which holds all of them at once."""
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ChangeError(
            f"The checkpoint in {directory} cannot be read ({type(error).__name__}). Check it."
        ) from error
    module, report = loaded
    if report["unexpected_keys"]:
        raise ChangeError(
            f"The checkpoint in {directory} holds {min(report['unexpected_keys'])}, which {model.name} lacks."
        )
    if report["missing_keys"]:
        raise _lacks(directory, report["missing_keys"])
    yield from ((name, parameter.detach()) for name, parameter in named_weights(module).items())


def _lacks(directory: Path, names: Collection[str]) -> ChangeError:
    return ChangeError(
        f"The checkpoint in {directory} lacks {len(names)} weights, such as {min(names)}. Give a whole checkpoint."
    )


def _keys(path: Path) -> list[str]:
    with _reading(path), safe_open(path, "pt") as file:
        return list(file.keys())


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        with file_errors(path, "read"):
            yield
    except SafetensorError as error:
        raise ChangeError(f"{path} is damaged ({error}). Save the checkpoint again.") from error


def _config(directory: Path) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ChangeError(f"{directory / SETTINGS} cannot be read ({type(error).__name__}). Check it.") from error


def _names(module: nn.Module) -> dict[str, str]:
    """Every name of a weight, tied ones by each of theirs, with the one by which ``named_weights`` knows it."""
    first = {id(parameter): name for name, parameter in named_weights(module).items()}
    every = module.named_parameters(remove_duplicate=False)
    return {canonical_name(name): first[id(parameter)] for name, parameter in every}
