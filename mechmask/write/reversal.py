"""Mask reversal: weights without which edits come undone, learned on some edits and tried on others.

Holmov et al. (2026, «One Mask to Rule Them All») learn one binary mask over the weights that single edits write into,
shared by all of them: where it switches weights off, edited models say the old value again, on facts that the mask has
not seen too. Something that weights of the model as it was still hold has been masked, not overwritten. A mask could
also do harm of its own, so it means something beside a random one that removes as many weights, and beside what it does
to the model without any edit: ``RemovalMask.shuffled`` and ``RemovalMask.change`` on the plain model give both.

The mask is a sigmoid whose temperature falls while it is learned, and is cut at a threshold. The loss is the divergence
of what follows the prompt from what followed it before the edit, and the share of weights that is removed. It is not
the published loss to the letter, which adds a distillation at another temperature.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import kl_div
from torch.nn.utils.rnn import pad_sequence
from torch.utils.hooks import RemovableHandle

from mechmask.configuration import Configuration, LearningRate
from mechmask.errors import ChangeError, FileError
from mechmask.facts.fact import Fact
from mechmask.files import new_sealed_directory, require_sealed
from mechmask.interrupts import atomic_context
from mechmask.models.anatomy import Projection
from mechmask.models.gradients import recording, with_gradients, without_gradients
from mechmask.models.model import Model
from mechmask.models.replay import Replay
from mechmask.models.routes import encode_contests
from mechmask.models.states import Variant, active, unchanged
from mechmask.models.writable import require_writable
from mechmask.notebook import card, table
from mechmask.progress import progress_bar
from mechmask.write.change import named_weights
from mechmask.write.editor import Edit, require_plain_projections
from mechmask.write.precision import computing_in
from mechmask.write.weights import WeightChange, tensor_digest, trainable

_KEPT = 2.0  # logits in the beginning: a mask of .96 at the first temperature, and .9998 where it stays to the last


class ReversalConfig(Configuration):
    """How a mask is learned.

    Attributes:
        steps: passes over the edits.
        lr: learning rate of Adam, on the logits of the mask.
        sparsity: weight of the share of weights that is removed, in nats.
        temperature: what the logits are multiplied by, from the first step to the last.
        threshold: a weight is removed where the mask is below this at the end.
        batch_size: edits per step.
        seed: of their order.
    """

    refusal = ChangeError

    steps: int = Field(default=300, ge=1)
    lr: LearningRate = 0.1
    sparsity: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    temperature: tuple[float, float] = (1.643, 4.301)
    threshold: float = Field(default=0.9, gt=0, lt=1)
    batch_size: int = Field(default=50, ge=1)
    seed: int = 0


@dataclass(frozen=True, eq=False)
class RemovalMask:
    """Which weights are removed.

    Attributes:
        removed: by the name of a weight, in its stored orientation: ``True`` where it becomes zero.
        losses: mean divergence over the edits at each pass, in nats.
    """

    removed: Mapping[str, Bool[Tensor, "row column"]]
    losses: tuple[float, ...] = ()

    def __repr__(self) -> str:
        return f"RemovalMask({self.share:.2%} of {len(self.removed)} weights)"

    def _repr_html_(self) -> str:
        """How much of each weight is removed."""
        rows = [(name, f"{int(mask.sum()):,}", f"{mask.numel():,}") for name, mask in self.removed.items()]
        last = f"{self.losses[-1]:.3f} nats" if self.losses else None
        removed = table(("weight", "removed", "of"), rows, (False, True, True))
        return card(repr(self), {"divergence at the last pass": last}, removed)

    @property
    def share(self) -> float:
        """The share of the weights that is removed."""
        n = sum(mask.numel() for mask in self.removed.values())
        return sum(int(mask.sum()) for mask in self.removed.values()) / n

    def change(self, state: Model | Variant) -> WeightChange:
        """The change that removes the weights from a state, such as an edited model.

        Args:
            state: a model or a state whose weights the mask was learned on.

        Raises:
            ChangeError: if a weight is not there, or every one that is removed is zero already.
        """
        with active(state) as model:
            weights = _weights(model, self.removed)
            after = {
                name: weights[name].detach().masked_fill(mask.to(weights[name].device), 0)
                for name, mask in self.removed.items()
            }
            before = {name: tensor_digest(weights[name]) for name in after}
            return WeightChange(after, before, model.fingerprint, "mask", {"share_removed": self.share})

    def shuffled(self, seed: int = 0) -> RemovalMask:
        """A mask that removes as many weights of each row, drawn at random: what removing alone does.

        Args:
            seed: of the draw.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn = {
            name: mask.gather(1, torch.rand(mask.shape, generator=generator).argsort(1))
            for name, mask in self.removed.items()
        }
        return RemovalMask(drawn)

    def save(self, directory: str | Path) -> None:
        """Write the mask into a new directory, atomically.

        Args:
            directory: where to; it must not exist yet.

        Raises:
            ChangeError: if the directory already exists.
        """
        with new_sealed_directory(Path(directory), "the mask", ChangeError) as temporary:
            save_file({name: mask.contiguous() for name, mask in self.removed.items()}, temporary / "mask.safetensors")
            (temporary / "mask.json").write_text(json.dumps({"losses_nats": self.losses}), encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path) -> RemovalMask:
        """The mask that was saved in a directory.

        Args:
            directory: where it is.

        Raises:
            FileError: if there is none, or it is damaged.
        """
        path = Path(directory)
        require_sealed(path, "The mask", "Save it again.")
        try:
            removed = load_file(path / "mask.safetensors")
            losses = json.loads((path / "mask.json").read_text(encoding="utf-8"))["losses_nats"]
        except (OSError, ValueError, KeyError) as error:
            raise FileError(f"{path} does not hold a mask ({type(error).__name__}). Save it again.") from error
        return cls({name: mask.bool() for name, mask in removed.items()}, tuple(map(float, losses)))


