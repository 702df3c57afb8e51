"""The text that second moments are taken over: given, or sampled by the model from itself in parts that are kept.

Each part is drawn under a seed of its own, so that an interrupt loses one part at most and a larger budget goes on from
a smaller one. As many sequences are sampled together as their keys and values leave memory for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import xxhash
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from mechmask.errors import ChangeError
from mechmask.file_errors import file_errors
from mechmask.models.cache import cache_root, made_once
from mechmask.models.corpora import LENGTH, Corpus, n_sampled, sampled_corpus, text_corpus, text_prefix
from mechmask.models.model import Model
from mechmask.progress import progress_bar

_TOGETHER = 64  # sequences; on two cores more are no faster
_PAST_BYTES = 2**28  # of keys and values; those of 64 sequences of SmolLM2-135M take 190 MB


def corpus_of(
    model: Model, corpus: str | Path | Sequence[str] | None, n_tokens: int, seed: int, progress: bool
) -> Corpus:
    """The text that was given, or sampled text, ``n_tokens`` tokens at most (rounded up to whole sequences if sampled).

    Raises:
        ChangeError: if the text is empty.
        ReadingError: if it cannot be read, or the model's output is not finite.
    """
    text = _sampled(model, n_tokens, seed, progress) if corpus is None else text_corpus(model, corpus, n_tokens)
    if not text.sequences:
        raise ChangeError("The text holds no token that has another before it. Give a longer text, or none at all.")
    return text


def corpus_digest(corpus: Corpus) -> str:
    """What tells texts apart: their tokens, and how many of each sequence are left out."""
    return xxhash.xxh3_128_hexdigest(json.dumps([corpus.n_left_out, corpus.sequences]).encode())


def _sampled(model: Model, n_tokens: int, seed: int, progress: bool) -> Corpus:
    n, together = n_sampled(n_tokens), _sampled_together(model)
    starts = range(0, n, together)
    # the tokenizer's part in the text is all that the fingerprint does not cover
    key = [model.fingerprint, text_prefix(model), len(model.tokenizer), LENGTH]
    parts = []
    with progress_bar("sampling", len(starts), shown=progress) as tick:
        for number, start in enumerate(starts):
            parts.append(_part(model, key, seed, number, min(together, n - start)))
            tick(f"{(start + len(parts[-1].sequences)) * LENGTH} tokens")
    return Corpus(tuple(ids for part in parts for ids in part.sequences), parts[0].n_left_out, "model")


def _part(model: Model, key: Sequence[object], seed: int, number: int, n_sequences: int) -> Corpus:
    described = json.dumps([*key, seed, number, n_sequences]).encode()
    name = f"sampled-texts/{xxhash.xxh3_128_hexdigest(described)}"
    with made_once(name) as directory:
        if directory is not None:
            drawn = sampled_corpus(model, _logits_of(model), n_sequences * LENGTH, _seed(seed, number), lambda _: None)
            stored = {"ids": torch.tensor(drawn.sequences), "n_left_out": torch.tensor(drawn.n_left_out)}
            save_file(stored, directory / "text.safetensors")
    path = cache_root() / name / "text.safetensors"
    with file_errors(path, "read"):
        stored = load_file(path)
    return Corpus(tuple(map(tuple, stored["ids"].tolist())), int(stored["n_left_out"]), "model")


def _seed(seed: int, number: int) -> int:
    """Of one part; the same for every model, so that texts of a model before and after a change differ by it alone."""
    return xxhash.xxh3_64_intdigest(f"{seed} {number}".encode()) >> 1  # torch takes 63 bits


def _logits_of(model: Model) -> Callable[[Tensor], Tensor]:
    """The model's own readout of what has passed the final norm, in float32."""
    head = model.anatomy.unembedding

    def logits(normed: Float[Tensor, "node width"]) -> Float[Tensor, "node vocabulary"]:
        return model.anatomy.given_out(head(normed.to(model.dtype)).float())

    return logits


def _sampled_together(model: Model) -> int:
    config = model.module.config.get_text_config()
    n_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_sequence = 2 * model.n_layers * n_heads * width * LENGTH * model.dtype.itemsize
    return max(1, min(_TOGETHER, _PAST_BYTES // per_sequence))
