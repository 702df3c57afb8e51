"""Linear probe: whether old can be told from its distractors by a direction that other facts teach.

The ruler of the editing field beside log-probabilities (arXiv 2609.18985 decodes the old object from hidden states
after an edit). A probe fits something wherever there is data, so a score means nothing by itself: the control that it
can fail is the same probe on facts that were never taught.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy import linalg

from mechmask.errors import ReadingError


def linear_probe(
    features: Float[np.ndarray, "prompt candidate width"], fact: ArrayLike, value: ArrayLike | None = None
) -> Float[np.ndarray, " prompt"]:
    """How a ridge probe tells the first candidate of every prompt from the others, learned on the other facts alone.

    Features and targets (1 for the first candidate, 0 for the others) are centred within each prompt, so that only what
    tells candidates apart counts. The penalty is the mean square of the centred features that the probe learns from,
    ``trace(X X') / n``: scaling all features changes nothing, and there is nothing to tune.

    Args:
        features: of every candidate in every prompt; a candidate that a prompt lacks is NaN, the first is never.
        fact: what each prompt is about, ``[prompt]``; a probe never learns from the fact that it is asked about.
        value: what each candidate is, ``[prompt, candidate]``; a probe never learns from a candidate whose value is
            among those of the fact that it is asked about, nor from a prompt whose first candidate is. Without it a
            value that is right for one fact and wrong for many would count as wrong by itself, knowledge or none.

    Returns:
        The probe's answer for the first candidate less its mean answer for the others: about 0 where nothing tells it,
        and the nearer to 1 the more of it is told, in more prompts. NaN for a prompt without a second candidate.

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
    said = np.arange(there.size).reshape(there.shape) if value is None else np.asarray(value)
    shifted = _less_their_mean(features.astype(float), there)
    rows = shifted.reshape(-1, features.shape[-1])
    gram = (rows @ rows.T).reshape(*there.shape, *there.shape)  # of it all probes are made
    scores = np.full(len(features), np.nan)
    for held_out in np.unique(facts):
        asked = np.equal(facts, held_out)
        usable = there & ~np.isin(said, said[asked][there[asked]]) & ~asked[:, None]
        usable &= usable[:, :1] & (np.count_nonzero(usable, axis=1) > 1)[:, None]
        prompt, candidate = np.nonzero(usable)
        answer = np.zeros((np.count_nonzero(asked), there.shape[1]))  # of a probe that learned from no difference
        if len(prompt):
            within = np.equal.outer(prompt, prompt) / np.count_nonzero(usable, axis=1)[prompt]
            centring = np.eye(len(prompt)) - within
            kernel = centring @ gram[prompt, candidate][:, prompt, candidate] @ centring
            penalty = np.trace(kernel) / len(kernel)
            if penalty > 0:
                wanted = centring @ (candidate == 0)
                dual = linalg.solve(kernel + penalty * np.eye(len(kernel)), wanted, assume_a="pos")
                answer = gram[asked][:, :, prompt, candidate] @ (centring @ dual)
        answer = np.where(there[asked], answer, np.nan)
        n_others = np.count_nonzero(there[asked][:, 1:], axis=1)
        others = np.nansum(answer[:, 1:], axis=1) / np.where(n_others, n_others, np.nan)
        scores[asked] = answer[:, 0] - others
    return scores


def _less_their_mean(
    features: Float[np.ndarray, "prompt candidate width"], there: Bool[np.ndarray, "prompt candidate"]
) -> Float[np.ndarray, "prompt candidate width"]:
    """Every candidate less the mean of its prompt, 0 where there is none: what all have in common tells nothing."""
    zeroed = np.where(there[..., None], features, 0.0)
    mean = zeroed.sum(1, keepdims=True) / np.count_nonzero(there, axis=1)[:, None, None]
    return np.where(there[..., None], zeroed - mean, 0.0)
