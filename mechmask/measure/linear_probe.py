"""Linear probe: whether old can be told from its distractors by a direction that other facts teach.

The ruler of the editing field beside log-probabilities (arXiv 2609.18985 decodes the old object from hidden states
after an edit). A probe fits something wherever there is data, so a score means nothing by itself: the control that it
can fail is the same probe on facts that were never taught.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from mechmask.errors import ReadingError


def linear_probe(
    features: Float[np.ndarray, "prompt candidate width"], fact: ArrayLike
) -> Float[np.ndarray, " prompt"]:
    """How a ridge probe tells the first candidate of every prompt from the others, learned on the other facts alone.

    Features and targets (1 for the first candidate, 0 for the others) are centred within each prompt, so that only what
    tells candidates apart counts. The penalty is the mean square of the centred features that the probe learns from,
    ``trace(X X') / n``: scaling all features changes nothing, and there is nothing to tune.

    Args:
        features: of every candidate in every prompt; a candidate that a prompt lacks is NaN, the first is never.
        fact: what each prompt is about, ``[prompt]``; a probe never learns from the fact that it is asked about.

    Returns:
        The probe's answer for the first candidate less its mean answer for the others: about 0 where nothing tells it,
        1 where all is told. NaN for a prompt without a second candidate.

    Raises:
        ReadingError: if there are fewer than two facts, or lengths differ.
    """
    facts = np.array(fact)
    if facts.shape != (len(features),):
        raise ReadingError(
            f"A linear probe takes the fact of every prompt: {len(features)} labels, and these are {facts.size}."
        )
    if len(set(facts.tolist())) < 2:
        raise ReadingError("A linear probe of one fact has no other to learn from. Give at least two facts.")
    there = np.asarray(~np.isnan(features).any(-1))
    n_candidates = np.count_nonzero(there, axis=1)[:, None]
    several = n_candidates[:, 0] > 1
    present = np.where(there[..., None], features, 0.0)
    centred = np.where(there[..., None], present - present.sum(1, keepdims=True) / n_candidates[..., None], 0.0)
    target = (np.arange(features.shape[1]) == 0) - 1 / n_candidates
    prompt, candidate = np.nonzero(there & several[:, None])
    rows, wanted, about = centred[prompt, candidate], target[prompt, candidate], facts[prompt]
    products = rows @ rows.T
    answer = np.full(there.shape, np.nan)
    for held_out in np.unique(about):
        learned = np.not_equal(about, held_out)
        kernel = products[np.ix_(learned, learned)]
        penalty = np.trace(kernel) / max(1, len(kernel))
        asked = ~learned
        answer[prompt[asked], candidate[asked]] = 0.0  # what a probe says that learned from no difference
        if penalty > 0:
            weights = np.linalg.solve(kernel + penalty * np.eye(len(kernel)), wanted[learned])
            answer[prompt[asked], candidate[asked]] = products[np.ix_(asked, learned)] @ weights
    others = np.where(there[:, 1:], answer[:, 1:], 0.0).sum(1) / np.maximum(n_candidates[:, 0] - 1, 1)
    return np.where(several, answer[:, 0] - others, np.nan)
