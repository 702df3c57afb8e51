"""``read_trajectory``: the contest at the output, and where asked at every layer, along the states of a run.

What a run that ended long ago looked like while it trained: its checkpoints are read like any other state
(``mechmask.load_checkpoints``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.trajectory import along_steps
from mechmask.models.model import Model
from mechmask.models.states import Variant
from mechmask.progress import progress_bar
from mechmask.read.backends import BackendName
from mechmask.read.depth import read_depth
from mechmask.read.lenses.lens import Lens
from mechmask.read.logits import read_logits
from mechmask.read.scoring.contests import Facts, Phrasings, facts_of
from mechmask.read.scoring.labels import Score

States = Mapping[int, Model | Variant]
"""States of one run by optimizer step, as ``load_checkpoints`` gives them."""


def read_trajectory(
    states: States,
    facts: Facts,
    score: Score = "sequence",
    *,
    phrasings: Phrasings = "prompt",
    batch_size: int = 32,
    progress: bool = True,
) -> xr.Dataset:
    """``read_logits`` of every state, along ``step``: what ``mechmask.draw.trajectory`` draws.

    Args:
        states: by optimizer step.
        facts: as in ``read_logits``.
        score: as in ``read_logits``.
        phrasings: as in ``read_logits``.
        batch_size: prompts per forward pass; affects memory only.
        progress: whether a bar shows how far it is.

    Returns:
        ``logprob[step, fact, route]`` in nats and what else ``read_logits`` gives, each along ``step``;
        ``fingerprint[step]`` is that of the state.

    Raises:
        ReadingError: if there is no state, or a reading disagrees with its model's own output.
        FactError: listing every problem of the facts in one message.
        RouteError: if a value cannot be told from the prompt or from its rival.
        ChangeError: if a state's change cannot be put on its model.
    """
    contested = facts_of(facts)
    return _along(
        states,
        lambda state: read_logits(state, contested, score, phrasings=phrasings, batch_size=batch_size),
        progress,
    )


def read_depth_trajectory(
    states: States,
    facts: Facts,
    lens: str | Lens = "logit",
    score: Score = "divergence",
    backend: BackendName = "transformer_lens",
    *,
    batch_size: int = 32,
    progress: bool = True,
) -> xr.Dataset:
    """``read_depth`` of every state, along ``step``: what ``mechmask.draw.checkpoints`` draws, layers by checkpoints.

    Args:
        states: by optimizer step.
        facts: as in ``read_depth``.
        lens: as in ``read_depth``; one that was fitted belongs to the model that it was fitted to.
        score: as in ``read_depth``.
        backend: as in ``read_depth``.
        batch_size: prompts per forward pass; affects memory only.
        progress: whether a bar shows how far it is.

    Returns:
        ``logprob[step, fact, route, layer]`` and ``margin[step, fact, layer]`` in nats; ``fingerprint[step]``.

    Raises:
        ReadingError: as ``read_trajectory``, or if lens or backend are not known.
        FactError: as ``read_trajectory``.
        RouteError: as ``read_trajectory``.
        ChangeError: as ``read_trajectory``.
    """
    contested = facts_of(facts)
    return _along(
        states, lambda state: read_depth(state, contested, lens, score, backend, batch_size=batch_size), progress
    )


def _along(states: States, read: Callable[[Model | Variant], xr.Dataset], progress: bool) -> xr.Dataset:
    if not states:
        raise ReadingError("There is no state to read. Give the states of a run by step, as load_checkpoints does.")
    readings = {}
    with progress_bar("reading", len(states), shown=progress) as tick:
        for step in sorted(states):
            readings[step] = read(states[step])
            tick(f"step {step}")
    return along_steps(readings)
