"""``read_generations``: what a model writes about a fact's subject, sampled from its likeliest tokens by a seed.

As Meng et al. (2022, ROME, section 3.4) read the fluency and the consistency of an edit: continuations of a record's
generation prompts, 100 tokens with the prompt, each token drawn from the 5 likeliest. Theirs have no seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from mechmask.errors import ModelError, ReadingError
from mechmask.models.decoding import sampled
from mechmask.models.model import Model
from mechmask.models.states import Variant, active
from mechmask.progress import progress_bar
from mechmask.read.scoring.contests import Facts, facts_of
from mechmask.read.scoring.labels import fact_coordinates, provenance, storable

_TOGETHER = 64  # prompts that are continued at once; with another number the same seed gives other texts


def read_generations(
    model: Model | Variant, facts: Facts, *, n_tokens: int = 100, top_k: int = 5, seed: int = 0
) -> xr.Dataset:
    """Continuations of every fact's generation prompts; of its prompt where it has none.

    Args:
        model: a model or a state (``change.on(model)``).
        facts: facts in any form that a reading takes.
        n_tokens: length of a text, its prompt included. An end of text is passed over, as in the published code.
        top_k: each token is drawn, at temperature 1, from so many of the likeliest.
        seed: of the draws: the same seed and facts give the same texts. The global random state is neither used nor
            changed.

    Returns:
        ``text[fact, generation]``, prompt and continuation, special tokens left out, what no file can hold escaped;
        with the coordinate ``prompt[fact, generation]``. Both are empty where a fact has fewer prompts. The counts
        ``n_tokens`` (tokens of a text) and ``top_k``, and ``seed``, are attributes.

    Raises:
        FactError: listing every problem of the facts in one message.
        ReadingError: if there is no fact, one is a conversation without prompts of free text, a prompt leaves no room
            for a token, the texts do not fit into the model's context, ``top_k`` is not a number of tokens, or the
            model's output is not finite.
        ChangeError: if a state's change was made on another model.
    """
    chosen = facts_of(facts, distractors=False)
    conversation = next((fact.id for fact in chosen if fact.messages and not fact.generation_prompts), None)
    if conversation is not None:
        raise ReadingError(
            f"Fact {conversation!r} is a conversation, and free text goes on from a plain prompt. Give it "
            "generation_prompts, or read facts.as_plain()."
        )
    prompts = [fact.generation_prompts or (fact.prompt,) for fact in chosen]
    with active(model) as now:
        _require_sizes(now, n_tokens, top_k)
        rows = [
            _Row(fact, column, _prompt_ids(now, text))
            for fact, of in enumerate(prompts)
            for column, text in enumerate(of)
        ]
        for row in rows:
            if len(row.ids) >= n_tokens:
                raise ReadingError(
                    f"The prompt {prompts[row.fact][row.column]!r} of fact {chosen[row.fact].id!r} has {len(row.ids)} "
                    f"tokens, so a text of {n_tokens} has none of its own. Ask for more."
                )
        texts = np.full((len(chosen), max(map(len, prompts))), "", dtype=object)
        with now.inference():
            for row, text in _continued(now, rows, n_tokens, top_k, seed):
                texts[row.fact, row.column] = text
        about = provenance(now, model, n_tokens=n_tokens, top_k=top_k, seed=seed)
    asked = [[*of, *[""] * (texts.shape[1] - len(of))] for of in prompts]
    dims = ("fact", "generation")
    coordinates = {**fact_coordinates(chosen), "prompt": (dims, asked)}
    return xr.Dataset({"text": (dims, texts.astype(str))}, coordinates, about)


@dataclass(frozen=True)
class _Row:
    """A prompt as token ids, and whose it is."""

    fact: int
    column: int
    ids: list[int]


def _continued(model: Model, rows: Sequence[_Row], n_tokens: int, top_k: int, seed: int) -> list[tuple[_Row, str]]:
    """Every prompt with its continuation."""
    generator = torch.Generator().manual_seed(seed)
    limit = _limit(model)
    groups = _groups(rows, n_tokens if limit is None else limit - n_tokens)
    said = []
    with progress_bar("generating", len(groups)) as tick:
        for some in groups:
            more = _sampled(model, [row.ids for row in some], n_tokens, top_k, generator)
            texts = [[*row.ids, *tokens][:n_tokens] for row, tokens in zip(some, more, strict=True)]
            said += zip(some, (_text(model, ids) for ids in texts), strict=True)
            tick()
    return said


def _groups(rows: Sequence[_Row], spare: int) -> list[list[_Row]]:
    """Prompts of like length together, so that little is drawn in vain.

    Args:
        rows: the prompts.
        spare: by how many tokens one may be longer than another: all are continued as far as the shortest.
    """
    groups: list[list[_Row]] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        last = groups[-1] if groups else []
        if last and len(last) < _TOGETHER and len(row.ids) - len(last[0].ids) <= spare:
            last.append(row)
        else:
            groups.append([row])
    return groups


def _sampled(
    model: Model, prompts: list[list[int]], n_tokens: int, top_k: int, generator: torch.Generator
) -> list[list[int]]:
    try:
        return sampled(model, prompts, n_tokens - min(map(len, prompts)), generator, top_k)
    except ModelError as error:
        raise ReadingError(str(error)) from error


def _text(model: Model, ids: Sequence[int]) -> str:
    return storable(str(model.tokenizer.decode(list(ids), skip_special_tokens=True)))


def _prompt_ids(model: Model, text: str) -> list[int]:
    """The prompt as the model meets it; what the tokenizer puts behind a text is left out."""
    encoded = model.tokenizer(text, return_special_tokens_mask=True, truncation=False)
    ids, special = list(encoded["input_ids"]), encoded["special_tokens_mask"]
    while ids and special[len(ids) - 1]:
        ids.pop()
    if not ids:
        raise ReadingError(f"The prompt {text!r} has no tokens. Give a prompt that the model can read.")
    return ids


def _limit(model: Model) -> int | None:
    """The most tokens of a text that the model reads, and reads alike."""
    return min((limit for limit in (model.max_tokens, model.rope_threshold) if limit is not None), default=None)


def _require_sizes(model: Model, n_tokens: int, top_k: int) -> None:
    if not 1 <= top_k <= model.vocab_size:
        raise ReadingError(f"top_k={top_k} is no number of tokens to draw from. Give 1 to {model.vocab_size}.")
    limit = _limit(model)
    if limit is not None and n_tokens > limit:
        raise ReadingError(f"{model.name} reads {limit} tokens at most, not {n_tokens}. Ask for fewer.")
