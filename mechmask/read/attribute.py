"""``attribute``: what each part of the model adds, directly, to the margin where old and new diverge.

The logits are linear in the residual stream once the scale of the final norm is frozen where it is, and the stream is
the sum of what embedding, heads and MLPs add to it (Elhage et al. 2021): the contributions sum to the margin, and the
reading checks that they do. Direct effects only: what a part does through later parts counts for those.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechmask.errors import ReadingError
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.models.final_norm import frozen
from mechmask.models.model import Model
from mechmask.models.packing import Batch, batches
from mechmask.models.routes import Contest
from mechmask.read.backends import Backend, backend_of
from mechmask.read.backends.parts import Parts
from mechmask.read.logits import decoded, may_pack
from mechmask.read.scoring.check import TOLERANCE_NATS, require_margin
from mechmask.read.scoring.contests import over_phrasings
from mechmask.read.scoring.labels import fact_coordinates, provenance

UNITS = ("layer", "component", "head")


@dataclass(frozen=True)
class Component:
    """A row of an attribution: its label, the block that it belongs to (-1 for none) and its kind."""

    label: str
    block: int
    kind: str


Contributions = dict[Component, Float[Tensor, "node token"]]


def attribute(
    model: Model,
    facts: FactSet | Sequence[Fact],
    unit: str = "component",
    backend: str | Backend = "transformer_lens",
    *,
    batch_size: int = 32,
) -> xr.Dataset:
    """Direct contribution of every part of the model to the margin where old and new diverge.

    Args:
        model: the model, as it is now: an applied change counts.
        facts: the facts.
        unit: ``layer`` (``layer l`` is what block l - 1 adds), ``component`` (attention and MLP of every block) or
            ``head`` (``head b.h``; the bias of an attention's output projection has a row of its own).
        backend: who watches the residual stream: ``transformer_lens``, ``nnsight``, or what ``backend_of`` returned.
        batch_size: prompts a forward pass. It bounds memory and changes nothing else.

    Returns:
        ``attribution[fact, component]`` and ``margin[fact]`` = logit(new) - logit(old), in nats, with ``block`` (-1 for
        embedding and bias) and ``kind`` beside ``component``. Embedding and ``bias`` (of final norm and unembedding)
        are components, so the attributions sum to the margin. Where the model caps its logits, both are before the
        cap, and ``before_softcap`` is 1 in the attributes.

    Raises:
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ReadingError: if unit or backend is not known, or the sum is not the model's own margin.
        ModelError: if a norm is neither a LayerNorm nor an RMSNorm.
    """
    if unit not in UNITS:
        raise ReadingError(f"There is no unit {unit!r}. Give one of {', '.join(UNITS)}.")
    watcher = backend_of(backend, model)
    reading = over_phrasings(
        model, facts, "prompt", lambda facts, contests: _read(model, facts, contests, unit, watcher, batch_size)
    )
    attrs = provenance(model, unit=unit, score="divergence", backend=watcher.name)
    return reading.assign_attrs(attrs, before_softcap=int(model.anatomy.softcap is not None), **reading.attrs)


def _read(
    model: Model, facts: list[Fact], contests: list[Contest | None], unit: str, backend: Backend, batch_size: int
) -> xr.Dataset:
    rows: dict[int, Tensor] = {}
    margins, at_output = np.full(len(facts), np.nan), np.full(len(facts), np.nan)
    components: list[Component] = []
    with model.evaluation(), torch.inference_mode(False), torch.no_grad():
        for batch in batches(contests, score="divergence", batch_size=batch_size, pack=may_pack(model, contests)):
            tokens = _rivals(batch, contests)
            found = _contributions(model, _at_divergence(backend.parts(batch), batch), tokens, unit)
            components = list(found)
            logits = torch.stack(list(found.values()), 1).double().cpu()
            rows |= dict(zip(batch.divergence, logits[..., 1] - logits[..., 0], strict=True))
            capped = _capped(logits.sum(1), model.anatomy.softcap)
            at_output[list(batch.divergence)] = capped[:, 1] - capped[:, 0]
            margins[list(batch.divergence)] = _margins(model, batch, tokens)
    attribution = torch.stack([rows[i] for i in range(len(facts))]).numpy()
    error = _require_sums(model, facts, attribution, margins)
    error = max(error, require_margin(model, contests, at_output))
    coordinates = {
        **fact_coordinates(facts),
        "component": [component.label for component in components],
        "block": ("component", [component.block for component in components]),
        "kind": ("component", [component.kind for component in components]),
    }
    return xr.Dataset(
        {
            "attribution": (("fact", "component"), attribution, {"units": "nats"}),
            "margin": ("fact", margins, {"units": "nats"}),
        },
        coordinates,
        attrs={"check_error_nats": error},
    )


def _rivals(batch: Batch, contests: Sequence[Contest | None]) -> Int[Tensor, "node token"]:
    """The tokens of old and new at which each contest of a batch diverges."""
    there = [contest for index in batch.divergence if (contest := contests[index]) is not None]
    return torch.tensor([[contest.routes[route][contest.n_common] for route in ("old", "new")] for contest in there])


def _at_divergence(parts: Parts, batch: Batch) -> Parts:
    """Parts at the divergence of every contest, in the order of ``batch.divergence``, in float32."""
    nodes = torch.tensor(list(batch.divergence.values()), device=parts.embedding.device)
    blocks = [stack[:, nodes].float() for stack in (parts.attention, parts.mlp, parts.heads)]
    return Parts(parts.embedding[nodes].float(), *blocks)


def _contributions(model: Model, parts: Parts, tokens: Int[Tensor, "node token"], unit: str) -> Contributions:
    """What every component adds to the logits of the tokens of its own contest."""
    anatomy = model.anatomy
    residual = parts.embedding + parts.attention.sum(0) + parts.mlp.sum(0)
    if not residual.isfinite().all():
        raise ReadingError(
            "The residual stream that the final norm reads is not finite. Check the model's weights, or its dtype, "
            "before it is read."
        )
    unembedding, head_bias = _unembedded(anatomy.unembedding, tokens.to(residual.device), model)
    norm = frozen(anatomy.final_norm, residual)
    direction = norm.pull_back(unembedding)
    found = {Component("embedding", -1, "embedding"): _along(parts.embedding, direction)}
    for block, (attention, mlp) in enumerate(zip(parts.attention, parts.mlp, strict=True)):
        if unit == "layer":
            found[Component(f"layer {block + 1}", block, "layer")] = _along(attention + mlp, direction)
            continue
        if unit == "head":
            found |= _by_head(model, block, parts.heads[block], direction)
        else:
            found[Component(f"attention {block}", block, "attention")] = _along(attention, direction)
        found[Component(f"mlp {block}", block, "mlp")] = _along(mlp, direction)
    found[Component("bias", -1, "bias")] = unembedding @ norm.bias + head_bias
    return found


def _along(vector: Float[Tensor, "node width"], direction: Float[Tensor, "node token width"]) -> Tensor:
    return torch.einsum("nw,ntw->nt", vector, direction)


def _by_head(
    model: Model, block: int, heads: Float[Tensor, "node head head_width"], direction: Float[Tensor, "node token width"]
) -> Contributions:
    """What every head of a block adds through its slice of the output projection, and the projection's bias.

    Where a norm stands between projection and residual stream (Gemma), it is frozen as the final one is.
    """
    anatomy = model.anatomy
    projection = anatomy.attention_output(block)
    layer = _in_float32(model.module.get_submodule(projection.name))
    if anatomy.adds_attention(block) != projection.name:
        norm = model.module.get_submodule(anatomy.adds_attention(block))
        direction = frozen(norm, layer(heads.flatten(1))).pull_back(direction)
    pulled, bias = _pulled_back(layer, direction, heads[0].numel())
    values = torch.einsum("nhw,nthw->hnt", heads, pulled.unflatten(-1, heads.shape[1:]))
    found = {Component(f"head {block}.{head}", block, "head"): value for head, value in enumerate(values)}
    if projection.bias is not None:
        found[Component(f"attention bias {block}", block, "bias")] = bias
    return found


def _unembedded(head: nn.Module, tokens: Int[Tensor, "node token"], model: Model) -> tuple[Tensor, Tensor]:
    """The unembedding of every token ``[node, token, width]`` and its bias ``[node, token]``."""
    chosen = nn.functional.one_hot(tokens, model.vocab_size)
    return _pulled_back(head, chosen.to(model.dtype), model.width)


def _pulled_back(
    layer: nn.Module, direction: Float[Tensor, "node token out"], width: int
) -> tuple[Float[Tensor, "node token in"], Float[Tensor, "node token"]]:
    """The direction at an affine layer's input that says what ``direction`` says at its output, and the offset.

    By the layer's own gradient: whatever its orientation, and with any adapter that is on it.
    """
    with torch.enable_grad():
        origin = direction.new_zeros((*direction.shape[:-1], width), requires_grad=True)
        output = layer(origin)
        (pulled,) = torch.autograd.grad(output, origin, direction)
    return pulled.float(), (output.detach().float() * direction.float()).sum(-1)


def _in_float32(layer: nn.Module) -> nn.Module:
    """The layer, or a float32 copy of it: products in half precision would be off by more than the model itself."""
    if all(parameter.dtype == torch.float32 for parameter in layer.parameters()):
        return layer
    return copy.deepcopy(layer).float()


def _margins(model: Model, batch: Batch, tokens: Int[Tensor, "node token"]) -> np.ndarray:
    """logit(new) - logit(old) before a softcap, by the model without hooks ``[node]``."""
    normed = decoded(model, batch)
    weight, bias = _unembedded(model.anatomy.unembedding, tokens.to(normed.device), model)
    logits = _along(normed[list(batch.divergence.values())].float(), weight) + bias
    return (logits[:, 1] - logits[:, 0]).double().cpu().numpy()


def _capped(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _require_sums(model: Model, facts: list[Fact], attribution: np.ndarray, margins: np.ndarray) -> float:
    """Refuse attributions that do not sum to the margin; return the largest error in nats.

    A margin is the difference of two logits, so it may be off by twice what one of them may be. Measured: below 2e-5
    in float32; in bfloat16 0.1 on twelve tiny architectures and 0.3 on SmolLM2-135M.
    """
    errors = np.abs(attribution.sum(1) - margins)
    worst = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
    if not errors[worst] <= 2 * TOLERANCE_NATS[model.dtype]:
        raise ReadingError(
            f"The contributions to the margin of fact {facts[worst].id!r} sum to {attribution[worst].sum():.4f} nats "
            f"and it is {margins[worst]:.4f}, where {2 * TOLERANCE_NATS[model.dtype]:g} is allowed, so no number of "
            "them can be trusted. Check that the model's family is built as mechmask.models.anatomy says."
        )
    return float(errors[worst])
