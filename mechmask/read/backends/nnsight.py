"""nnsight as backend (Fiotto-Kaufman et al. 2024): the module runs as it is, and a trace reads it on the way.

nnsight writes into the modules that it wraps and into the tokenizer, so it gets a clone of the module tree over the
original's own tensors, made anew when adapters or hooks of the module have changed. Importing nnsight mounts ``.save``
on every Python object of the process unless its own configuration says ``APP.PYMOUNT: false``; nothing here uses the
mount, and nnsight is imported when a backend is made.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from types import ModuleType
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mechmask.errors import ReadingError
from mechmask.models.model import Model, adapted_layers
from mechmask.models.packing import Batch
from mechmask.read.backends.parts import Parts, by_head, joined, sharing_clone, what_a_clone_sees


class NnsightBackend:
    """The residual stream by nnsight traces: what the model computes with at each call, applied changes too.

    Args:
        model: the model whose module is read; a change that is applied to it later is seen, unless it runs on NDIF.
        remote: ``False`` runs here; ``True`` on NDIF, which holds models by their Hub id only, with the key that
            nnsight is configured with; ``"local"`` is nnsight's dry run of the remote path, without a server.

    Raises:
        ReadingError: if nnsight is not installed, or NDIF cannot hold this model.
    """

    name = "nnsight"

    def __init__(self, model: Model, remote: bool | Literal["local"] = False) -> None:
        self.model = model
        self._remote = remote
        self._seen = what_a_clone_sees(model.module)
        self._root = _wrapped(_nnsight(), model, remote)

    def residuals(self, batch: Batch) -> Float[Tensor, "layer node width"]:
        """The residual stream at every node of a batch, ``[layer, node, width]``, in the dtype of the model.

        Args:
            batch: what the model reads, and at which nodes; layers are 0 to L.

        Raises:
            ModelError: if another thread has the model and would never give it back.
        """
        blocks = self.model.anatomy.layout.blocks
        points = [(f"{blocks}.{i}", "output") for i in range(self.model.n_layers)]
        points = [(f"{blocks}.0", "input"), *points]
        return torch.cat([torch.stack(self._watch(one, points)) for one in batch.passes()], dim=1)

    def parts(self, batch: Batch) -> Parts:
        """What embedding, attentions and MLPs add to the residual stream at every node of a batch, and the heads.

        Args:
            batch: what the model reads, and at which nodes.
        """
        anatomy = self.model.anatomy
        points = [(f"{anatomy.layout.blocks}.0", "input")]
        for i in range(anatomy.n_layers):
            points += [
                (anatomy.attention_output(i).name, "input"),
                (anatomy.adds_attention(i), "output"),
                (anatomy.adds_mlp(i), "output"),
            ]
        each, factor = [], anatomy.residual_factor
        for one in batch.passes():
            embedding, *added = self._watch(one, points)
            heads, attention, mlp = (torch.stack(added[start::3]) for start in range(3))
            each.append(Parts(embedding, factor * attention, factor * mlp, by_head(heads, anatomy.n_heads)))
        return joined(each)

    def _watch(self, batch: Batch, points: list[tuple[str, str]]) -> list[Tensor]:
        """Inputs and outputs of the modules of these names, in the order in which they run, at the nodes of a batch."""
        self._renew()
        batch = replace(batch, past=None) if self._remote else batch  # keys and values would stay there
        inputs = batch.inputs(self.model.device, self.model.dtype)
        envoys = [(_envoy(self._root, name), side) for name, side in points]
        how = {"remote": self._remote} if self._remote else {}
        passed = _trace(self._root, envoys, inputs, batch.rows, batch.columns, how)
        return [value.to(passed[-1].device) for value in passed]

    def _renew(self) -> None:
        """Wrap the module again if what it computes with is no longer what the clone sees."""
        seen = what_a_clone_sees(self.model.module)
        if seen != self._seen:
            self._root = _wrapped(_nnsight(), self.model, self._remote)
            self._seen = seen


def _trace(
    root: Any,
    envoys: list[tuple[Any, str]],
    inputs: dict[str, Any],
    rows: Tensor,
    columns: Tensor,
    how: dict[str, Any],
) -> list[Tensor]:
    """One traced pass, left behind the last point; all that the block names is what a remote run has to ship."""
    import nnsight

    shape = tuple(inputs["input_ids"].shape)
    passed: list[Tensor] = []
    with root.trace(**inputs, **how) as tracer:
        passed = []
        for envoy, side in envoys:
            value = envoy.input if side == "input" else envoy.output
            value = value[0] if isinstance(value, tuple) else value
            passed.append(value.reshape(*shape, -1)[rows.to(value.device), columns.to(value.device)])
        passed = nnsight.save(passed)
        tracer.stop()
    return passed


def _nnsight() -> ModuleType:
    try:
        import nnsight
    except ImportError as error:
        raise ReadingError(
            f"The nnsight backend needs nnsight 0.8, which cannot be imported here ({error}). Install it with "
            "pip install 'nnsight>=0.8,<0.9', or read with backend='transformer_lens'."
        ) from error
    return nnsight


def _wrapped(nnsight: ModuleType, model: Model, remote: bool | str) -> Any:
    if remote not in (False, True, "local"):
        raise ReadingError(f"remote={remote!r} is not known. Give False, True (NDIF) or 'local' (its dry run here).")
    if remote is False:
        return _placed(nnsight, model)
    if remote == "local":
        return nnsight.TransformersModel(
            sharing_clone(model.module), tokenizer=copy.deepcopy(model.tokenizer), task="text-generation"
        )
    if adapted_layers(model.module):
        raise ReadingError(
            "NDIF holds models as they are on the Hub, and this one has an adapter on. Read it here, with "
            "backend='nnsight'."
        )
    try:
        return nnsight.TransformersModel(model.name, task="text-generation")
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ReadingError(
            f"{model.name!r} cannot be found as a Hub id, by which NDIF holds models ({reason}). Load the model by "
            "its Hub id, or read it here, with backend='nnsight'."
        ) from error


def _placed(nnsight: ModuleType, model: Model) -> Any:
    """A wrapper that sends token ids to where the model takes them: its first weight may be offloaded."""

    class Placed(nnsight.NNsight):
        device = model.device

    return Placed(sharing_clone(model.module))


def _envoy(root: Any, name: str) -> Any:
    for part in name.split("."):
        root = root[int(part)] if part.isdigit() else getattr(root, part)
    return root
