"""How far a lens is from the model at each layer: the divergence on text that no lens was fitted on.

A reading by layer is worth what its lens is; this figure stands beside it.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mechmask.draw.band import Band, draw_band, require_shape
from mechmask.draw.layers import depth_axis
from mechmask.draw.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Drawing,
    Look,
    entries_of,
    legend_below,
    plain,
    styled,
)
from mechmask.errors import ReadingError
from mechmask.measure.reading import require

_WHAT = "The lens quality figure"
_FLOOR_NATS = 1e-4  # below it a divergence is float32 noise: at L, where a lens is the model, it is 0 or about 1e-7
_LOOKS = (
    Look(BLUE, "-", "o"),
    Look(VERMILION, (0, (5, 1.5)), "s"),
    Look(GREEN, (0, (4, 1.2, 1, 1.2)), "^"),
    Look(PURPLE, (0, (1, 1)), "D"),
    Look(ORANGE, (0, (7, 2, 1, 2, 1, 2)), "v"),
    Look(SKY, (0, (2.5, 1.8)), "P"),
    Look(BLACK, (0, (8, 2)), "X"),
)


def lens_quality(report: xr.Dataset) -> Figure:
    """Held-out divergence of each lens from the model's output, by layer, on a logarithmic axis.

    Args:
        report: ``kl[lens, layer]``, the mean KL divergence in nats from the model's output to the lens's; drawn where
            there: ``kl_low`` and ``kl_high`` of the same shape, and the attributes ``level``, ``n_tokens`` and
            ``n_sequences``.

    Returns:
        The figure. Values under 0.0001 nats cannot stand on the axis and are counted in the legend.

    Raises:
        ReadingError: if the report lacks ``kl``, has other dimensions, a negative divergence, or more lenses than there
            are line styles.
    """
    _check(report)
    report = report.sortby("layer")
    bands = {str(name): _band(report.isel(lens=i)) for i, name in enumerate(report.lens.values)}
    with styled():
        figure = Drawing(4.4, 3.6)
        axes = figure.subplots()
        for (name, band), look in zip(bands.items(), _LOOKS, strict=False):
            draw_band(axes, band, look, plain(name))
        axes.set_yscale("log")
        _limit(axes, bands)
        depth_axis(axes, report)
        axes.set_xlabel("layer")
        axes.set_ylabel("held-out KL from output to lens (nats)")
        legend_below(figure, entries_of([axes]), _note(report), 2)
    return figure


def _check(report: xr.Dataset) -> None:
    require(report, _WHAT, variables=("kl",), dims=("lens", "layer"))
    for name in ("kl", "kl_low", "kl_high"):
        if name in report:
            require_shape(report, _WHAT, name, ("lens", "layer"))
    if report.sizes["lens"] > len(_LOOKS):
        raise ReadingError(
            f"{_WHAT} tells {len(_LOOKS)} lenses apart, this report has {report.sizes['lens']}. Select some of them."
        )
    if (report.kl < -_FLOOR_NATS).any():
        raise ReadingError(f"{_WHAT} found a negative KL of {float(report.kl.min()):.3g} nats. Give divergences.")


def _band(report: xr.Dataset) -> Band:
    """A lens by layer; what a logarithmic axis cannot show is NaN."""
    kl = report.kl.values.astype(float)
    drawn = np.isfinite(kl) & (kl >= _FLOOR_NATS)
    low, high = (
        np.where(drawn, np.maximum(report[name].values, _FLOOR_NATS), np.nan)
        if name in report
        else np.full_like(kl, np.nan)
        for name in ("kl_low", "kl_high")
    )
    return Band(report.layer.values, np.where(drawn, kl, np.nan), low, high, drawn.astype(int), int(np.isinf(kl).sum()))


def _limit(axes: Axes, bands: dict[str, Band]) -> None:
    """Room around the values, and a whole decade at least: within less, an axis has hardly a number on it."""
    values = np.concatenate([edge for band in bands.values() for edge in (band.estimate, band.low, band.high)])
    values = values[np.isfinite(values)]
    low, high = (values.min() / 1.3, values.max() * 1.3) if values.size else (_FLOOR_NATS, 1.0)
    widen = max(1.0, np.sqrt(10 / (high / low)))
    axes.set_ylim(low / widen, high * widen)


def _note(report: xr.Dataset) -> str:
    n_tokens = f" (n = {int(report.attrs['n_tokens']):,} tokens)" if "n_tokens" in report.attrs else ""
    said = [f"line: mean over held-out tokens{n_tokens}"]
    if {"kl_low", "kl_high"} <= set(report.variables):
        level = f"{100 * report.attrs['level']:g}% " if "level" in report.attrs else ""
        sequences = f" over {int(report.attrs['n_sequences']):,} sequences" if "n_sequences" in report.attrs else ""
        said.append(f"band: its {level}interval{sequences}")
    kl = report.kl.values
    small, missing = int((kl < _FLOOR_NATS).sum()), int((~np.isfinite(kl)).sum())
    if small:
        said.append(f"{small} value{'s' * (small != 1)} under {_FLOOR_NATS:g} nats not drawn (the output itself)")
    if missing:
        said.append(f"{missing} value{'s' * (missing != 1)} not finite, not drawn")
    return "\n".join(said)
