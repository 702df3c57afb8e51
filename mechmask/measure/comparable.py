"""Which contradicted facts may be compared once they are masked: old was there before, and the correction took."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mechmask.measure.reading import require
from mechmask.measure.verdict import took


def comparable_facts(before: xr.Dataset, masked: xr.Dataset) -> xr.Dataset:
    """What is known of every contradicted fact before it is asked or taught again.

    Args:
        before: output reading before the contradiction, ``logprob[fact, phrasing, route]`` in nats and
            ``recalled[fact, phrasing, route]``.
        masked: the same after it.

    Returns:
        ``known`` (old is recalled by the prompt before), ``took`` (new leads there after) and ``compared`` (both), all
        ``[fact]`` and boolean, over the contradicted facts.

    Raises:
        ReadingError: if a reading lacks one of these.
    """
    for name, reading in (("before", before), ("masked", masked)):
        variables, dims = ("logprob", "recalled", "role"), ("fact", "phrasing", "route")
        require(reading, f"What can be compared ({name})", variables=variables, dims=dims)
    prompts = [reading.sel(phrasing=0, drop=True) for reading in (before, masked)]
    variables = {"known": prompts[0].recalled.sel(route="old", drop=True).astype(bool), "took": took(prompts[1])}
    parts = xr.Dataset({name: variable.reset_coords(drop=True) for name, variable in variables.items()})
    parts = parts.isel(fact=np.flatnonzero(parts.fact.isin(_contradicted(before)).values))
    return parts.assign(compared=parts.known & parts.took)


def _contradicted(reading: xr.Dataset) -> np.ndarray:
    return reading.fact.values[reading.role.values == "contradicted"]
