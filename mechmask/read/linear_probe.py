"""``read_linear_probe``: whether a linear probe tells the old value from its distractors, at every layer.

What is probed is the residual stream at the last token of each candidate value, said after the prompt: there a model
that knows the fact has met a value that it expected, or one that it did not.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr
from jaxtyping import Float

from mechmask.errors import ReadingError
from mechmask.measure.linear_probe import linear_probe
from mechmask.models.model import Model
from mechmask.models.routes import Contest
from mechmask.models.states import Variant, active
from mechmask.read.backends import Backend, BackendName, backend_of
from mechmask.read.scoring.contests import ContestSet, Facts, Phrasings
from mechmask.read.scoring.labels import layer_coordinates, provenance, route_names


def read_linear_probe(
    model: Model | Variant,
    facts: Facts,
    *,
    phrasings: Phrasings = "prompt",
    backend: BackendName | Backend = "transformer_lens",
    batch_size: int = 32,
) -> xr.Dataset:
    """A linear probe for the old value of every fact, learned on the other facts (``measure/linear_probe.py``).

    Args:
        model: a model or a state (``change.on(model)``).
        facts: a fact set, facts, mappings with their fields, a pandas table, or the path of a fact file; at least two,
            with distractors. New values play no part.
        phrasings: ``prompt``, or ``all`` to learn and to ask in all phrasings; the mean over them is returned.
        backend: who watches the residual stream.
        batch_size: prompts per forward pass. Residuals of all prompts, values and layers are held at once, in float32.

    Returns:
        ``probe[fact, layer]``, layers 0..L with ``depth`` beside them: about 0 where the probe cannot tell old from its
        distractors, the nearer to 1 the more it can. By itself a score says little; hold it against the same facts
        where they were never taught.

    Raises:
        FactError: listing every problem of the facts in one message.
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ReadingError: if there are fewer than two facts, one lacks distractors, or the backend was made over another
            model.
        ChangeError: if a state's change was made on another model.
    """
    with active(model) as now, now.inference():
        contests, watcher = ContestSet.of(now, facts, phrasings), backend_of(backend, now)
        features = _at_values(now, contests, watcher, batch_size)
        about = np.array([fact for fact, _ in contests.places])
        values = np.array([[contests.facts[fact].values.get(name, "") for name in _names(contests)] for fact in about])
        layers = [linear_probe(layer.astype(float), about, values) for layer in features]
        scores = contests.fold(np.stack(layers, axis=-1))  # [fact, layer] or [fact, phrasing, layer]
        probe = np.nanmean(scores, axis=1) if contests.n_phrasings else scores
        coordinates = {**contests.coordinates, **layer_coordinates(now.n_layers)}
        coordinates.pop("phrasing", None)
        reading = xr.Dataset({"probe": (("fact", "layer"), probe)}, coordinates)
        return reading.assign_attrs(provenance(now, model, backend=watcher.name))


def _at_values(
    model: Model, contests: ContestSet, watcher: Backend, batch_size: int
) -> Float[np.ndarray, "layer contest candidate width"]:
    """The residual stream at the last token of old and of every distractor; NaN where a fact has no such route."""
    names = _names(contests)
    lacking = [contest.fact_id for contest in contests if len(contest.routes) < 3]
    if lacking:
        raise ReadingError(
            f"A linear probe tells old from distractors, and {lacking[0]!r} has none ({len(set(lacking))} such facts). "
            "Give the facts distractors."
        )
    read = replace(contests, contests=tuple(_one_longer(contest) for contest in contests))
    features = np.full((model.n_layers + 1, len(contests), len(names), model.width), np.nan, dtype=np.float32)
    for batch in read.batches(model, "sequence", batch_size):
        residuals = watcher.residuals(batch).float().cpu().numpy()
        for query in batch.queries:
            if query.route != "new" and query.index == len(contests[query.contest].routes[query.route]):
                features[:, query.contest, names.index(query.route)] = residuals[:, query.node]
    return features


def _names(contests: ContestSet) -> list[str]:
    """The routes that are candidates, old first."""
    return [name for name in route_names(contests.facts) if name != "new"]


def _one_longer(contest: Contest) -> Contest:
    """The contest with one token more on every route, which nobody reads: a route's last token is not run otherwise."""
    return replace(contest, routes={name: (*ids, ids[-1]) for name, ids in contest.routes.items()})
