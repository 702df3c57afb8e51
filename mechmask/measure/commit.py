"""Commit layer: the depth from which a route leads for good (paper 2F, finding 5).

Works on labelled readings only; how the reading was made (which lens, which backend) is in its attrs.
"""

from __future__ import annotations

import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.reading import require, require_every_layer


def commit_layer(depth: xr.Dataset, route: str = "new") -> xr.DataArray:
    """First layer from which ``route`` leads at that layer and at every later one.

    Args:
        depth: reading with ``logprob[fact, route, layer]`` in nats.
        route: the route whose commitment is located.

    Returns:
        ``[fact]``, a layer in 0..L, NaN where the route does not lead at L; a tie is not a lead. Further dimensions,
        such as ``step``, stay.

    Raises:
        ReadingError: if ``route`` is not among the reading's routes, or the reading lacks one of the layers 0..L.

    Examples:
        >>> import xarray as xr
        >>> logprob = [[[-1.0, -2.0, -3.0], [-2.0, -1.0, -0.5]]]  # old, then new, at layers 0 to 2
        >>> coordinates = {"fact": ["mass"], "route": ["old", "new"], "layer": [0, 1, 2]}
        >>> depth = xr.Dataset({"logprob": (("fact", "route", "layer"), logprob)}, coordinates)
        >>> commit_layer(depth).values
        array([1.])
    """
    require(depth, "The commit layer", variables=("logprob",), dims=("fact", "route", "layer"))
    if route not in depth.route.values:
        raise ReadingError(f"This reading has no route {route!r}. It has {', '.join(map(str, depth.route.values))}.")
    require_every_layer(depth, "The commit layer")
    return leads_from(lead(depth.logprob, route)).rename("commit_layer")


def lead(logprob: xr.DataArray, route: str = "new") -> xr.DataArray:
    """By how many nats a route leads the best of all others; negative where it does not.

    Args:
        logprob: ``[fact, route]`` in nats; further dimensions, such as ``layer``, stay.
        route: the route.

    Returns:
        ``[fact]`` in nats.
    """
    return logprob.sel(route=route, drop=True) - logprob.drop_sel(route=route).max("route")


def leads_from(margin: xr.DataArray) -> xr.DataArray:
    """First layer from which on a margin is above zero.

    Args:
        margin: ``[fact, layer]`` in nats.

    Returns:
        ``[fact]``, a layer in 0..L, NaN where the margin is not above zero at L.
    """
    leads = (margin > 0).isel(layer=slice(None, None, -1)).cumprod("layer").astype(bool)
    return margin.layer.where(leads).min("layer")


def suffices_up_to(margin: xr.DataArray) -> xr.DataArray:
    """Last layer up to which a margin is above zero.

    Args:
        margin: ``[fact, layer]`` in nats.

    Returns:
        ``[fact]``, a layer in 0..L, NaN where the margin is not above zero at layer 0.
    """
    suffices = (margin > 0).cumprod("layer").astype(bool)
    return margin.layer.where(suffices).max("layer")
