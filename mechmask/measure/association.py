"""How two numbers of a fact go together: Pearson's and Spearman's correlation side by side, each with its interval."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.correlation import pearson, spearman

CORRELATIONS = {"pearson": pearson, "spearman": spearman}


def association(x: xr.DataArray, y: xr.DataArray, level: float = 0.95, *, cluster: str | None = None) -> xr.Dataset:
    """Both correlations of two numbers over facts.

    Args:
        x: ``[fact]``.
        y: ``[fact]``, aligned with ``x`` by label.
        level: of the intervals.
        cluster: coordinate of ``fact`` that says which facts were drawn and trained together, such as ``seed``.

    Returns:
        ``estimate``, ``low``, ``high`` and ``p_value`` ``[correlation]``, ``pearson`` and ``spearman``; the counts
        ``n`` of facts that have both numbers and ``n_clusters``; a correlation is without unit.

    Raises:
        ReadingError: if one of the two is not over facts alone, they share no fact, or the cluster is not on them.
    """
    for array in (x, y):
        if array.dims != ("fact",):
            raise ReadingError(f"A correlation is over facts; this array has {', '.join(map(str, array.dims))}.")
    x, y = xr.align(x, y, join="inner")
    if not x.sizes["fact"]:
        raise ReadingError("The two numbers are of different facts. Give two of the same facts.")
    if cluster is not None and cluster not in x.coords:
        raise ReadingError(f"These facts have no coordinate {cluster!r} to say which were drawn together. Add it.")
    there = np.isfinite(x.values.astype(float)) & np.isfinite(y.values.astype(float))
    drawn = None if cluster is None else x[cluster].values[there]
    found = {
        name: of(x.values[there].astype(float), y.values[there].astype(float), level, cluster=drawn)
        for name, of in CORRELATIONS.items()
    }
    fields = ("estimate", "low", "high", "p_value", "n", "n_clusters")
    columns = {field: ("correlation", [getattr(one, field) for one in found.values()]) for field in fields}
    return xr.Dataset(columns, {"correlation": list(found)}, {"level": level})
