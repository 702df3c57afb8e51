"""What the paper could not rule out: a stronger fine-tune that erases, and a verdict that hangs on precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import xarray as xr

from mechmask.measure.normalised import group_normalised
from mechmask.measure.precision import FINEST_FIRST
from mechmask.measure.verdict import MARGIN_SHARE
from mechmask.study.draws import DrawnResults
from mechmask.study.findings.finding import Claim, Measured
from mechmask.study.findings.masking import of_taken


def _left(results: DrawnResults, pick: Callable[[xr.Dataset], int]) -> Measured:
    erase = results.erase
    one = erase.isel(state=pick(erase))
    found = of_taken(group_normalised, one)
    return found._replace(note=", ".join(filter(None, [f"at {one.state.item()}", found.note])))


def _strongest(erase: xr.Dataset) -> int:
    """The training that takes the most of logp(old); not by the index, which a training that harms controls lowers."""
    return int(np.argmax(erase["drop"].mean("fact").values))


def _coarsest(erase: xr.Dataset) -> int:
    return int(np.argmax([FINEST_FIRST.index(state) for state in erase.state.values.tolist()]))


CLAIMS = [
    Claim(
        *(1, "dose", "known", "a stronger fine-tune masks as well", "not run there"),
        *("EI* of the group under the training that takes the most", "ratio", partial(_left, pick=_strongest)),
        below=1 - MARGIN_SHARE,
    ),
    Claim(
        *(1, "precision", "known", "the old values are masked in coarse weights too", "not run there"),
        *("EI* of the group with the weights in the coarsest type", "ratio", partial(_left, pick=_coarsest)),
        below=1 - MARGIN_SHARE,
    ),
]
