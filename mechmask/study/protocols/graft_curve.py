"""``graft_curve``: how many blocks of a change it takes, counted from the top.

Where patching moves a residual, this moves weights: the blocks above a layer are those of one model, the blocks below
it those of the other, and the contest is read at the output of each such model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, cast

import numpy as np
import xarray as xr

from mechmask.errors import StudyError
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.models.model import Model
from mechmask.models.states import State, Variant
from mechmask.progress import progress_bar
from mechmask.read.logits import read_logits
from mechmask.write.adapter import AdapterChange
from mechmask.write.change import Change
from mechmask.write.graft import graft
from mechmask.write.low_rank import LowRankChange
from mechmask.write.weights import WeightChange

Grafted: TypeAlias = "AdapterChange | WeightChange | LowRankChange"


def graft_curve(
    model: Model | Variant,
    before: AdapterChange | Variant | None,
    after: AdapterChange | WeightChange | LowRankChange | Model | Variant | None,
    facts: FactSet | Sequence[Fact],
    *,
    batch_size: int = 32,
) -> xr.Dataset:
    """The contest when the blocks above a layer come from ``after`` and those below it from ``before``.

    Args:
        model: the base of both, a model or a state of it; it is left as it was. To graft an edit of a fine-tuned model,
            give ``install.on(model)`` here.
        before: an adapter, or the state that has it on; ``None`` for the base itself.
        after: another adapter of the same shape, or the state that has it on; ``None`` for the base itself. Where
            ``before`` is the base, also an edit of it, or another model of its architecture, of which the blocks are
            taken and nothing else.
        facts: the facts.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        ``margin[fact, layer]`` and ``logprob[fact, route, layer]`` in nats, by the divergence score: at layer l the
        blocks l..L-1 are those of ``after``, so that layer 0 is ``after`` itself (another model's blocks between the
        embedding and the unembedding of ``model``) and layer L is ``before`` itself. ``depth`` = layer / L stands
        beside ``layer``.

    Raises:
        StudyError: if both are the base, a state is not of ``model``, or an adapter stands before an edit or another
            model.
        ChangeError: if the two are not of one shape, or not of this model.
    """
    lower, upper = _change_on(model, before), _change_on(model, after)
    if lower is None and upper is None:
        raise StudyError("Before and after are both the base, so nothing is grafted. Give at least one that differs.")
    if lower is not None and not isinstance(lower, AdapterChange):
        raise StudyError("Before is the base or an adapter of it. Pass the edited model as after, and before=None.")
    if lower is not None and isinstance(upper, WeightChange | LowRankChange | Model):
        raise StudyError(
            "An edit or another model is grafted upon the base. Pass before=None; to graft an edit upon an adapter, "
            "pass the adapter's state as the model: graft_curve(adapter.on(model), None, edit, facts)."
        )
    whole = cast("WeightChange", graft(model, upper, range(model.n_layers))) if isinstance(upper, Model) else upper
    layers = np.arange(model.n_layers + 1)
    readings = []
    with progress_bar("graft", len(layers)) as bar:
        for layer in layers.tolist():
            change = _from_above(lower, whole, layer, model.n_layers)
            state = model if change is None else change.on(model)
            reading = read_logits(state, facts, "divergence", batch_size=batch_size)
            readings.append(reading[["logprob", "margin"]])
            bar()
    joined = xr.concat(readings, xr.DataArray(layers, dims="layer", name="layer"), combine_attrs="drop_conflicts")
    ends = {"fingerprint_after": readings[0], "fingerprint_before": readings[-1]}
    return (
        joined.assign_coords(depth=("layer", layers / model.n_layers))
        .transpose("fact", "route", "layer")
        .assign_attrs({name: reading.attrs["fingerprint"] for name, reading in ends.items()}, model=model.name)
    )


def _change_on(model: State, given: Change | State | None) -> Grafted | Model | None:
    """What makes ``given`` of ``model``: a change, another model; ``None`` where it is ``model`` itself."""
    if given is None or given is model:
        return None
    if not isinstance(given, Variant):
        return cast("Grafted | Model", given)
    if given.model is model or _same(given.model, model):
        return cast("Grafted", given.change)
    raise StudyError(
        f"{given.name} is not {model.name} with one change on. Give the state under its last change as the model."
    )


def _same(one: State, other: State) -> bool:
    """Whether two states are one module with the same changes on."""
    if isinstance(one, Variant) and isinstance(other, Variant):
        return one.change is other.change and _same(one.model, other.model)
    return isinstance(one, Model) and isinstance(other, Model) and one.module is other.module


def _from_above(before: AdapterChange | None, after: Grafted | None, layer: int, n_layers: int) -> Change | None:
    """The change with the blocks from ``layer`` on of ``after``; ``None`` where that is the base itself."""
    if layer == 0:
        return after
    if layer == n_layers:
        return before
    if after is None:
        return _part(before, range(layer))
    upper = _part(after, range(layer, n_layers))
    if upper is None or before is None:
        return before or upper
    return graft(before, after, [block for block in after.blocks if block >= layer])


def _part(change: Grafted | None, layers: range) -> Change | None:
    """A change in those of its blocks that lie in ``layers``."""
    blocks = [] if change is None else [block for block in change.blocks if block in layers]
    return graft(None, change, blocks) if change is not None and blocks else None
