"""From what the final norm gives out to logits, before they are scaled: by the matrix, or by the layer's own pass.

Only a plain linear map may be multiplied in parts. An adapter on it, or weights that are codes, compute as the layer
says; and where its result for one token may depend on others (``mechmask.models.quantised``), one at a time.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mechmask.models.offloaded import lent_tensors
from mechmask.models.quantised import is_read_alone, quantised_kind


def plain_matrix(
    head: nn.Module,
) -> tuple[Float[Tensor, "vocabulary width"], Float[Tensor, " vocabulary"] | None] | None:
    """Weight and bias of an unembedding, brought from where they are kept; ``None`` where it is no plain linear map."""
    if type(head) is not nn.Linear or quantised_kind(head):
        return None
    lent = lent_tensors(head)
    weight = lent["weight"]() if "weight" in lent else head.weight
    bias = lent["bias"]() if "bias" in lent else head.bias
    return weight, bias


def by_layer(head: nn.Module, normed: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape vocabulary"]:
    """Logits as the layer itself computes them, in its own dtype, on the device of what it reads."""
    if not is_read_alone(head):
        return head(normed).to(normed.device)
    rows = normed.reshape(-1, 1, normed.shape[-1])
    return torch.cat([head(row) for row in rows]).reshape(*normed.shape[:-1], -1).to(normed.device)
