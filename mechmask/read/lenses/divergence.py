"""KL divergence from a lens's output to the model's, and its gradient, in closed form and without autograd over logits.

For KL(p || q) with p the model's output and q the lens's, the gradient by the lens's logits is ``q - p``; pulled back
through the unembedding W it is ``qW - pW``. ``pW`` and the entropy of p are the same for every layer, so they are
computed once a step, and a layer costs two products with W and one softmax. A final softcap c bends the logits z:
there the gradient is ``(q - p) (1 - z^2 / c^2) W``. Also here: the unembedding itself, and its hash in tuned-lens.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from mechmask.errors import ReadingError
from mechmask.models.anatomy import Anatomy
from mechmask.models.gradients import without_gradients
from mechmask.models.offloaded import in_memory
from mechmask.models.quantised import require_numbers

_LOGITS = 2**26  # float32 logits held together: 256 MiB, 1365 tokens of a vocabulary of 49152


@dataclass(frozen=True)
class Target:
    """The model's output p at some nodes, as far as a divergence from it needs it.

    Attributes:
        unembedding: the mean unembedding vector under p, ``pW``.
        bias: the mean bias of the unembedding under p, in logits.
        entropy: the entropy of p in nats.
        probabilities: p itself, only where a softcap bends the logits.
    """

    unembedding: Float[Tensor, "node width"]
    bias: Float[Tensor, " node"]
    entropy: Float[Tensor, " node"]
    probabilities: Float[Tensor, "node vocabulary"] | None


class Readout:
    """Final norm and unembedding of a model in float32; they share the model's weights where those are float32.

    Args:
        anatomy: of the model.

    Raises:
        ReadingError: if the unembedding is not a linear map.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        head = plain_unembedding(anatomy)
        norm = in_memory(anatomy.final_norm)
        is_float32 = all(p.dtype == torch.float32 for p in norm.parameters())
        self.norm = norm if is_float32 else copy.deepcopy(norm).float()
        self.weight = _scaled(head.weight, anatomy.logit_scale)
        self.bias = None if head.bias is None else _scaled(head.bias, anatomy.logit_scale)
        self.cap = anatomy.softcap
        self._buffers: tuple[Tensor, Tensor] | None = None

    def target(self, residual: Float[Tensor, "node width"]) -> Target:
        """The output at residuals of layer L."""
        with without_gradients():
            parts = [self._target(rows) for rows in self.norm(residual).split(self._rows)]
            whole = [part.probabilities for part in parts if part.probabilities is not None]
            return Target(
                torch.cat([part.unembedding for part in parts]),
                torch.cat([part.bias for part in parts]),
                torch.cat([part.entropy for part in parts]),
                torch.cat(whole) if whole else None,
            )

    def kl(self, residual: Float[Tensor, "node width"], target: Target) -> Float[Tensor, " node"]:
        """KL(target || output at residuals carried to layer L), in nats."""
        with without_gradients():
            values = []
            for start, rows in self._blocks(self.norm(residual)):
                part = slice(start, start + len(rows))
                logits = self._logits(rows)
                if target.probabilities is None:
                    expected = (rows * target.unembedding[part]).sum(-1) + target.bias[part]
                else:
                    expected = (logits * target.probabilities[part]).sum(-1)
                top = logits.amax(-1)
                normaliser = logits.sub_(rearrange(top, "node -> node 1")).exp_().sum(-1).log_() + top
                values.append(normaliser - expected - target.entropy[part])
            return torch.cat(values)

    def gradient(self, normed: Float[Tensor, "node width"], target: Target) -> Float[Tensor, "node width"]:
        """Gradient of the KL, averaged over nodes, with respect to what the unembedding reads."""
        with without_gradients():
            parts = []
            for start, rows in self._blocks(normed.detach()):
                part = slice(start, start + len(rows))
                logits, q = self._logits_and_softmax(rows)
                if self.cap is None or target.probabilities is None:
                    parts.append((q @ self.weight).sub_(target.unembedding[part]))
                else:
                    slope = logits.div_(self.cap).square_().neg_().add_(1)
                    parts.append(q.sub_(target.probabilities[part]).mul_(slope) @ self.weight)
            return torch.cat(parts).div_(len(normed))

    def logits(self, normed: Float[Tensor, "node width"]) -> Float[Tensor, "node vocabulary"]:
        """Logits of what has passed the final norm, the softcap applied."""
        with without_gradients():
            return self._logits(normed).clone()

    @property
    def _rows(self) -> int:
        return max(1, _LOGITS // len(self.weight))

    def _blocks(self, normed: Tensor) -> list[tuple[int, Tensor]]:
        return list(zip(range(0, len(normed), self._rows), normed.split(self._rows), strict=True))

    def _target(self, rows: Tensor) -> Target:
        logits, p = self._logits_and_softmax(rows)
        top = logits.amax(-1)
        normaliser = top - p.amax(-1).log()
        unembedding = p @ self.weight
        bias = torch.zeros_like(top) if self.bias is None else p @ self.bias
        if self.cap is None:
            return Target(unembedding, bias, normaliser - (rows * unembedding).sum(-1) - bias, None)
        return Target(unembedding, bias, normaliser - logits.mul_(p).sum(-1), p.clone())

    def _logits_and_softmax(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = self._logits(rows)
        q = self._buffer(1, rows)
        torch.softmax(logits, -1, out=q)
        return logits, q

    def _logits(self, rows: Tensor) -> Tensor:
        logits = self._buffer(0, rows)
        torch.mm(rows, self.weight.T, out=logits)
        if self.bias is not None:
            logits.add_(self.bias)
        if self.cap is not None:  # as models.anatomy.capped, within the buffer
            logits.div_(self.cap).tanh_().mul_(self.cap)
        return logits

    def _buffer(self, which: int, rows: Tensor) -> Tensor:
        """A reused buffer: to allocate logits over the vocabulary anew for each layer costs as much as a pass."""
        if self._buffers is None or len(self._buffers[0]) < len(rows):
            shape = (len(rows), len(self.weight))
            self._buffers = (self.weight.new_empty(shape), self.weight.new_empty(shape))
        return self._buffers[which][: len(rows)]


def _scaled(parameter: Tensor, scale: float) -> Tensor:
    plain = parameter.detach().float()
    return plain if scale == 1 else plain * scale


def plain_unembedding(anatomy: Anatomy) -> nn.Linear:
    """The unembedding, without an adapter that is switched off.

    Raises:
        ReadingError: if it is not a linear map, or an adapter on it is applied.
        WeightsError: if it is quantised.
    """
    head = anatomy.unembedding
    if isinstance(head, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
        if not head.disable_adapters:
            raise ReadingError(
                "An adapter is applied to the unembedding, so no lens can decode by one linear map. Use the lens of "
                "the model without the adapter."
            )
        head = head.get_base_layer() if isinstance(head, BaseTunerLayer) else head.original_module
    if not isinstance(head, nn.Linear):
        raise ReadingError(
            f"The unembedding is a {type(head).__name__}, and a lens can be fitted only where it is a Linear. Read "
            "with the logit lens instead."
        )
    require_numbers(head, "A fitted lens", "the unembedding")
    return in_memory(head)  # pyright: ignore[reportReturnType]  (the same kind of layer)


def unembedding_hash(weight: Float[Tensor, "vocabulary width"]) -> str:
    """The hash by which tuned-lens identifies an unembedding, whatever the user's print options.

    It is SHA-256 of the matrix as numpy prints it, to one decimal: of a large one that is its corners only. It tells
    models apart, not their fine-tuned versions; the fingerprint in a lens's details does that.
    """
    with np.printoptions(edgeitems=3, threshold=1000, linewidth=75, suppress=False, floatmode="maxprec"):
        return sha256(np.array_str(weight.detach().cpu().float().numpy(), precision=1).encode()).hexdigest()