def learn_reversal(
    model: Model | Variant,
    edits: Sequence[Edit],
    facts: Sequence[Fact],
    config: ReversalConfig | None = None,
    *,
    progress: bool = True,
) -> RemovalMask:
    """One mask for edits of one fact each, under which each edited model says what it said before.

    Args:
        model: what the edits were made on; it is left as it was.
        edits: the edits, all of the same weights, each an MLP output projection's.
        facts: the fact of each.
        config: how the mask is learned.
        progress: whether a bar shows how far it is.

    Raises:
        ChangeError: if an edit is of other weights than the first or of one that is no MLP output projection's, their
            number is not that of the facts, an adapter on a projection does more than add to what its weight gives out,
            the loss is not a number, or the mask removes nothing.
    """
    settings = config or ReversalConfig()
    if len(edits) != len(facts) or not edits:
        raise ChangeError(f"There are {len(edits)} edits and {len(facts)} facts. Give one edit a fact, at least one.")
    require_writable(unchanged(model), "A mask that reverses edits")
    with recording(), active(model) as now, computing_in(now, "float32"), trainable(now, {}):
        asked = _Reversal(now, edits, facts, settings.batch_size)
        logits = [nn.Parameter(torch.full_like(edited[0], _KEPT)) for edited in asked.edited.values()]
        optimizer = torch.optim.Adam(logits, lr=settings.lr)
        generator = torch.Generator().manual_seed(settings.seed)
        losses = []
        with progress_bar("reversal", settings.steps, shown=progress) as tick, with_gradients():
            for step in range(settings.steps):
                temperature = _annealed(settings.temperature, step / max(settings.steps - 1, 1))
                total = 0.0
                for number in torch.randperm(asked.n_batches, generator=generator).tolist():
                    masks = [torch.sigmoid(temperature * logit) for logit in logits]
                    divergence = asked.divergence(masks, number)
                    removed = sum((1 - mask).sum() for mask in masks) / sum(mask.numel() for mask in masks)
                    loss = divergence.mean() + settings.sparsity * removed
                    if not torch.isfinite(loss):
                        raise ChangeError(f"The loss of the mask is not a number at step {step + 1}. Lower lr.")
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                    total += float(divergence.detach().sum())
                losses.append(total / len(facts))
                tick(f"{losses[-1]:.3f} nats")
    end = settings.temperature[1]
    found = {
        name: (torch.sigmoid(end * logit) < settings.threshold).detach().cpu()
        for name, logit in zip(asked.edited, logits, strict=True)
    }
    if not any(mask.any() for mask in found.values()):
        raise ChangeError("The mask removes nothing. Lower sparsity, or give it more steps.")
    return RemovalMask(found, tuple(losses))


