"""``attribute``: what each part of the model adds, directly, to the margin where old and new diverge.

The logits are linear in the residual stream once the scale of the final norm is frozen where it is, and the stream is
the sum of what embedding, heads and MLPs add to it (Elhage et al. 2021): the contributions sum to the margin, and the
reading checks that they do. Direct effects only: what a part does through later parts counts for those.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
import xarray as xr
from einops import einsum, rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechmask.errors import ReadingError
from mechmask.models.anatomy import capped
from mechmask.models.diagnosis import likely_cause
from mechmask.models.final_norm import frozen
from mechmask.models.forward import decoded
from mechmask.models.gradients import with_gradients, without_gradients
from mechmask.models.model import Model
from mechmask.models.offloaded import in_memory
from mechmask.models.packing import Batch
from mechmask.models.quantised import require_numbers
from mechmask.models.states import Variant, active
from mechmask.read.backends import Backend, BackendName, backend_of
from mechmask.read.backends.parts import Parts
from mechmask.read.scoring.check import TOLERANCE_NATS, require_margin
from mechmask.read.scoring.contests import ContestSet, Facts
from mechmask.read.scoring.labels import provenance, require_choice

Unit = Literal["layer", "component", "head"]
UNITS: tuple[Unit, ...] = get_args(Unit)


@dataclass(frozen=True)
class Component:
    """A row of an attribution: its label, the block that it belongs to (-1 for none) and its kind."""

    label: str
    block: int
    kind: str


Contributions: TypeAlias = dict[Component, Float[Tensor, "node token"]]


def attribute(
    model: Model | Variant,
    facts: Facts,
    unit: Unit = "component",
    backend: BackendName | Backend = "transformer_lens",
    *,
    batch_size: int = 32,
) -> xr.Dataset:
    """Direct contribution of every part of the model to the margin where old and new diverge.

    Args:
        model: a model or a state (``change.on(model)``).
        facts: a fact set, facts, mappings with their fields, a pandas table, or the path of a fact file.
        unit: ``layer`` (``layer l`` is what block l - 1 adds), ``component`` (attention and MLP of every block) or
            ``head`` (``head b.h``; the bias of an attention's output projection has a row of its own).
        backend: who watches the residual stream: ``transformer_lens``, ``nnsight``, or a backend made over this model
            or the one under this state, such as ``NnsightBackend(model)``.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        ``attribution[fact, component]`` and ``margin[fact]`` = logit(new) - logit(old), in nats, with ``block`` (-1 for
        embedding and bias) and ``kind`` beside ``component``. Embedding and ``bias`` (of final norm and unembedding)
        are components, so the attributions sum to the margin. Where the model caps its logits, both are before the
        cap, and ``before_softcap`` is 1 in the attributes.

    Raises:
        FactError: listing every problem of the facts in one message.
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ReadingError: if unit or backend is not known, the backend was made over another model, or the sum is not the
            model's own margin.
        ModelError: if a norm is neither a LayerNorm nor an RMSNorm.
        WeightsError: if the unembedding is quantised, or for ``head`` an attention's output projection.
        ChangeError: if a state's change was made on another model.
    """
    require_choice("unit", unit, UNITS)
    with active(model) as now:
        if more := now.anatomy.layout.adds_more:
            raise ReadingError(
                f"The blocks of {now.name} add {more}, so a margin is no sum over attentions and MLPs. Read depth, or "
                "patch."
            )
        watcher = backend_of(backend, now)
        reading = _read(now, ContestSet.of(now, facts), unit, watcher, batch_size)
        about = provenance(now, model, unit=unit, score="divergence", backend=watcher.name)
    return reading.assign_attrs(about, before_softcap=int(now.anatomy.softcap is not None))


def _read(model: Model, contests: ContestSet, unit: Unit, backend: Backend, batch_size: int) -> xr.Dataset:
    _require_linear(model, unit)
    rows: dict[int, Tensor] = {}
    margins, at_output = np.full(len(contests), np.nan), np.full(len(contests), np.nan)
    masked = np.zeros(len(contests), dtype=bool)
    components: list[Component] = []
    with model.evaluation(), torch.inference_mode(False), without_gradients():
        for batch in contests.batches(model, "divergence", batch_size):
            numbers, tokens = list(batch.divergence), contests.rivals(batch)
            parts = _at_divergence(backend.parts(batch), batch)
            contributions = _contributions(model, parts, tokens, unit)
            components = list(contributions)
            logits = torch.stack(list(contributions.values())).double().cpu()
            added = rearrange(logits[..., 1] - logits[..., 0], "component node -> node component")
            rows |= dict(zip(numbers, added, strict=True))
            bounded = capped(reduce(logits, "component node token -> node token", "sum"), model.anatomy.softcap)
            at_output[numbers] = bounded[:, 1] - bounded[:, 0]
            margins[numbers] = _margins(model, batch, tokens)
            masked[numbers] = batch.attention_mask is not None
    attribution = torch.stack([rows[number] for number in range(len(contests))]).numpy()
    error = _require_sums(model, contests, attribution, margins)
    error = max(error, require_margin(model, contests, at_output, masked))
    variables = {
        "attribution": (("component",), attribution, {"units": "nats"}),
        "margin": ((), margins, {"units": "nats"}),
    }
    reading = contests.dataset(
        variables,
        component=[component.label for component in components],
        block=("component", [component.block for component in components]),
        kind=("component", [component.kind for component in components]),
    )
    return reading.assign_attrs(check_error_nats=error)


def _require_linear(model: Model, unit: Unit) -> None:
    """Refuse maps through which a direction cannot be pulled back, since their weights are codes."""
    anatomy = model.anatomy
    named = [("the unembedding", anatomy.unembedding)]
    if unit == "head":
        outputs = (anatomy.attention_output(block).name for block in range(anatomy.n_layers))
        named += [(name, model.module.get_submodule(name)) for name in outputs]
    for name, layer in named:
        require_numbers(layer, "Attribution", f"{name} of {model.name}")


def _at_divergence(parts: Parts, batch: Batch) -> Parts:
    """Parts at the divergence of every contest, in the order of ``batch.divergence``, in float32."""
    nodes = torch.tensor(list(batch.divergence.values()), device=parts.embedding.device)
    blocks = [stack[:, nodes].float() for stack in (parts.attention, parts.mlp, parts.heads)]
    return Parts(parts.embedding[nodes].float(), *blocks)


def _contributions(model: Model, parts: Parts, tokens: Int[Tensor, "node token"], unit: Unit) -> Contributions:
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
    added = {Component("embedding", -1, "embedding"): _along(parts.embedding, direction)}
    for block, (attention, mlp) in enumerate(zip(parts.attention, parts.mlp, strict=True)):
        if unit == "layer":
            added[Component(f"layer {block + 1}", block, "layer")] = _along(attention + mlp, direction)
            continue
        if unit == "head":
            added |= _by_head(model, block, parts.heads[block], direction)
        else:
            added[Component(f"attention {block}", block, "attention")] = _along(attention, direction)
        added[Component(f"mlp {block}", block, "mlp")] = _along(mlp, direction)
    added[Component("bias", -1, "bias")] = unembedding @ norm.bias + head_bias
    return added


def _along(
    vector: Float[Tensor, "node width"], direction: Float[Tensor, "node token width"]
) -> Float[Tensor, "node token"]:
    return einsum(vector, direction, "node width, node token width -> node token")


def _by_head(
    model: Model, block: int, heads: Float[Tensor, "node head head_width"], direction: Float[Tensor, "node token width"]
) -> Contributions:
    """What every head of a block adds through its slice of the output projection, and the projection's bias.

    Where a norm stands between projection and residual stream (Gemma), it is frozen as the final one is.
    """
    anatomy = model.anatomy
    projection = anatomy.attention_output(block)
    direction = anatomy.residual_factor * direction
    layer = _in_float32(model.module.get_submodule(projection.name))
    if anatomy.adds_attention(block) != projection.name:
        norm = model.module.get_submodule(anatomy.adds_attention(block))
        output = layer(rearrange(heads, "node head head_width -> node (head head_width)"))
        direction = frozen(norm, output).pull_back(direction)
    pulled, bias = _pulled_back(layer, direction, heads[0].numel())
    pulled = rearrange(pulled, "node token (head head_width) -> node token head head_width", head=heads.shape[1])
    values = einsum(heads, pulled, "node head head_width, node token head head_width -> head node token")
    added = {Component(f"head {block}.{head}", block, "head"): value for head, value in enumerate(values)}
    if projection.bias is not None:
        added[Component(f"attention bias {block}", block, "bias")] = bias
    return added


def _unembedded(
    head: nn.Module, tokens: Int[Tensor, "node token"], model: Model
) -> tuple[Float[Tensor, "node token width"], Float[Tensor, "node token"]]:
    """The unembedding of every token ``[node, token, width]`` and its bias ``[node, token]``, as logits are scaled."""
    chosen = nn.functional.one_hot(tokens, model.vocab_size)
    weight, bias = _pulled_back(head, chosen.to(model.dtype), model.width)
    return weight * model.anatomy.logit_scale, bias * model.anatomy.logit_scale


def _pulled_back(
    layer: nn.Module, direction: Float[Tensor, "node token out"], width: int
) -> tuple[Float[Tensor, "node token in"], Float[Tensor, "node token"]]:
    """The direction at an affine layer's input that says what ``direction`` says at its output, and the offset.

    By the layer's own gradient: whatever its orientation, and with any adapter that is on it.
    """
    with with_gradients():
        origin = direction.new_zeros((*direction.shape[:-1], width), requires_grad=True)
        output = layer(origin)
        (pulled,) = torch.autograd.grad(output, origin, direction)
    return pulled.float(), (output.detach().float() * direction.float()).sum(-1)


def _in_float32(layer: nn.Module) -> nn.Module:
    """The layer, or a float32 copy of it: products in half precision would be off by more than the model itself."""
    whole = in_memory(layer)
    if all(parameter.dtype == torch.float32 for parameter in whole.parameters()):
        return whole
    return (copy.deepcopy(layer) if whole is layer else whole).float()


def _margins(model: Model, batch: Batch, tokens: Int[Tensor, "node token"]) -> Float[np.ndarray, " node"]:
    """logit(new) - logit(old) before a softcap, by the model without hooks."""
    normed = decoded(model, batch)
    weight, bias = _unembedded(model.anatomy.unembedding, tokens.to(normed.device), model)
    logits = _along(normed[list(batch.divergence.values())].float(), weight) + bias
    return (logits[:, 1] - logits[:, 0]).double().cpu().numpy()


def _require_sums(
    model: Model,
    contests: ContestSet,
    attribution: Float[np.ndarray, "contest component"],
    margins: Float[np.ndarray, " contest"],
) -> float:
    """Refuse attributions that do not sum to the margin; return the largest error in nats.

    A margin is the difference of two logits, so it may be off by twice what one of them may be. Measured: below 2e-5
    in float32; in bfloat16 0.1 on twelve tiny architectures and 0.3 on SmolLM2-135M.
    """
    errors = np.abs(attribution.sum(1) - margins)
    worst = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
    if not errors[worst] <= 2 * TOLERANCE_NATS[model.dtype]:
        raise ReadingError(
            f"The contributions to the margin of fact {contests[worst].fact_id!r} sum to "
            f"{attribution[worst].sum():.4f} nats and it is {margins[worst]:.4f}, where "
            f"{2 * TOLERANCE_NATS[model.dtype]:g} is allowed, so none of "
            f"them can be trusted. {likely_cause(model)}"
        )
    return float(errors[worst])
