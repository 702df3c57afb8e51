"""Text that has nothing to do with the facts: what a change costs it, as negative log-probability per token.

A correction that spoils running text has done more than correct. The text is given, or sampled once by the model as it
was, so that it is what that model finds likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from mechmask.errors import ReadingError
from mechmask.models.corpora import Corpus, n_sample_batches, sampled_corpus, text_corpus
from mechmask.models.forward import hidden_states
from mechmask.models.model import Model
from mechmask.models.states import Variant, active
from mechmask.models.unembedding import by_layer
from mechmask.progress import progress_bar
from mechmask.read.scoring.labels import provenance


def held_out_text(
    model: Model | Variant, corpus: str | Path | Sequence[str] | None = None, *, n_tokens: int = 2048, seed: int = 0
) -> Corpus:
    """Token sequences to read a change's cost on.

    Args:
        model: whose tokenizer cuts the text, or who samples it: the model before any change.
        corpus: the path of a UTF-8 file, or texts; by default text that the model samples from itself.
        n_tokens: the most that is used, or that is sampled.
        seed: of sampled text.

    Raises:
        ReadingError: if the text cannot be read, or is shorter than two tokens.
    """
    with active(model) as now:
        if corpus is None:
            with progress_bar("sampling", n_sample_batches(n_tokens)) as tick:
                return sampled_corpus(now, lambda normed: _logits(now, normed), n_tokens, seed, tick)
        text = text_corpus(now, corpus, n_tokens)
    if not text.sequences:
        raise ReadingError("The text holds fewer than two tokens, so none is predicted from another. Give more text.")
    return text


def read_text(model: Model | Variant, corpus: Corpus, *, batch_size: int = 16) -> xr.Dataset:
    """How well a model predicts a text.

    Args:
        model: a model or a state (``change.on(model)``).
        corpus: what ``held_out_text`` returned.
        batch_size: sequences per forward pass; affects memory only.

    Returns:
        ``nll[sequence]``, mean negative log-probability per token in nats, each token after those before it in its
        sequence, and the count ``n_tokens[sequence]``.

    Raises:
        ReadingError: if the model's output is not finite.
        ChangeError: if a state's change was made on another model.
    """
    with active(model) as now:
        with now.inference():
            sums = torch.cat(
                [
                    _summed(now, corpus.sequences[start : start + batch_size], corpus.n_left_out)
                    for start in range(0, len(corpus.sequences), batch_size)
                ]
            )
        if not sums.isfinite().all():
            raise ReadingError(f"The output of {now.name} on the text is not finite. Check the weights or the change.")
        n_tokens = torch.tensor(corpus.lengths, dtype=torch.float64)
        reading = xr.Dataset(
            {"nll": ("sequence", (sums / n_tokens).numpy()), "n_tokens": ("sequence", list(corpus.lengths))}
        )
        reading["nll"].attrs["units"] = "nats"
        return reading.assign_attrs(provenance(now, model), corpus=corpus.source)


def _summed(model: Model, sequences: Sequence[tuple[int, ...]], n_left_out: int) -> Float[Tensor, " sequence"]:
    """Negative log-probability of each sequence in nats, in float64; padding on the right is seen by nobody."""
    sums = []
    for row, states in zip(sequences, hidden_states(model, sequences), strict=True):
        normed, asked = states[n_left_out - 1 : -1], torch.tensor(row[n_left_out:])
        logits = _logits(model, normed)
        sums.append(cross_entropy(logits, asked.to(logits.device), reduction="none").double().sum().cpu())
    return torch.stack(sums)


def _logits(model: Model, normed: Float[Tensor, "node width"]) -> Float[Tensor, "node vocabulary"]:
    return model.anatomy.given_out(by_layer(model.anatomy.unembedding, normed).float())
