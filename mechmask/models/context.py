"""Whether facts fit into a model's context: beyond it some families fail, and others give numbers without meaning."""

from __future__ import annotations

from collections.abc import Sequence

from mechmask.errors import RouteError, one_message
from mechmask.models.model import Model
from mechmask.models.packing import n_read
from mechmask.models.routes import Contest


def require_context(model: Model, contests: Sequence[Contest | None], score: str = "sequence") -> None:
    """Refuse contests that the model cannot read as it was made to.

    Args:
        model: the model.
        contests: what is to be read; ``None`` is passed over.
        score: ``sequence``, ``mean`` or ``divergence``, which reads no further than where old and new part.

    Raises:
        RouteError: listing every fact that is longer than the model's context, or whose routes lie on both sides of
            the length at which the model changes its rotary frequencies, so that they would be read by two models.
    """
    problems = [problem for contest in contests if contest is not None and (problem := _misfit(model, contest, score))]
    if problems:
        raise RouteError(one_message("the lengths of the facts", problems))


def _misfit(model: Model, contest: Contest, score: str) -> str:
    lengths = n_read(contest, score).values()
    limit, threshold = model.max_tokens, model.rope_threshold
    if limit is not None and max(lengths) > limit:
        return (
            f"Fact {contest.fact_id!r} takes {max(lengths)} tokens with its longest value and {model.name} reads "
            f"{limit} at most. Shorten the prompt."
        )
    if threshold is not None and min(lengths) <= threshold < max(lengths):
        return (
            f"The values of fact {contest.fact_id!r} end on both sides of token {threshold}, beyond which {model.name} "
            "changes its rotary frequencies, so they cannot be compared. Shorten or lengthen the prompt."
        )
    return ""
