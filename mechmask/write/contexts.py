"""Contexts: short texts of the model's own before a prompt, over which an editor averages keys and values.

What an edit writes shall not depend on what stands before the prompt (Meng et al. 2022, section 3.1 and appendix E.5;
Meng et al. 2023, appendix B). Contexts are sampled from the 5 likeliest tokens, by a seed: published code draws them
once a process without one, so that no edit can be made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from mechmask.models.decoding import sampled
from mechmask.models.model import Model
from mechmask.models.tokens import encode_beginnings
from mechmask.write.precision import computing_in

BARE = ""
"""The context of a prompt that stands alone."""

_TOP_K = 5  # as published


def contexts_of_lengths(model: Model, lengths: Iterable[tuple[int, int]], seed: int) -> tuple[str, ...]:
    """ROME's contexts: texts that begin a document.

    Args:
        model: the model, which says them.
        lengths: number of tokens and of texts; the token that begins a document counts, as in the published code.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    special = (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id)
    begin = next((token for token in special if isinstance(token, int)), 0)
    said = [row for length, n in lengths for row in _sampled(model, [[begin]] * n, max(length - 1, 1), generator) if n]
    return _texts(model, said)


def contexts_of_starts(model: Model, starts: Sequence[str], length: int, seed: int) -> tuple[str, ...]:
    """MEMIT's contexts: one text for each of some first words.

    Args:
        model: the model, which goes on from the words.
        starts: the first words.
        length: number of tokens, those of the shortest first words among them; longer ones make a longer text.
        seed: of the draws.
    """
    if not starts:
        return ()
    generator = torch.Generator().manual_seed(seed)
    prompts = [list(ids) for ids in encode_beginnings(model.tokenizer, starts)]
    said = _sampled(model, prompts, max(length - min(map(len, prompts)), 1), generator)
    return _texts(model, [[*begin, *more] for begin, more in zip(prompts, said, strict=True)])


def in_context(prompt: str, context: str) -> str:
    """A prompt behind a context, as published: a full stop and a space between them."""
    return prompt if context == BARE else f"{context}. {prompt}"


def _sampled(model: Model, prompts: list[list[int]], n: int, generator: torch.Generator) -> list[list[int]]:
    if not prompts:
        return []
    with model.inference(), computing_in(model, "float32"):
        return sampled(model, prompts, n, generator, _TOP_K)


def _texts(model: Model, rows: Iterable[Sequence[int]]) -> tuple[str, ...]:
    """The texts that tokens say, on one line; those that the tokenizer would not read back are left out."""
    texts = [" ".join(str(model.tokenizer.decode(list(row), skip_special_tokens=True)).split()) for row in rows]
    return tuple(text for text in texts if text and _is_readable(model, text))


def _is_readable(model: Model, text: str) -> bool:
    ids = model.tokenizer(in_context("", text), add_special_tokens=False).input_ids
    return not set(ids) & set(model.tokenizer.all_special_ids)
