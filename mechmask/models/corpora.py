"""Text as token sequences: given, or sampled by the model from itself.

Sampled text needs no download and is what the model itself finds likely: temperature 1, seeded. Texts are cut into
sequences of 64 tokens. The first position of each is left out, since it holds no context and models park attention
there, with residuals of another scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mechmask.errors import ReadingError
from mechmask.models.model import Model
from mechmask.progress import Tick

LENGTH = 64  # tokens of a sequence
_SAMPLED_TOGETHER = 128  # sequences: their cache is 380 MB for SmolLM2-135M


@dataclass(frozen=True)
class Corpus:
    """Token sequences.

    Attributes:
        sequences: token ids.
        n_left_out: positions at the beginning of each sequence that are not used.
        source: ``model`` or ``text``.
    """

    sequences: tuple[tuple[int, ...], ...]
    n_left_out: int
    source: str

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many tokens of each sequence are used."""
        return tuple(len(ids) - self.n_left_out for ids in self.sequences)

    def part(self, chosen: Sequence[int]) -> Corpus:
        """Some of the sequences, by number."""
        return Corpus(tuple(self.sequences[i] for i in chosen), self.n_left_out, self.source)


def text_corpus(model: Model, corpus: str | Path | Sequence[str], n_tokens: int) -> Corpus:
    """The first ``n_tokens`` tokens of a text file, or of a list of texts.

    Raises:
        ReadingError: if the file cannot be read as UTF-8.
    """
    texts = [_read(Path(corpus), n_tokens)] if isinstance(corpus, (str, Path)) else list(corpus)
    prefix = _prefix(model)
    sequences: list[tuple[int, ...]] = []
    left = n_tokens
    for text in texts:
        ids = model.tokenizer(text, add_special_tokens=False, truncation=False).input_ids[:left]
        left -= len(ids)
        piece = LENGTH - len(prefix)
        sequences += [(*prefix, *ids[i : i + piece]) for i in range(0, len(ids), piece)]
    n_left_out = max(1, len(prefix))
    return Corpus(tuple(ids for ids in sequences if len(ids) > n_left_out), n_left_out, "text")


def sampled_corpus(model: Model, logits_of: Callable[[Tensor], Tensor], n_tokens: int, seed: int, tick: Tick) -> Corpus:
    """Text that the model samples from itself at temperature 1; ``logits_of`` unembeds normed residuals in float32.

    It begins with what the tokenizer puts before a text; where that is nothing, with a token drawn from all of them,
    so that the text is as varied as the vocabulary.
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    prefix = _prefix(model)
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
    return -(-n_tokens // LENGTH)


def n_sample_batches(n_tokens: int) -> int:
    """In how many batches they are sampled."""
    return -(-n_sampled(n_tokens) // _SAMPLED_TOGETHER)


def _sample(model: Model, logits_of: Callable[[Tensor], Tensor], ids: Tensor, generator: torch.Generator) -> Tensor:
    cache, tokens = None, [ids]
    for _ in range(LENGTH - ids.shape[1]):
        output = model.anatomy.decoder(input_ids=ids, past_key_values=cache, use_cache=True)
        logits = logits_of(output.last_hidden_state[:, -1].float())
        ids = torch.multinomial(logits.softmax(-1), 1, generator=generator).to(model.device)
        tokens.append(ids)
        cache = output.past_key_values
    return torch.cat(tokens, dim=1)


def _prefix(model: Model) -> list[int]:
    """The special tokens that the tokenizer puts before a text."""
    encoded = model.tokenizer("a", return_special_tokens_mask=True)
    n = next((i for i, special in enumerate(encoded["special_tokens_mask"]) if not special), 0)
    return list(encoded["input_ids"][:n])


def _read(path: Path, n_tokens: int) -> str:
    """The beginning of a text file; no tokenizer makes a token of more than 32 characters on average."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(32 * n_tokens)
    except (OSError, UnicodeDecodeError) as error:
        raise ReadingError(
            f"The corpus {path} cannot be read as text ({type(error).__name__}). Give a UTF-8 text file, or a list "
            "of texts."
        ) from error
