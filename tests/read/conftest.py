"""The oracle of the readings: plain transformers, an unpadded row a route, naive loops. No mechmask runs here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch


class Plain:
    """What a model says by its own forward pass, a route at a time."""

    def __init__(self, model: Any) -> None:
        self.module, self.tokenizer = model.module, model.tokenizer
        self._read: dict[tuple[str, str], torch.Tensor] = {}

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text).input_ids

    def value_ids(self, fact: Any, route: str, phrasing: int = 0) -> list[int]:
        prompt = fact.phrasings[phrasing]
        return self.ids(f"{prompt} {fact.values[route]}")[len(self.ids(prompt)) :]

    @torch.no_grad()
    def logprobs(self, fact: Any, route: str, phrasing: int = 0) -> torch.Tensor:
        """``[token, vocabulary]``, where each token of the value is decided. Read once, then kept."""
        key = fact.phrasings[phrasing], fact.values[route]
        if key not in self._read:
            prompt, value = self.ids(key[0]), self.value_ids(fact, route, phrasing)
            logits = self.module(torch.tensor([prompt + value])).logits[0, len(prompt) - 1 : -1]
            self._read[key] = logits.float().log_softmax(-1)
        return self._read[key]

    def token_logprobs(self, fact: Any, route: str, phrasing: int = 0) -> list[float]:
        rows = self.logprobs(fact, route, phrasing)
        return [row[token].item() for row, token in zip(rows, self.value_ids(fact, route, phrasing), strict=True)]

    def diverging(self, fact: Any, phrasing: int = 0) -> int:
        old, new = (self.value_ids(fact, route, phrasing) for route in ("old", "new"))
        n = 0
        while old[n] == new[n]:
            n += 1
        return n

    def in_divergence(self, fact: Any, route: str, phrasing: int = 0) -> bool:
        """Whether a route has a token of its own where old and new part."""
        n, ids = self.diverging(fact, phrasing), self.value_ids(fact, route, phrasing)
        old, new = (self.value_ids(fact, name, phrasing) for name in ("old", "new"))
        if route in ("old", "new"):
            return True
        return ids[:n] == old[:n] and len(ids) > n and ids[n] not in (old[n], new[n])

    def score(self, fact: Any, route: str, score: str, phrasing: int = 0) -> float:
        if route not in fact.values:
            return math.nan
        tokens = self.token_logprobs(fact, route, phrasing)
        if score == "divergence":
            return tokens[self.diverging(fact, phrasing)] if self.in_divergence(fact, route, phrasing) else math.nan
        return sum(tokens) / (len(tokens) if score == "mean" else 1)

    @torch.no_grad()
    def greedy(self, prompt: str, n: int) -> list[int]:
        ids = self.ids(prompt)
        start = len(ids)
        for _ in range(n):
            ids = [*ids, self.module(torch.tensor([ids])).logits[0, -1].argmax().item()]
        return ids[start:]


@pytest.fixture(scope="session")
def plain() -> Callable[[Any], Plain]:
    """``plain(model)``: the oracle of a model as it is now; take another one after a change of weights."""
    return Plain


@pytest.fixture(scope="session")
def awkward(facts: Any) -> Any:
    """Two synthetic facts and the hand-made ones, for what costs a pass a route."""
    return facts.select([facts.ids[0], facts.ids[2], *facts.ids[9:]])


@pytest.fixture(scope="session")
def taught(tiny: Any, facts: Any) -> Any:
    """A tiny llama that plain gradient descent has taught the old value of every fact but those of role never."""
    model = tiny("llama")
    module, tokenizer = model.module.train(), model.tokenizer
    rows = []
    for fact in facts:
        if fact.role != "never":
            prompt = len(tokenizer(fact.prompt).input_ids)
            ids = torch.tensor([tokenizer(f"{fact.prompt} {fact.old}").input_ids])
            rows.append((ids, ids.masked_fill(torch.arange(ids.shape[1]) < prompt, -100)))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(40):
        for ids, labels in rows:
            module(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    module.eval()
    return model
