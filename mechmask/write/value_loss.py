"""The loss of the value that an editor writes, of many facts together, and only of what the value reaches.

Of each prompt that is the tokens from the subject's end on, of the model the blocks above, of the logits those of the
value's tokens. Keys and values of what stands before are read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import kl_div

from mechmask.models.gradients import without_gradients
from mechmask.models.model import Model
from mechmask.models.tails import Tails
from mechmask.write.objective import nll
from mechmask.write.requests import Request
from mechmask.write.watching import watching

Place = Literal["mlp", "residual"]
"""What a value is: what the block's MLP output projection gives out, or the residual stream behind the block."""


class Ends:
    """The parts of some texts that a value at the subject's last token reaches: from there on, in the blocks above.

    Args:
        model: the model.
        tails: the texts, cut there.
        owner: which fact each is of.
        layer: the block where the value stands.
        place: what it is.
    """

    def __init__(self, model: Model, tails: Tails, owner: Sequence[int], layer: int, place: Place) -> None:
        self._model, self._tails, self._layer = model, tails, layer
        self._place: Place = place
        self.owner = torch.tensor(owner, device=model.device)
        with watching(model, layer) as seen:
            self._replay = tails.replay(min(layer + 1, model.n_layers - 1))
        self._entering = self._replay.residual(layer + 1)
        self._outputs = seen.values[:, 0]

    @property
    def standing(self) -> Float[Tensor, "row width"]:
        """What stands where the value is to stand."""
        return self._outputs if self._place == "mlp" else self._entering[:, 0]

    @property
    def untouched(self) -> Float[Tensor, "row position width"]:
        """What the final norm reads without a delta."""
        return self._replay.residual(self._model.n_layers)

    def with_delta(self, delta: Float[Tensor, "request width"]) -> Float[Tensor, "row position width"]:
        """What the final norm reads where each fact's delta is added.

        Args:
            delta: of every fact.
        """
        added = delta[self.owner].to(self._entering)
        norm = self._model.anatomy.post_mlp_norm(self._layer) if self._place == "mlp" else None
        if norm is not None:
            added = norm(self._outputs + added) - norm(self._outputs)
        moved = self._entering.clone()
        moved[:, 0] += added
        return self._replay.from_layer(self._layer + 1, moved)

    def only(self, chosen: Sequence[int]) -> Ends:
        """Those of some facts, which are numbered anew.

        Args:
            chosen: numbers of the facts, in ascending order.
        """
        kept = [(row, chosen.index(owner)) for row, owner in enumerate(self.owner.tolist()) if owner in chosen]
        rows, owner = zip(*kept, strict=True)
        return Ends(self._model, self._tails.only(rows), owner, self._layer, self._place)


class ValueLoss:
    """The loss of the values of some facts. Prompts and essences run apart: of an essence one token is reached.

    Evaluation mode and the lock are the caller's. ``of`` makes one.

    Args:
        model: the model, as it is now.
        requests: the facts.
        prompts: of all of them, one fact after the other.
        essences: of each, in the same order; ``None`` without a divergence.
        kl: weight of the divergence.
        decay: weight of the decay.

    Attributes:
        initial: what the bare prompt has where the value is to stand ``[request, width]``.
    """

    def __init__(
        self,
        model: Model,
        requests: Sequence[Request],
        prompts: Ends,
        essences: Ends | None,
        *,
        kl: float,
        decay: float,
    ) -> None:
        self._model, self._requests = model, requests
        self._prompts, self._essences = prompts, essences
        self._kl, self._decay = kl, decay
        device = model.device
        rows = [(prompt, len(request.prompts)) for request in requests for prompt in request.prompts]
        asked = [
            (row, len(prompt.ids) - 1 - prompt.subject + n, token, 1 / (len(prompt.target) * n_prompts))
            for row, (prompt, n_prompts) in enumerate(rows)
            for n, token in enumerate(prompt.target)
        ]
        self._rows, self._columns, self._tokens, self._shares = (
            torch.tensor(of, device=device) for of in zip(*asked, strict=True)
        )
        bare = [row for row, (prompt, _) in enumerate(rows) if any(prompt is request.bare for request in requests)]
        stream = prompts.standing
        initial = stream[torch.tensor(bare, device=stream.device)]
        self.initial = initial.to(device, torch.promote_types(stream.dtype, torch.float32))
        if essences is not None:
            with without_gradients():
                self._essence = self._logprobs(essences.untouched)

    @classmethod
    def of(
        cls, model: Model, requests: Sequence[Request], layer: int, place: Place, *, kl: float, decay: float
    ) -> ValueLoss:
        """The loss of values in one block.

        Args:
            model: the model, as it is now.
            requests: the facts.
            layer: the block, 0..L-1.
            place: what the value is.
            kl: weight of the divergence.
            decay: weight of the decay.
        """
        rows = [(n, prompt) for n, request in enumerate(requests) for prompt in request.prompts]
        texts = [(*prompt.ids, *prompt.target[:-1]) for _, prompt in rows]
        tails = Tails(model, texts, [prompt.subject for _, prompt in rows])
        prompts, essences = Ends(model, tails, [n for n, _ in rows], layer, place), None
        if kl:
            ends = [request.essence for request in requests]
            tails = Tails(model, [end.ids for end in ends], [end.position for end in ends])
            essences = Ends(model, tails, range(len(requests)), layer, place)
        return cls(model, requests, prompts, essences, kl=kl, decay=decay)

    def __call__(self, delta: Float[Tensor, "request width"]) -> Float[Tensor, " request"]:
        """The whole loss of each fact in nats, differentiable in ``delta``.

        Args:
            delta: what is added at the end of each subject.
        """
        residual = self._prompts.with_delta(delta)
        rows, columns = self._rows.to(residual.device), self._columns.to(residual.device)
        normed = self._model.anatomy.final_norm(residual[rows, columns])
        each = nll(self._model.anatomy, normed, self._tokens).to(delta)
        loss = torch.zeros_like(delta[:, 0]).index_add(0, self._prompts.owner[self._rows], each * self._shares)
        if self._essences is not None:
            said = self._logprobs(self._essences.with_delta(delta))
            kept = kl_div(self._essence, said, log_target=True, reduction="none").sum(-1)
            loss = loss + self._kl * kept.to(delta)
        decay = delta.norm(dim=1) / self.initial.norm(dim=1) ** 2
        return loss + self._decay * decay

    def only(self, chosen: Sequence[int]) -> ValueLoss:
        """That of some of the facts; what was read of their prompts is not read again.

        Args:
            chosen: their numbers, in ascending order.
        """
        requests = [self._requests[n] for n in chosen]
        essences = None if self._essences is None else self._essences.only(chosen)
        prompts = self._prompts.only(chosen)
        return ValueLoss(self._model, requests, prompts, essences, kl=self._kl, decay=self._decay)

    def _logprobs(self, residual: Float[Tensor, "request position width"]) -> Float[Tensor, "request vocabulary"]:
        """Log-probabilities of what follows "{subject} is a" cut at the subject's end."""
        anatomy = self._model.anatomy
        return anatomy.capped(anatomy.unembedding(anatomy.final_norm(residual[:, 0])).float()).log_softmax(-1)
