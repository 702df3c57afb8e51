"""How far a change moved what a model predicts of a text that has nothing to do with it: KL(before || after) per token.

Both states read the same tokens in turn. What is kept of the first is what its unembedding reads, as many numbers a
token as the model is wide, and a copy of the unembedding, which a change may touch. Whole distributions exist for a few
tokens at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from mechmask.errors import ReadingError
from mechmask.models.corpora import Corpus
from mechmask.models.forward import hidden_states
from mechmask.models.model import Model
from mechmask.models.offloaded import device_of
from mechmask.models.states import Variant, active
from mechmask.models.unembedding import by_layer, plain_matrix
from mechmask.progress import progress_bar
from mechmask.read.scoring.labels import provenance

_KEPT = 65536  # tokens of which the first state's residuals are kept at once: 150 MB for SmolLM2-135M
_ROWS = 64  # tokens whose two distributions exist at once: 50 MB for a vocabulary of 49,152

_Head = Callable[[Tensor], Tensor]


def read_divergence(
    before: Model | Variant, after: Model | Variant, corpus: Corpus, *, batch_size: int = 16
) -> xr.Dataset:
    """What two states of one model predict of a text, against each other.

    Args:
        before: a model or a state, such as the model before an edit.
        after: the other; it may share the first one's weights.
        corpus: what ``held_out_text`` returned.
        batch_size: sequences per forward pass; affects memory only.

    Returns:
        Means over the tokens of each sequence, each token after those before it: ``kl[sequence]``, the divergence
        KL(before || after) of the distributions of the next token in nats; ``nll[state, sequence]``, the negative
        log-probability of the token in nats, of the states ``before`` and ``after``; ``agreement[sequence]``, the share
        of tokens at which both have the same most probable one; and the count ``n_tokens[sequence]``. Attributes are
        those of ``after``, with ``model_before`` and ``fingerprint_before``.

    Raises:
        ReadingError: if the vocabularies differ, the corpus is empty, or an output is not finite.
        ChangeError: if a state's change was made on another model.
    """
    if not corpus.sequences:
        raise ReadingError("There is no text to read. Give a corpus that held_out_text returned.")
    parts = [
        _part(before, after, corpus.part(range(chosen.start, chosen.stop)), batch_size) for chosen in _stretches(corpus)
    ]
    rows = {name: np.concatenate([part.rows[name] for part in parts]) for name in ("kl", "agree", "before", "after")}
    n = np.array(corpus.lengths)
    # A divergence is not negative; of two states that hardly differ its sum, rounded, may be.
    reading = xr.Dataset(
        {
            "kl": ("sequence", rows["kl"].clip(min=0) / n, {"units": "nats"}),
            "nll": (("state", "sequence"), np.stack([rows["before"], rows["after"]]) / n, {"units": "nats"}),
            "agreement": ("sequence", rows["agree"] / n),
            "n_tokens": ("sequence", n),
        },
        {"state": ["before", "after"]},
    )
    first, second = parts[0].about
    names = {f"{name}_before": first[name] for name in ("model", "fingerprint")}
    return reading.assign_attrs(second, **names, corpus=corpus.source)


@dataclass(frozen=True)
class _Part:
    """Sums over the tokens of some sequences by name ``[sequence]``, and the provenance of both states."""

    rows: dict[str, np.ndarray]
    about: tuple[dict[str, str | float], dict[str, str | float]]


def _stretches(corpus: Corpus) -> Iterator[range]:
    """Numbers of sequences that are read by one state and then by the other."""
    start = held = 0
    for number, length in enumerate(corpus.lengths):
        if held and held + length > _KEPT:
            yield range(start, number)
            start, held = number, 0
        held += length
    yield range(start, len(corpus.lengths))


def _part(before: Model | Variant, after: Model | Variant, corpus: Corpus, batch_size: int) -> _Part:
    with active(before) as first, first.inference():
        kept = [states.cpu() for states in _normed(first, corpus, batch_size, "reading before")]
        head, vocabulary = _copied_head(first), first.vocab_size
        about = provenance(first, before)
    rows: dict[str, list[float]] = {"kl": [], "agree": [], "before": [], "after": []}
    with active(after) as second, second.inference():
        if second.vocab_size != vocabulary:
            raise ReadingError(
                f"The vocabularies differ: {vocabulary} tokens before and {second.vocab_size} after. Give two states "
                "of one model."
            )
        for ids, old, new in zip(
            corpus.sequences, kept, _normed(second, corpus, batch_size, "reading after"), strict=True
        ):
            for name, value in _compared(head, old, _head(second), new, ids[corpus.n_left_out :]).items():
                rows[name].append(value)
        about_after = provenance(second, after)
    sums = {name: np.array(values) for name, values in rows.items()}
    for name, model in (("before", about["model"]), ("after", about_after["model"])):
        if not np.isfinite(sums[name]).all():
            raise ReadingError(f"The output of {model} on the text is not finite. Check the weights or the change.")
    return _Part(sums, (about, about_after))


def _normed(model: Model, corpus: Corpus, batch_size: int, what: str) -> Iterator[Float[Tensor, "token width"]]:
    """What the unembedding reads where the tokens of each sequence are predicted."""
    sequences = corpus.sequences
    with progress_bar(what, len(range(0, len(sequences), batch_size))) as tick:
        for start in range(0, len(sequences), batch_size):
            for states in hidden_states(model, sequences[start : start + batch_size]):
                yield states[corpus.n_left_out - 1 : -1].clone()
            tick()


def _compared(
    first_head: _Head,
    first: Float[Tensor, "token width"],
    second_head: _Head,
    second: Float[Tensor, "token width"],
    asked: Sequence[int],
) -> dict[str, float]:
    """Sums over the tokens of one sequence, in float64."""
    sums = {"kl": 0.0, "agree": 0.0, "before": 0.0, "after": 0.0}
    tokens = torch.tensor(asked)
    for old, new, token in zip(first.split(_ROWS), second.split(_ROWS), tokens.split(_ROWS), strict=True):
        p = first_head(old).double().log_softmax(-1)
        q = second_head(new).double().log_softmax(-1).to(p.device)
        token = token.to(p.device)[:, None]
        sums["kl"] += float((p.exp() * (p - q)).sum())
        sums["agree"] += float((p.argmax(-1) == q.argmax(-1)).sum())
        sums["before"] -= float(p.gather(1, token).sum())
        sums["after"] -= float(q.gather(1, token).sum())
    return sums


def _head(model: Model) -> _Head:
    """Logits in float32, the final softcap applied, by the model as it is when they are asked for."""
    return lambda normed: model.anatomy.given_out(by_layer(model.anatomy.unembedding, normed).float())


def _copied_head(model: Model) -> _Head:
    """The same by the model as it is now, whatever becomes of it."""
    head, anatomy = model.anatomy.unembedding, model.anatomy
    matrix = plain_matrix(head)
    if matrix is None:
        copied, device = copy.deepcopy(head), device_of(head)
        return lambda normed: anatomy.given_out(by_layer(copied, normed.to(device)).float())
    weight, bias = matrix[0].clone(), None if matrix[1] is None else matrix[1].clone()
    return lambda normed: anatomy.given_out(nn.functional.linear(normed.to(weight.device), weight, bias).float())
