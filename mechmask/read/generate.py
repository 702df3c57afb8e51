"""``generate``: what the model itself says after a prompt, greedily, as far as the longer of old and new value goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import xarray as xr
from torch.nn import functional as F  # noqa: N812

from mechmask.errors import ReadingError
from mechmask.models.model import Model
from mechmask.models.routes import Contest
from mechmask.models.states import Variant, active
from mechmask.read.scoring.contests import ContestSet, Facts
from mechmask.read.scoring.labels import storable


def generate(
    model: Model | Variant,
    facts: Facts,
    *,
    n_tokens: int | None = None,
    reading: xr.Dataset | None = None,
    batch_size: int = 64,
) -> xr.DataArray:
    """Greedy continuation of every fact's prompt.

    Args:
        model: a model as it is now, or a state (``change.on(model)``).
        facts: a fact set, facts, mappings with their fields, a pandas table, or the path of a fact file.
        n_tokens: how many tokens; as many as the longer of a fact's old and new value by default.
        reading: of the same facts by the same model, by the score ``sequence`` or ``mean``: what it says of the
            continuation is not generated again.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        ``generation[fact]``: the text that follows the prompt without white space around it; what no file can hold
        (NUL, lone surrogates) is escaped.

    Raises:
        FactError: listing every problem of the facts in one message.
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ReadingError: if ``reading`` is by the score ``divergence``, which reads one token of a value only, or lacks a
            fact.
        ChangeError: if a state's change was made on another model.
    """
    with active(model) as now:
        contests = ContestSet.of(now, facts)
        known = _known(contests, reading) if reading is not None else [[] for _ in contests]
        prompts = [
            _Prompt(number, contest.prompt, known[number], n_tokens or _wanted(contest))
            for number, contest in enumerate(contests)
        ]
        continued = {prompt.number: prompt.known[: prompt.wanted] for prompt in prompts}
        unfinished = [prompt for prompt in prompts if len(prompt.known) < prompt.wanted]
        with now.inference():
            for start in range(0, len(unfinished), batch_size):
                continued |= _greedy(now, unfinished[start : start + batch_size])
        texts = [storable(str(now.tokenizer.decode(continued[i])).strip()) for i in range(len(contests))]
    return xr.DataArray(texts, {"fact": list(contests.facts.ids)}, "fact", name="generation")


@dataclass(frozen=True)
class _Prompt:
    """A prompt, the tokens that are known to follow it greedily, and how many are wanted."""

    number: int
    ids: tuple[int, ...]
    known: list[int]
    wanted: int


def _wanted(contest: Contest) -> int:
    return max(len(contest.routes["old"]), len(contest.routes["new"]))


def _known(contests: ContestSet, reading: xr.Dataset) -> list[list[int]]:
    """The greedy tokens that a reading met on its routes, by contest."""
    if "greedy" not in reading:
        raise ReadingError("A divergence reading knows one token of a value. Give one by the score sequence or mean.")
    greedy = reading.greedy.sel(phrasing=0) if "phrasing" in reading.dims else reading.greedy
    absent = [fact.id for fact in contests.facts if fact.id not in greedy.indexes["fact"]]
    if absent:
        raise ReadingError(f"The reading does not hold fact {absent[0]!r}. Give one of the same facts.")
    rows = greedy.sel(fact=list(contests.facts.ids)).values.tolist()
    return [[token for token in row if token >= 0] for row in rows]


def _greedy(model: Model, prompts: Sequence[_Prompt]) -> dict[int, list[int]]:
    """Greedy decoding with a cache; padded on the left, so that a window or a cache counts no pad in between."""
    given = [[*prompt.ids, *prompt.known] for prompt in prompts]
    length = max(map(len, given))
    pads = torch.tensor([length - len(ids) for ids in given], device=model.device)[:, None]
    ids = torch.tensor([[0] * (length - len(row)) + row for row in given], device=model.device)
    columns = torch.arange(length, device=model.device)[None]
    mask = (columns >= pads).long()
    position = (columns - pads).clamp(min=0)
    cache, tokens = None, []
    for step in range(max(prompt.wanted - len(prompt.known) for prompt in prompts)):
        output = model.anatomy.decoder(
            input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
        )
        ids = model.anatomy.unembedding(output.last_hidden_state[:, -1]).argmax(-1, keepdim=True).to(model.device)
        tokens.append(ids)
        cache, mask, position = output.past_key_values, F.pad(mask, (0, 1), value=1), length + step - pads
    rows = torch.cat(tokens, dim=1).tolist()
    return {prompt.number: [*prompt.known, *row][: prompt.wanted] for prompt, row in zip(prompts, rows, strict=True)}
