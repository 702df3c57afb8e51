"""The loss of the value that an editor writes, of many facts together, and only of what the value reaches.

Of each prompt that is the tokens from the subject's end on, of the model the blocks above, of the logits those of the
value's tokens. Keys and values of what stands before are read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import kl_div

from mechmask.models.gradients import without_gradients
from mechmask.models.model import Model
from mechmask.models.tails import Tails
from mechmask.write.objective import cross_entropy, logits_of
from mechmask.write.requests import Request
from mechmask.write.watching import watching

Place = Literal["mlp", "residual"]
"""What a value is: what the block's MLP output projection gives out, or the residual stream behind the block."""

_TOKENS_OF_A_PASS = 24  # reading every weight once more takes as long as so many tokens


@dataclass(frozen=True)
class Cuts:
    """Texts cut where a value stands, and the places behind the cuts of which a loss asks.

    Attributes:
        texts: token ids of each.
        starts: where each is cut: the subject's last token.
        owners: which fact each is of.
        places: number of the text and position behind its cut, of everything that is asked for.
    """

    texts: tuple[Sequence[int], ...]
    starts: tuple[int, ...]
    owners: tuple[int, ...]
    places: tuple[tuple[int, int], ...]

    @property
    def reach(self) -> int:
        """Tokens behind the cut of the text that has most of them."""
        return max(len(text) - start for text, start in zip(self.texts, self.starts, strict=True))

    def with_more(self, others: Cuts) -> Cuts:
        """These, then the others."""
        behind = tuple((len(self.texts) + row, column) for row, column in others.places)
        return Cuts(
            self.texts + others.texts, self.starts + others.starts, self.owners + others.owners, self.places + behind
        )

    def only(self, chosen: Sequence[int]) -> tuple[list[int], Cuts]:
        """Numbers of the texts of some facts, and what is left of the cuts; texts and facts are numbered anew.

        Args:
            chosen: numbers of the facts, in ascending order.
        """
        rows = [row for row, owner in enumerate(self.owners) if owner in chosen]
        return rows, Cuts(
            tuple(self.texts[row] for row in rows),
            tuple(self.starts[row] for row in rows),
            tuple(chosen.index(self.owners[row]) for row in rows),
            tuple((rows.index(row), column) for row, column in self.places if row in rows),
        )


def _prompts(requests: Sequence[Request]) -> Cuts:
    """Of each request in turn its prompts, asked for every token of the value."""
    prompts = [(number, prompt) for number, request in enumerate(requests) for prompt in request.prompts]
    return Cuts(
        tuple((*prompt.ids, *prompt.target[:-1]) for _, prompt in prompts),
        tuple(prompt.subject for _, prompt in prompts),
        tuple(number for number, _ in prompts),
        tuple(
            (row, len(prompt.ids) - 1 - prompt.subject + n)
            for row, (_, prompt) in enumerate(prompts)
            for n in range(len(prompt.target))
        ),
    )


def _essences(requests: Sequence[Request]) -> Cuts:
    """Of each request "{subject} is a" up to the subject's end, asked for what follows."""
    ends = [request.essence for request in requests]
    numbers = tuple(range(len(requests)))
    return Cuts(
        tuple(end.ids for end in ends), tuple(end.position for end in ends), numbers, tuple((n, 0) for n in numbers)
    )


class Ends:
    """The parts of some texts that a value at the subject's last token reaches: from there on, in the blocks above.

    Args:
        model: the model.
        tails: the texts, cut there.
        cuts: what they are of, and what is asked of them.
        layer: the block where the value stands.
        place: what it is.
    """

    def __init__(self, model: Model, tails: Tails, cuts: Cuts, layer: int, place: Place) -> None:
        self._model, self._tails, self._cuts, self._layer = model, tails, cuts, layer
        self._place: Place = place
        self._owners = torch.tensor(cuts.owners, device=model.device)
        with watching(model, layer) as seen:
            self._replay = tails.replay(min(layer + 1, model.n_layers - 1))
        self._entering = self._replay.residual(layer + 1)
        self._outputs = seen.values[:, 0]

    @property
    def standing(self) -> Float[Tensor, "text width"]:
        """What stands where the value is to stand."""
        return self._outputs if self._place == "mlp" else self._entering[:, 0]

    def untouched(self) -> Float[Tensor, "place width"]:
        """What the final norm reads at the places that are asked for, without a delta."""
        return self._asked(self._replay.residual(self._model.n_layers))

    def with_delta(self, delta: Float[Tensor, "request width"]) -> Float[Tensor, "place width"]:
        """What it reads there where each fact's delta is added.

        Args:
            delta: of every fact.
        """
        added = delta[self._owners].to(self._entering)
        norm = self._model.anatomy.post_mlp_norm(self._layer) if self._place == "mlp" else None
        if norm is not None:
            added = norm(self._outputs + added) - norm(self._outputs)
        moved = self._entering.clone()
        moved[:, 0] += added
        return self._asked(self._replay.from_layer(self._layer + 1, moved))

    def only(self, chosen: Sequence[int]) -> Ends:
        """Those of some facts, which are numbered anew.

        Args:
            chosen: numbers of the facts, in ascending order.
        """
        rows, cuts = self._cuts.only(chosen)
        return Ends(self._model, self._tails.only(rows), cuts, self._layer, self._place)

    def _asked(self, residual: Float[Tensor, "text position width"]) -> Float[Tensor, "place width"]:
        rows, columns = torch.tensor(self._cuts.places, device=residual.device).mT
        return residual[rows, columns]


