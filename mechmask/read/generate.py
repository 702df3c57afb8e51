"""``generate``: what the model says of its own accord, greedily, as far as the longer of old and new value goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import xarray as xr

from mechmask.errors import ReadingError
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.models.decoding import greedy
from mechmask.models.model import Model
from mechmask.models.routes import Contest, encode_contests


def generate(
    model: Model,
    facts: FactSet | Sequence[Fact],
    *,
    n_tokens: int | None = None,
    reading: xr.Dataset | None = None,
    batch_size: int = 64,
) -> xr.DataArray:
    """Greedy continuation of every fact's prompt.

    Args:
        model: the model, as it is now: an applied change counts.
        facts: the facts.
        n_tokens: how many tokens; as many as the longer of a fact's old and new value by default.
        reading: of the same facts by the same model, by the score ``sequence`` or ``mean``: what it knows of the
            continuation is not generated again.
        batch_size: prompts a forward pass.

    Returns:
        ``generation[fact]``: the text that follows the prompt, white space around it taken off.

    Raises:
        ReadingError: if ``reading`` is by the score ``divergence``, which reads one token of a value only.
    """
    contests = [contest for contest in encode_contests(model.tokenizer, facts) if contest is not None]
    begun = _begun(facts, reading) if reading is not None else {}
    said: dict[str, list[int]] = {}
    rest: list[_Begun] = []
    for contest in contests:
        known, wanted = begun.get(contest.fact_id, []), n_tokens or _wanted(contest)
        if len(known) >= wanted:
            said[contest.fact_id] = known[:wanted]
        else:
            rest.append(_Begun(contest.fact_id, contest.prompt, known, wanted))
    with model.inference():
        for start in range(0, len(rest), batch_size):
            batch = rest[start : start + batch_size]
            more = greedy(model, [b.tokens for b in batch], [b.wanted - len(b.known) for b in batch])
            said |= {b.fact_id: [*b.known, *tokens] for b, tokens in zip(batch, more, strict=True)}
    labels = [fact.id for fact in facts]
    texts = [str(model.tokenizer.decode(said[label])).strip() for label in labels]
    return xr.DataArray(texts, {"fact": labels}, "fact", name="generation")


@dataclass(frozen=True)
class _Begun:
    """A prompt, the tokens that are known to follow it greedily, and how many are wanted."""

    fact_id: str
    prompt: tuple[int, ...]
    known: list[int]
    wanted: int

    @property
    def tokens(self) -> list[int]:
        return [*self.prompt, *self.known]


def _wanted(contest: Contest) -> int:
    return max(len(contest.routes["old"]), len(contest.routes["new"]))


def _begun(facts: FactSet | Sequence[Fact], reading: xr.Dataset) -> dict[str, list[int]]:
    """The greedy tokens that a reading met on its routes."""
    if "greedy" not in reading:
        raise ReadingError("A divergence reading knows one token of a value. Give one by the score sequence or mean.")
    greedy = reading.greedy.sel(phrasing=0) if "phrasing" in reading.dims else reading.greedy
    return {fact.id: [token for token in greedy.sel(fact=fact.id).values.tolist() if token >= 0] for fact in facts}
