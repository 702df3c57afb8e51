"""``load_checkpoints``: the states of a run by step, from the ``checkpoint-N`` directories of transformers' trainer."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from mechmask.errors import ChangeError
from mechmask.models.load import load_model
from mechmask.models.model import Model
from mechmask.models.states import Variant
from mechmask.write.peft_adapter import CHECKPOINT, FACTORS, is_adapter
from mechmask.write.peft_adapter import SETTINGS as ADAPTER_SETTINGS
from mechmask.write.stored import StoredChange, is_stored

_FINISHED = "trainer_state.json"  # what the trainer writes into a checkpoint when its weights are there


def load_checkpoints(
    directory: str | Path, model: Model | Variant | None = None, *, adapter: str | None = None
) -> dict[int, Model | Variant]:
    """The states of a series of checkpoints, as what readings take, by optimizer step.

    Weights are read when a state is, and not kept: of a run of any length one checkpoint is in memory beside the model.

    Args:
        directory: with ``checkpoint-N`` directories in it, of whole checkpoints or of peft adapters.
        model: what the run began from. By default the model that the adapters name as their base, loaded anew; of whole
            checkpoints the first one, which then stands for itself.
        adapter: the name of a peft adapter, where there are several.

    Returns:
        By step, in ascending order. A newest checkpoint that is still being written is left out, with a warning.

    Raises:
        ChangeError: if there is no checkpoint, or one is not whole.
        ModelError: if no model is given, and the one that is named or the first checkpoint cannot be loaded.
    """
    path = Path(directory)
    found = {int(match[1]): child for child in path.glob("checkpoint-*") if (match := CHECKPOINT.fullmatch(child.name))}
    steps = _whole(path, dict(sorted(found.items())))
    states: dict[int, Model | Variant] = {}
    if model is None:
        first, where = next(iter(steps.items()))
        model = _base(where)
        if not is_adapter(where):
            states[first] = model
    for step, where in steps.items():
        if step not in states:
            states[step] = Variant(model, StoredChange(where, adapter, keep=False))
    return states


def _whole(path: Path, found: dict[int, Path]) -> dict[int, Path]:
    """The checkpoints without a newest one that is still being written."""
    by_trainer = any((child / _FINISHED).is_file() for child in found.values())
    lacking = [step for step, child in found.items() if not _is_whole(child, by_trainer)]
    if lacking == [max(found, default=None)] and len(found) > 1:
        warnings.warn(
            f"{found[lacking[0]]} is not whole, as if it were being written just now, and is left out.", stacklevel=3
        )
        return {step: child for step, child in found.items() if step not in lacking}
    if lacking:
        raise ChangeError(f"{found[lacking[0]]} holds neither a whole checkpoint nor a peft adapter. Check it.")
    if not found:
        raise ChangeError(f"{path} holds no checkpoint-N. Give the output directory of a run.")
    return found


def _is_whole(directory: Path, by_trainer: bool) -> bool:
    if by_trainer and not (directory / _FINISHED).is_file():
        return False
    weights = [*directory.glob("model*.safetensors"), *directory.glob(f"**/{FACTORS}")]
    return is_stored(directory) and bool(weights)


def _base(directory: Path) -> Model:
    """What a run began from, as far as its first checkpoint says."""
    settings = directory / ADAPTER_SETTINGS
    if not settings.is_file():
        settings = next(iter(sorted(directory.glob(f"*/{ADAPTER_SETTINGS}"))), settings)
    if not settings.is_file():
        return load_model(directory)
    try:
        named = json.loads(settings.read_bytes().decode("utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ChangeError(f"{settings} is damaged ({type(error).__name__}). Save the adapter again.") from error
    if not isinstance(named, str) or not named:
        raise ChangeError(f"{settings} names no base. Give load_checkpoints the model that the run began from.")
    return load_model(named)
