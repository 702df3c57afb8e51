"""Text as token sequences: given, or sampled by the model from itself.

Sampled text needs no download and is what the model itself finds likely: temperature 1, seeded. Texts are cut into
sequences of 64 tokens. The first position of each is left out, since it holds no context and models park attention
there, with residuals of another scale.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechmask.errors import ReadingError
from mechmask.models.model import Model
from mechmask.progress import Tick

LENGTH = 64  # tokens of a sequence
_SAMPLED_TOGETHER = 128  # sequences; their key-value cache takes 380 MB for SmolLM2-135M

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Corpus:
    """Token sequences, and where they come from.

    Attributes:
        sequences: token ids.
        n_left_out: positions at the beginning of each sequence that are not used.
        source: ``model`` if it was sampled, ``text`` if it was given.
    """

    sequences: tuple[tuple[int, ...], ...]
    n_left_out: int
    source: Literal["model", "text"]

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many tokens of each sequence are used."""
        return tuple(len(ids) - self.n_left_out for ids in self.sequences)

    def part(self, chosen: Sequence[int]) -> Corpus:
        """Some of the sequences, by number."""
        return Corpus(tuple(self.sequences[i] for i in chosen), self.n_left_out, self.source)


def text_corpus(model: Model, corpus: str | Path | Sequence[str], n_tokens: int) -> Corpus:
    """The first ``n_tokens`` tokens of a text file, or of a list of texts; no sequence holds parts of two texts.

    Args:
        model: whose tokenizer cuts the text.
        corpus: the path of a UTF-8 file, or texts.
        n_tokens: the most that is used.

    Raises:
        ReadingError: if the file cannot be read as UTF-8, or a text cannot be written as UTF-8.
    """
    texts = [_read(corpus, n_tokens)] if isinstance(corpus, (str, Path)) else [_checked(text) for text in corpus]
    prefix = text_prefix(model)
    n_text = LENGTH - len(prefix)
    sequences: list[tuple[int, ...]] = []
    left = n_tokens
    for text in texts:
        if left <= 0:
            break
        ids = model.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids[:left]
        left -= len(ids)
        sequences += [(*prefix, *ids[i : i + n_text]) for i in range(0, len(ids), n_text)]
    n_left_out = max(1, len(prefix))
    return Corpus(tuple(ids for ids in sequences if len(ids) > n_left_out), n_left_out, "text")


def sampled_corpus(model: Model, logits_of: Callable[[Tensor], Tensor], n_tokens: int, seed: int, tick: Tick) -> Corpus:
    """Text that the model samples from itself at temperature 1.

    Each sequence begins with what the tokenizer puts before a text; where that is nothing, with a token drawn from all
    of them, so that the text is as varied as the vocabulary.

    Args:
        model: the model.
        logits_of: logits ``[node, vocabulary]`` in float32 of normed residuals ``[node, width]``.
        n_tokens: how many tokens are sampled, rounded up to whole sequences.
        seed: of the draws; the global random state is neither used nor changed.
        tick: called after each batch with how far the work is.

    Raises:
        ReadingError: if the model's output is not finite.
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    prefix = text_prefix(model)
    rows: list[tuple[int, ...]] = []
    n_sequences = n_sampled(n_tokens)
    with model.inference():
        for start in range(0, n_sequences, _SAMPLED_TOGETHER):
            n = min(_SAMPLED_TOGETHER, n_sequences - start)
            begin = torch.tensor([prefix] * n, device=model.device)
            if not prefix:
                begin = torch.randint(len(model.tokenizer), (n, 1), device=model.device, generator=generator)
            rows += map(tuple, _sample(model, logits_of, begin, generator).tolist())
            tick(f"{len(rows) * LENGTH} tokens")
    return Corpus(tuple(rows), max(1, len(prefix)), "model")


def n_sampled(n_tokens: int) -> int:
    """How many sequences are sampled for so many tokens."""
    return math.ceil(n_tokens / LENGTH)


def n_sample_batches(n_tokens: int) -> int:
    """In how many batches they are sampled."""
    return math.ceil(n_sampled(n_tokens) / _SAMPLED_TOGETHER)


def text_prefix(model: Model) -> list[int]:
    """The special tokens that the tokenizer puts before a text."""
    encoded = model.tokenizer("a", return_special_tokens_mask=True)
    n = next((i for i, special in enumerate(encoded["special_tokens_mask"]) if not special), 0)
    return list(encoded["input_ids"][:n])


def _sample(
    model: Model,
    logits_of: Callable[[Tensor], Tensor],
    ids: Int[Tensor, "sequence begin"],
    generator: torch.Generator,
) -> Int[Tensor, "sequence position"]:
    cache, tokens = None, [ids]
    for _ in range(LENGTH - ids.shape[1]):
        output = model.anatomy.decoder(input_ids=ids, past_key_values=cache, use_cache=True)
        logits: Float[Tensor, "sequence vocabulary"] = logits_of(output.last_hidden_state[:, -1].float())
        probabilities = logits.softmax(-1)
        if probabilities.isnan().any():
            raise ReadingError(
                f"The output of {model.name} is not finite, so no text can be sampled from it. Check the model's "
                "weights, or load it in float32."
            )
        ids = torch.multinomial(probabilities, 1, generator=generator).to(model.device)
        tokens.append(ids)
        cache = output.past_key_values
    return torch.cat(tokens, dim=1)


def _checked(text: object) -> str:
    if isinstance(text, str) and not _LONE_SURROGATE.search(text):
        return text
    raise ReadingError(
        f"The corpus holds {reprlib.repr(text)}, which cannot be written as UTF-8 text. Give a list of texts, "
        "or the path of a text file."
    )


def _read(path: str | Path, n_tokens: int) -> str:
    """The beginning of a text file; no tokenizer makes a token of more than 32 characters on average."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            return file.read(32 * n_tokens)
    except (OSError, ValueError) as error:
        raise ReadingError(
            f"The corpus {str(path) if len(str(path)) < 300 else reprlib.repr(str(path))} cannot be read as text "
            f"({type(error).__name__}). Give the path of a UTF-8 text file, or a list of texts."
        ) from error