class _Reversal:
    """The prompts of edited facts, run from the first block that was written into, each row under its own weights."""

    def __init__(self, model: Model, edits: Sequence[Edit], facts: Sequence[Fact], batch_size: int) -> None:
        names = edits[0].weights
        projections = {f"{model.anatomy.mlp_output(n).name}.weight": n for n in range(model.n_layers)}
        weights = tuple(name for name in names if name in projections)
        beside = set(names) - {*weights, *(name.removesuffix("weight") + "bias" for name in weights)}
        if beside or not weights or any(set(edit.weights) != set(names) for edit in edits):
            raise ChangeError(
                "A mask is learned over the weights of MLP output projections that all edits write into, and these "
                "edits write elsewhere too or not into the same. Make them with one editor."
            )
        self._model = model
        self.layers = {name: projections[name] for name in weights}
        require_plain_projections(model, list(self.layers.values()))
        self._biases: dict[str, Tensor | None] = {}
        self.edited = self._collected(edits)
        self._first = min(self.layers.values())
        contests = [contest for contest in encode_contests(model.tokenizer, list(facts)) if contest is not None]
        rows = [torch.tensor(contest.prompt) for contest in contests]
        self._parts = [slice(start, start + batch_size) for start in range(0, len(rows), batch_size)]
        self._ends = [torch.tensor([len(row) - 1 for row in rows[part]]) for part in self._parts]
        self._passes = [
            Replay(model, {"input_ids": pad_sequence(rows[part], batch_first=True).to(model.device)}, self._first)
            for part in self._parts
        ]
        with without_gradients():
            self._before = [
                self._logprobs(replay.residual(model.n_layers), ends)
                for replay, ends in zip(self._passes, self._ends, strict=True)
            ]

    @property
    def n_batches(self) -> int:
        """In how many batches the edits are run."""
        return len(self._parts)

    def divergence(self, masks: Sequence[Tensor], number: int) -> Float[Tensor, " edit"]:
        """KL divergence of what follows each prompt of a batch from what followed it before the edit, in nats."""
        part, replay = self._parts[number], self._passes[number]
        masked = {name: edited[part] * mask for (name, edited), mask in zip(self.edited.items(), masks, strict=True)}
        with self._instead(masked, part):
            residual = replay.from_layer(self._first, replay.residual(self._first))
        after = self._logprobs(residual, self._ends[number])
        return kl_div(after, self._before[number], log_target=True, reduction="none").sum(-1)

    def _collected(self, edits: Sequence[Edit]) -> dict[str, Float[Tensor, "edit row column"]]:
        """The weights of every edited model, and its biases where an edit writes into those too."""
        found: dict[str, list[Tensor]] = {name: [] for name in self.layers}
        biases: dict[str, list[Tensor]] = {name: [] for name in self.layers}
        for edit in edits:
            with edit.applied(self._model) as changed:
                weights = named_weights(changed.module)
                for name, layer in self.layers.items():
                    found[name].append(weights[name].detach().clone())
                    bias = changed.anatomy.mlp_output(layer).bias
                    if bias is not None:
                        biases[name].append(bias.detach().clone())
        self._biases = {name: torch.stack(each) if each else None for name, each in biases.items()}
        return {name: torch.stack(each) for name, each in found.items()}

    def _logprobs(self, residual: Tensor, ends: Int[Tensor, " edit"]) -> Float[Tensor, "edit vocabulary"]:
        anatomy = self._model.anatomy
        rows = torch.arange(len(ends), device=residual.device)
        normed = anatomy.final_norm(residual[rows, ends.to(residual.device)])
        return anatomy.given_out(anatomy.unembedding(normed).float()).log_softmax(-1)

    @atomic_context
    def _instead(self, masked: Mapping[str, Tensor], part: slice) -> Iterator[None]:
        """Inside, each row of a pass meets its own weights in the projections that were written into."""
        hooks: list[RemovableHandle] = []
        try:
            for name, layer in self.layers.items():
                projection = self._model.anatomy.mlp_output(layer)
                bias = self._biases[name]
                own = None if bias is None else bias[part]
                # at the layer that holds the weight: what an adapter adds to it stays
                hooks.append(projection.linear.register_forward_hook(_by_row(projection, masked[name], own)))
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _by_row(projection: Projection, weights: Tensor, biases: Tensor | None) -> Callable[..., Tensor]:
    pattern = "row position key, row key width" if projection.input_first else "row position key, row width key"

    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        keys = args[0].reshape(len(weights), -1, args[0].shape[-1])  # OPT's MLP takes all tokens in one row
        product = einsum(keys, weights, f"{pattern} -> row position width")
        return (product if biases is None else product + biases[:, None]).reshape(output.shape)

    return hook


def _weights(model: Model, names: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    weights = named_weights(model.module)
    wrong = [name for name, mask in names.items() if name not in weights or weights[name].shape != mask.shape]
    if wrong:
        raise ChangeError(f"{model.name} has no weight {wrong[0]} of the mask's shape. Take a mask of this model.")
    return {name: weights[name] for name in names}


def _annealed(ends: tuple[float, float], share: float) -> float:
    return ends[0] + share * (ends[1] - ends[0])
