"""Every reading proves itself: one route is read again by the model's own plain forward pass, and has to agree.

The plain pass shares nothing with the reading: no packing, no mask, no chunked vocabulary, no hook, no lens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechmask.errors import ReadingError
from mechmask.models.model import Model
from mechmask.models.routes import Contest
from mechmask.read.scoring.table import RouteTable

# Nats a token. Sound readings of twelve tiny architectures and of SmolLM2-135M stay below 1e-4 in float32 and 0.04 in
# bfloat16 (the model rounds its logits, a reading does not). Broken on purpose: a skipped norm or softcap 0.07 and
# more, routes that see each other 0.006 to 0.08: a leak of the mask shows in float32, not surely in half precision.
TOLERANCE_NATS = {torch.float64: 5e-4, torch.float32: 5e-4, torch.float16: 0.05, torch.bfloat16: 0.25}


def require_identity(model: Model, contests: Sequence[Contest | None], table: RouteTable) -> float:
    """Refuse a reading that differs from the model's own output at the last layer; return the error in nats a token.

    Args:
        model: what was read.
        contests: the contests that were read, numbered as in ``table``.
        table: the reading.

    Raises:
        ReadingError: if the error passes the tolerance for the model's dtype, or any number read is NaN.
    """
    at_output = table.logprob if table.logprob.ndim == 2 else table.logprob[..., -1]
    unread = [i for i, row in enumerate(at_output) if not (row == row).all()]
    if unread:
        raise _not_a_number(model, contests, unread)
    contest, route, index = _probe(contests, table)
    cell = table.cell(index, route)
    first, n = int(table.first_token[cell]), int(table.n_tokens[cell])
    own = _plain_logprob(model, contest.prompt, contest.routes[route], first, n)
    error = abs(own - float(at_output[cell])) / n
    if not error <= TOLERANCE_NATS[model.dtype]:
        raise ReadingError(
            f"The reading of fact {contest.fact_id!r} does not agree with the model's own output ({route}: "
            f"{at_output[cell]:.4f} against "
            f"{own:.4f} nats, {error:.2g} a token where {TOLERANCE_NATS[model.dtype]:g} is allowed), so no number "
            "of it can be trusted. "
            "Check that the model's family is built as mechmask.models.anatomy says."
        )
    return error


def require_margin(model: Model, contests: Sequence[Contest | None], margins: np.ndarray) -> float:
    """Refuse margins at the output that differ from the model's own logits; return the error in nats.

    Args:
        model: what was read.
        contests: the contests that were read.
        margins: logit of new less logit of old where they diverge, in nats ``[contest]``.

    Raises:
        ReadingError: if the error passes the tolerance for the model's dtype, or any margin is NaN.
    """
    unread = [i for i, contest in enumerate(contests) if contest is not None and np.isnan(margins[i])]
    if unread:
        raise _not_a_number(model, contests, unread)
    length, index = max((len(contest.prompt), i) for i, contest in enumerate(contests) if contest is not None)
    contest = contests[index]
    if contest is None or not length:
        raise ReadingError("Nothing was read. Give facts whose prompts have tokens.")
    old, new = (contest.routes[route] for route in ("old", "new"))
    n = contest.n_common
    logits = _plain_logits(model, contest.prompt + old[:n], 1)[0]
    own = (logits[new[n]] - logits[old[n]]).item()
    error = abs(own - float(margins[index]))
    if not error <= 2 * TOLERANCE_NATS[model.dtype]:
        raise ReadingError(
            f"The margin of fact {contest.fact_id!r} does not agree with the model's own output ({margins[index]:.4f} "
            f"against {own:.4f} nats), so no number of it can be trusted. Check that the model's family is built "
            "as mechmask.models.anatomy says."
        )
    return error


def _not_a_number(model: Model, contests: Sequence[Contest | None], unread: Sequence[int]) -> ReadingError:
    """Names the first fact that is NaN by itself: a NaN reaches every fact that shares its row."""
    found = [contest for i in unread if (contest := contests[i]) is not None]
    source = found[0]
    for contest in found:
        alone = [_plain_logprob(model, contest.prompt, ids, 0, len(ids)) for ids in contest.routes.values()]
        if np.isnan(alone).any():
            source = contest
            break
    return ReadingError(
        f"The model's log-probabilities of fact {source.fact_id!r} are NaN. Check its weights, or its dtype, before it "
        "is read."
    )


def _probe(contests: Sequence[Contest | None], table: RouteTable) -> tuple[Contest, str, int]:
    """The last route of the longest contest: the row in which a wrong mask or position would show most."""
    length, index = max((len(contest.prompt), i) for i, contest in enumerate(contests) if contest is not None)
    contest = contests[index]
    if contest is None or not length:
        raise ReadingError("Nothing was read. Give facts whose prompts have tokens.")
    return contest, [route for route in contest.routes if table.n_tokens[table.cell(index, route)]][-1], index


def _plain_logprob(model: Model, prompt: tuple[int, ...], value: tuple[int, ...], first: int, n: int) -> float:
    logits = _plain_logits(model, prompt + value[: first + n - 1], n)
    tokens = torch.tensor(value[first : first + n], device=logits.device)
    return logits.log_softmax(-1).gather(1, tokens[:, None]).sum().item()


def _plain_logits(model: Model, ids: tuple[int, ...], n: int) -> Float[Tensor, "token vocabulary"]:
    """What the model's own forward pass says after each of the last ``n`` tokens."""
    with model.inference():
        tokens = torch.tensor([ids], device=model.device)
        return model.module(input_ids=tokens, use_cache=False, logits_to_keep=n).logits[0].float()
