"""``read_examples``: how well a model predicts the values of examples, teacher-forced, whatever they were made for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.facts.fact import Example
from mechmask.models.forward import decoded, may_pack
from mechmask.models.model import Model
from mechmask.models.packing import batches
from mechmask.models.routes import Contest, encode_examples
from mechmask.models.states import Variant, active
from mechmask.models.unembedding import by_layer
from mechmask.read.scoring.labels import provenance

_ROUTE = "value"


def read_examples(model: Model | Variant, examples: Sequence[Example], *, batch_size: int = 16) -> xr.Dataset:
    """Negative log-probability of every example's value, and whether greedy decoding says it.

    Args:
        model: a model or a state (``change.on(model)``).
        examples: prompts and values.
        batch_size: examples per forward pass; affects memory only.

    Returns:
        ``nll[example]``, mean over the value's tokens in nats per token; the count ``n_tokens[example]``; and
        ``exact[example]``, whether every token of the value is the likeliest after those before it.

    Raises:
        RouteError: listing every example whose value merges with its prompt.
        ReadingError: if there is no example, or the model's output is not finite.
        ChangeError: if a state's change was made on another model.
    """
    if not examples:
        raise ReadingError("There is no example to read. Give at least one.")
    with active(model) as now:
        encoded = encode_examples(now.tokenizer, examples)
        contests = [Contest(e.fact_id, e.prompt, {_ROUTE: e.value}, 0, None) for e in encoded]
        sums, exact = np.zeros(len(contests)), np.ones(len(contests), dtype=bool)
        made = batches(
            contests,
            score="sequence",
            batch_size=1 if now.is_read_alone else batch_size,
            pack=may_pack(now, contests),
            alone=now.is_read_alone,
            threshold=now.rope_threshold,
        )
        with now.inference():
            for batch in made:
                normed = decoded(now, batch)
                nodes, tokens = batch.asked(normed.device)
                logits = now.anatomy.given_out(by_layer(now.anatomy.unembedding, normed[nodes]).float())
                owner = np.array([query.contest for query in batch.queries])
                logprobs = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
                np.subtract.at(sums, owner, logprobs.double().cpu().numpy())
                np.logical_and.at(exact, owner, (logits.argmax(-1) == tokens).cpu().numpy())
        if not np.isfinite(sums).all():
            raise ReadingError(f"The output of {now.name} is not finite. Check the weights or the change.")
        about = provenance(now, model)
    n_tokens = np.array([len(one.value) for one in encoded])
    nll = ("example", sums / n_tokens, {"units": "nats"})
    return xr.Dataset({"nll": nll, "n_tokens": ("example", n_tokens), "exact": ("example", exact)}, attrs=about)