class ValueLoss:
    """The loss of the values of some facts.

    Evaluation mode and the lock are the caller's. ``of`` makes one.

    Args:
        model: the model, as it is now.
        requests: the facts.
        passes: their prompts, one fact after the other, then their essences in the same order; in one pass, or in two.
        kl: weight of the divergence; without it there are no essences.
        decay: weight of the decay.

    Attributes:
        initial: what the bare prompt has where the value is to stand ``[request, width]``.
    """

    def __init__(
        self, model: Model, requests: Sequence[Request], passes: Sequence[Ends], *, kl: float, decay: float
    ) -> None:
        self._model, self._requests, self._passes = model, requests, passes
        self._kl, self._decay = kl, decay
        asked = [
            (number, token, 1 / (len(prompt.target) * len(request.prompts)))
            for number, request in enumerate(requests)
            for prompt in request.prompts
            for token in prompt.target
        ]
        self._owners, self._tokens, self._shares = (
            torch.tensor(of, device=model.device) for of in zip(*asked, strict=True)
        )
        bare = list(accumulate((len(request.prompts) for request in requests[:-1]), initial=0))
        stream = passes[0].standing
        initial = stream[torch.tensor(bare, device=stream.device)]
        self.initial = initial.to(model.device, torch.promote_types(stream.dtype, torch.float32))
        if kl:
            with without_gradients():
                self._essence = self._logits(passes[-1].untouched()[-len(requests) :]).log_softmax(-1)

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
        apart = [_prompts(requests)]
        if kl:
            apart.append(_essences(requests))
            n_padded = len(requests) * (apart[0].reach - 1)  # of an essence one token is reached
            if n_padded <= _TOKENS_OF_A_PASS:
                apart = [apart[0].with_more(apart[1])]
        passes = [Ends(model, Tails(model, cuts.texts, cuts.starts), cuts, layer, place) for cuts in apart]
        return cls(model, requests, passes, kl=kl, decay=decay)

    def __call__(self, delta: Float[Tensor, "request width"]) -> Float[Tensor, " request"]:
        """The whole loss of each fact in nats, differentiable in ``delta``.

        Args:
            delta: what is added at the end of each subject.
        """
        logits = self._logits(torch.cat([ends.with_delta(delta) for ends in self._passes]))
        loss = torch.zeros_like(delta[:, 0])
        if self._kl:
            said = logits[len(self._tokens) :].log_softmax(-1)
            kept = kl_div(self._essence, said, log_target=True, reduction="none").sum(-1)
            loss = loss + self._kl * kept.to(delta)
        each = cross_entropy(logits[: len(self._tokens)], self._tokens).to(delta)
        loss = loss.index_add(0, self._owners, each * self._shares)
        decay = delta.norm(dim=1) / self.initial.norm(dim=1) ** 2
        return loss + self._decay * decay

    def only(self, chosen: Sequence[int]) -> ValueLoss:
        """That of some of the facts; what was read of their prompts is not read again.

        Args:
            chosen: their numbers, in ascending order.
        """
        requests = [self._requests[n] for n in chosen]
        passes = [ends.only(chosen) for ends in self._passes]
        return ValueLoss(self._model, requests, passes, kl=self._kl, decay=self._decay)

    def _logits(self, residual: Float[Tensor, "place width"]) -> Float[Tensor, "place vocabulary"]:
        anatomy = self._model.anatomy
        return logits_of(anatomy, anatomy.final_norm(residual))
