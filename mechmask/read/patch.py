"""``patch_residual``: one model's residual stream at one layer, put into another model's forward pass.

A lens says what a layer would mean if the model stopped there; patching says what the rest of the model makes of it.
With the changed model as source and the unchanged one as target, the first layer from which new leads for good is where
the correction has been written (activation patching: Meng et al. 2022; between two models: Prakash et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mechmask.errors import ReadingError
from mechmask.facts.fact_set import FactSet
from mechmask.interrupts import atomic_context
from mechmask.measure.contest import margin
from mechmask.models.fingerprint import weights_digest
from mechmask.models.forward import may_pack
from mechmask.models.model import Model
from mechmask.models.packing import Batch, with_twins
from mechmask.models.replay import Replay
from mechmask.models.states import Variant, active, unchanged, unlike
from mechmask.progress import progress_bar
from mechmask.read.scoring.check import TOLERANCE_NATS, require_identity
from mechmask.read.scoring.contests import ContestSet, Facts, facts_of
from mechmask.read.scoring.labels import layer_coordinates, provenance, require_choice
from mechmask.read.scoring.table import RouteTable
from mechmask.read.scoring.unembed import score_layers

Positions = Literal["divergence", "all"]
POSITIONS: tuple[Positions, ...] = get_args(Positions)


def patch_residual(
    source: Model | Variant,
    target: Model | Variant,
    facts: Facts,
    *,
    positions: Positions = "divergence",
    batch_size: int = 32,
    progress: bool = True,
) -> xr.Dataset:
    """The contest in ``target`` when the residual stream at one layer comes from ``source``.

    Below the layer the target runs as it is, above it the target's own blocks, final norm and unembedding read what was
    put in. At layer L that is the source's own margin, if both unembed alike; at layer 0 the target's own, if both
    embed alike (where a change touches the embedding, layer 0 says what that alone does). Both are checked.

    Args:
        source: where the residuals come from: a model, or a state (``change.on(model)``).
        target: the model or state that is run with them; it may share its weights with ``source``.
        facts: a fact set, facts, mappings with their fields, a pandas table, or the path of a fact file.
        positions: ``divergence`` patches only the position at which old and new diverge, ``all`` every position up to
            it.
        batch_size: prompts per forward pass; affects memory only.
        progress: whether a bar on standard error says how far it is.

    Returns:
        In nats, by the divergence score: ``logprob[fact, route, layer]`` and ``margin[fact, layer]`` of the patched
        target, layers 0 (embedding) to L with ``depth`` = layer / L beside; ``logprob_source``, ``logprob_target``
        ``[fact, route]`` and ``margin_source``, ``margin_target`` ``[fact]`` of each model by itself. A distractor that
        has no token of its own at the divergence is NaN.

    Raises:
        FactError: listing every problem of the facts in one message.
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ReadingError: if the two models differ in architecture or vocabulary, ``positions`` is not known, or a model's
            reading is not its own output.
        ChangeError: if a state's change was made on another model.
    """
    require_choice("positions", positions, POSITIONS)
    contests = _shared_contests(unchanged(source), unchanged(target), facts_of(facts))
    patched = _Patched.of(unchanged(target), contests)
    beside = positions == "divergence" and may_pack(unchanged(target), contests)
    with progress_bar("patching", math.ceil(len(contests) / batch_size), shown=progress) as tick:
        # where one fact's prompt goes on from another's place of divergence, a shared row would patch both
        for batch in contests.batches(unchanged(target), "divergence", batch_size, apart=True):
            with active(source) as model, model.inference():
                donor = _donate(model, batch, positions, patched)
            with active(target) as model, model.inference():
                if beside:
                    _receive_beside(model, batch, donor, patched)
                else:
                    _receive(model, batch, positions, donor, patched)
            tick("")
    attrs = _checked(source, target, patched)
    return patched.dataset().assign_attrs(attrs, positions=positions)


@dataclass
class _Patched:
    """What has been read so far.

    Attributes:
        patched: the target with one layer patched.
        source: the source by itself.
        target: the target by itself.
        embed_alike: whether both have put the same numbers into layer 0 so far.
    """

    patched: RouteTable
    source: RouteTable
    target: RouteTable
    embed_alike: bool = True

    @classmethod
    def of(cls, model: Model, contests: ContestSet) -> _Patched:
        """Nothing read yet."""
        patched, source, target = (
            RouteTable(model.tokenizer, contests, "divergence", n) for n in (model.n_layers, None, None)
        )
        return cls(patched, source, target)

    def dataset(self) -> xr.Dataset:
        """What ``patch_residual`` returns, its attributes left out."""
        reading = self.patched.dataset()
        for name, table in (("source", self.source), ("target", self.target)):
            unpatched = table.dataset().logprob
            reading[f"logprob_{name}"] = unpatched
            reading[f"margin_{name}"] = margin(unpatched).assign_attrs(units="nats")
        reading = reading.assign_coords(layer_coordinates(reading.sizes["layer"] - 1))
        return reading.assign(margin=margin(reading.logprob).assign_attrs(units="nats"))


def _shared_contests(source: Model, target: Model, facts: FactSet) -> ContestSet:
    """The contests, which have to be the same tokens to both."""
    difference = unlike(source, target)
    if difference:
        raise ReadingError(
            f"The residual stream of {source.name} cannot be read by {target.name}: {difference}. Patch between models "
            "of one architecture."
        )
    contests = ContestSet.of(target, facts)
    same_tokens = source.tokenizer is target.tokenizer or ContestSet.of(source, facts).contests == contests.contests
    if source.vocab_size != target.vocab_size or not same_tokens:
        raise ReadingError(
            f"{source.name} and {target.name} do not read these facts as the same tokens of one vocabulary. Patch "
            "between models with one tokenizer."
        )
    return contests


def _places(batch: Batch, positions: str, device: torch.device) -> tuple[Tensor | slice, Tensor | slice]:
    """Rows and columns of the residual stream that are patched."""
    if positions == "all":
        return slice(None), slice(None)
    return batch.rows.to(device), batch.columns.to(device)


def _donate(model: Model, batch: Batch, positions: str, read: _Patched) -> list[Tensor]:
    """The source's residuals of every layer at the places that are patched; its own log-probabilities are read too."""
    replay = Replay(model, batch.inputs(model.device, model.dtype))
    residuals = [replay.residual(layer) for layer in range(model.n_layers + 1)]
    read.source.add(batch, _logprobs(model, [_read_at(residuals[-1], batch)], batch)[0])
    return [residual[_places(batch, positions, residual.device)] for residual in residuals]


