"""Whether mechmask reads a model rightly: every reading held against the model's own output, one line each.

A family that is not known, a module that someone rewrote, weights of an odd type: what would go wrong shows here before
it shows in a result. Behind ``mechmask doctor MODEL``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
import xarray as xr

from mechmask.errors import ChangeError, MechmaskError, ReadingError, WeightsError
from mechmask.facts.fact_set import FactSet
from mechmask.models.model import Model
from mechmask.models.writable import require_writable
from mechmask.read.attribute import attribute
from mechmask.read.backends import BackendName
from mechmask.read.depth import read_depth
from mechmask.read.logits import read_logits
from mechmask.read.patch import patch_residual
from mechmask.read.scoring.check import TOLERANCE_NATS
from mechmask.write.low_rank import LowRankChange, low_rank_change


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    Attributes:
        name: what.
        passed: whether it holds.
        error_nats: by how much it is off, in nats; NaN where there is nothing to compare, or it was refused.
        tolerance_nats: how much it may be off, in nats.
        why: what was said where it does not hold.
        is_needed: whether readings are wrong without it; else something is merely not offered for this model, such as
            what needs gradients or writes weights of one that is quantised or offloaded.
    """

    name: str
    passed: bool
    error_nats: float
    tolerance_nats: float
    why: str = ""
    is_needed: bool = True


def prove(model: Model, facts: FactSet) -> list[Check]:
    """Try every kind of reading and a change on a model; it is left as it was.

    Args:
        model: the model.
        facts: what is read, a few facts.

    Returns:
        The output; every layer by each backend, the backends against each other, and the lens at layer L against the
        output; the sum of attributions by each backend; the ends of a patch; a change that is undone to the bit; and
        whether editors find a projection to write into.
    """
    return list(_checks(model, facts))


def _checks(model: Model, facts: FactSet) -> Iterator[Check]:
    tolerance, backends = TOLERANCE_NATS[model.dtype], get_args(BackendName)
    readings: dict[str, xr.Dataset] = {}

    def kept(name: str, read: Callable[[], xr.Dataset]) -> float:
        readings[name] = read()
        return readings[name].check_error_nats

    yield _tried("output", tolerance, lambda: kept("output", lambda: read_logits(model, facts, "divergence")))
    for backend in backends:
        yield _tried(
            f"every layer by {backend}",
            tolerance,
            lambda backend=backend: kept(backend, lambda: read_depth(model, facts, backend=backend)),
        )
    if all(backend in readings for backend in backends):
        first, *others = (readings[backend].logprob for backend in backends)
        yield _tried("backends agree", tolerance, lambda: max(_apart(first, other) for other in others))
    for backend in backends:
        if backend in readings and "output" in readings:
            last = readings[backend].logprob.isel(layer=-1, drop=True)
            yield _tried(
                f"lens at layer L by {backend}",
                tolerance,
                lambda last=last: _apart(last, readings["output"].logprob),
            )
    for backend in backends:
        summed = _tried(
            f"attributions sum, by {backend}",
            2 * tolerance,
            lambda backend=backend: attribute(model, facts, backend=backend).check_error_nats,
        )
        yield replace(summed, is_needed=summed.is_needed and not model.anatomy.layout.adds_more)
    yield _tried("patch ends", 2 * tolerance, lambda: _patch_ends(model, facts))
    yield _tried("change undone", 0.0, lambda: _undone(model, facts))
    yield replace(_tried("projection for editors", 0.0, lambda: _has_projection(model)), is_needed=False)


def _tried(name: str, tolerance: float, check: Callable[[], float]) -> Check:
    try:
        error = float(check())
    except WeightsError as error:  # a quantised or offloaded model does not offer it
        return Check(name, False, float("nan"), tolerance, str(error), is_needed=False)
    except MechmaskError as error:
        return Check(name, False, float("nan"), tolerance, str(error))
    except Exception as error:  # whatever a library says of a model that it does not know
        first = (str(error).strip().splitlines() or [""])[0]
        return Check(name, False, float("nan"), tolerance, f"{type(error).__name__}: {first}")
    return Check(name, error <= tolerance, error, tolerance, "" if error <= tolerance else "off by more than allowed")


def _apart(one: xr.DataArray, other: xr.DataArray) -> float:
    if not np.array_equal(np.isnan(one), np.isnan(other)):
        return float("inf")
    return float(abs(one - other).max())


def _patch_ends(model: Model, facts: FactSet) -> float:
    """A change in one block is the source: at layer 0 the target reads as itself, at layer L as the source."""
    changed = _nudge(model).on(model)
    patched = patch_residual(changed, model, facts, progress=False)
    at_ends = patched.margin.isel(layer=0), patched.margin.isel(layer=-1)
    apart = abs(at_ends[0] - patched.margin_target), abs(at_ends[1] - patched.margin_source)
    if not float(abs(patched.margin_source - patched.margin_target).max()) > 0:
        raise ReadingError("The change that was tried moves no margin, so the ends of a patch say nothing.")
    return float(max(end.max() for end in apart))


def _undone(model: Model, facts: FactSet) -> float:
    before, logits = model.fingerprint, read_logits(model, facts).logprob
    change = _nudge(model)
    with change.applied(model):
        if model.fingerprint == before:
            raise ChangeError("A change that was put on left the model's weights as they were.")
    if model.fingerprint != before:
        raise ChangeError("A change that was taken off left other weights behind.")
    return _apart(read_logits(model, facts).logprob, logits)


def _nudge(model: Model) -> LowRankChange:
    """A change of rank one of the attention output in the middle block of those that have one."""
    require_writable(model, "A change of weights")
    attends = model.anatomy.attends
    projection = model.anatomy.attention_output(attends[len(attends) // 2])
    generator = torch.Generator().manual_seed(0)
    rows, columns = projection.weight.shape
    n_out, n_in = (columns, rows) if projection.input_first else (rows, columns)
    scale = float(projection.weight.detach().float().norm()) / (n_out * n_in) ** 0.5
    out, into = (torch.randn(shape, generator=generator) for shape in ((n_out, 1), (1, n_in)))
    factors = {f"{projection.name}.weight": (scale * out, into)}
    return low_rank_change(model, factors, "nudge", {})


def _has_projection(model: Model) -> float:
    require_writable(model, "An editor")
    model.anatomy.mlp_output(0)
    return 0.0