def _receive_beside(model: Model, batch: Batch, donor: list[Tensor], read: _Patched) -> None:
    """What ``_receive`` reads, where one position is patched: in one pass, with a twin of it for every layer."""
    wider, length, rows = with_twins(batch, model.n_layers), batch.input_ids.shape[1], batch.rows

    def enter(layer: int) -> Callable[..., tuple[tuple, dict]]:
        def patch(_module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            residual = (args[0] if args else kwargs["hidden_states"]).clone()
            given, here = donor[layer].to(residual), rows.to(residual.device)
            if layer == 0:
                read.embed_alike &= torch.equal(residual[here, length], given)
            residual[here, length + layer] = given
            return ((residual, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": residual})

        return patch

    with _entering(model.anatomy.blocks, enter):
        end = Replay(model, wider.inputs(model.device, model.dtype), first=model.n_layers - 1).residual(model.n_layers)
    twins = rearrange(end[rows.to(end.device), length:], "node layer width -> layer node width")
    _score(model, [*twins, donor[-1].to(end), _read_at(end, batch)], batch, read)


@atomic_context
def _entering(blocks: nn.ModuleList, enter: Callable[[int], Callable[..., tuple[tuple, dict]]]) -> Iterator[None]:
    """Every block with a hook before it, made by the block's number; off again on leaving."""
    hooks = []
    try:
        for layer, block in enumerate(blocks):
            hooks.append(block.register_forward_pre_hook(enter(layer), with_kwargs=True))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _receive(model: Model, batch: Batch, positions: str, donor: list[Tensor], read: _Patched) -> None:
    """The target's log-probabilities with each layer patched in turn, the blocks above it run again, and without."""
    replay = Replay(model, batch.inputs(model.device, model.dtype))
    ends = []
    for layer, given in enumerate(donor):
        patched = replay.residual(layer).clone()
        places = _places(batch, positions, patched.device)
        given = given.to(patched)
        if layer == 0:
            read.embed_alike &= torch.equal(patched[places], given)
        patched[places] = given
        ends.append(_read_at(replay.from_layer(layer, patched), batch))
    _score(model, [*ends, _read_at(replay.residual(model.n_layers), batch)], batch, read)


def _score(model: Model, ends: list[Float[Tensor, "node width"]], batch: Batch, read: _Patched) -> None:
    """What the target says where each layer was patched, and last where none was."""
    logprobs = _logprobs(model, ends, batch)
    read.patched.add(batch, logprobs[:-1])
    read.target.add(batch, logprobs[-1])


def _read_at(residual: Float[Tensor, "row position width"], batch: Batch) -> Float[Tensor, "node width"]:
    return residual[batch.rows.to(residual.device), batch.columns.to(residual.device)]


def _logprobs(
    model: Model, residuals: list[Float[Tensor, "node width"]], batch: Batch
) -> Float[np.ndarray, "residual query"]:
    """In nats; all residuals go through the unembedding together."""
    normed = model.anatomy.final_norm(torch.stack(residuals))
    return score_layers(model.anatomy, normed, batch).double().cpu().numpy()


def _checked(source: Model | Variant, target: Model | Variant, read: _Patched) -> dict[str, str | float]:
    """Provenance of both, once each agrees with its own plain pass and both ends of the patching with them.

    Raises:
        ReadingError: if they do not.
    """
    with active(source) as model:
        errors = require_identity(model, read.source)
        named = {"model_source": model.name, "fingerprint_source": model.fingerprint}
        head, precisions = _head_digest(model), {model.dtype}
    with active(target) as model:
        errors += require_identity(model, read.target)
        about = provenance(model, target, score="divergence")
        unembed_alike = _head_digest(model) == head
        precisions.add(model.dtype)
    tolerance = max(TOLERANCE_NATS[dtype] for dtype in precisions)
    if read.embed_alike:
        errors.append(_agree(read.patched.logprob[..., 0], read.target, "layer 0", "target", tolerance))
    if unembed_alike:
        errors.append(_agree(read.patched.logprob[..., -1], read.source, "layer L", "source", tolerance))
    return {
        **about,
        "model_target": about["model"],
        "fingerprint_target": about["fingerprint"],
        **named,
        "embed_alike": int(read.embed_alike),
        "unembed_alike": int(unembed_alike),
        "check_error_nats": max(errors),
    }


def _agree(
    patched: Float[np.ndarray, "contest route"], alone: RouteTable, where: str, whose: str, tolerance: float
) -> float:
    """The largest difference in nats between the patched target and a model by itself."""
    error = float(np.abs(patched - alone.logprob)[alone.n_tokens > 0].max())
    if not error <= tolerance:
        raise ReadingError(
            f"With {where} patched the target does not say what the {whose} says ({error:.2g} nats apart where "
            f"{tolerance:g} is allowed), so no layer between can be trusted. Check that the model's blocks hand on "
            "nothing but the residual stream."
        )
    return error


def _head_digest(model: Model) -> str:
    """Of the weights between the residual stream at L and the logits."""
    return weights_digest(model.anatomy.final_norm) + weights_digest(model.anatomy.unembedding)
