"""How far a lens is from the model at each layer: the divergence on text that no lens was fitted on.

A reading by layer is worth what its lens is; this figure stands beside it.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mechmask.draw.band import Band, draw_band, entries_of
from mechmask.draw.canvas import AxesLike, Canvas, Width
from mechmask.draw.check import require_shape
from mechmask.draw.layers import depth_axis, span_layers
from mechmask.draw.palette import Palette
from mechmask.draw.style import SERIES, count, plain
from mechmask.errors import ReadingError
from mechmask.measure.reading import require

_WHAT = "The lens quality figure"
_FLOOR_NATS = 1e-4  # below it a divergence is float32 noise: at L, where a lens is the model, it is 0 or about 1e-7


def lens_quality(
    report: xr.Dataset,
    *,
    ax: Axes | None = None,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Held-out divergence of each lens from the model's output, by layer, on a logarithmic axis.

    Args:
        report: ``kl[lens, layer]``, the mean KL divergence in nats from the model's output to the lens's. Drawn too
            if the report has them: ``kl_low`` and ``kl_high`` of the same shape, and the attributes ``level``,
            ``n_tokens`` and ``n_sequences``.
        ax: a panel to draw into; without it a new figure is made.
        axes: the same, by the name that it has where a figure has several.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: in place of the panel's.
        palette: colours of the lenses: by a lens's name, in their order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure. Values under 0.0001 nats cannot stand on the axis and are counted in the legend.

    Raises:
        ReadingError: if the report lacks ``kl``, has other dimensions, a negative divergence, or more lenses than there
            are line styles, or if an option does not fit.
    """
    _check(report)
    report = report.sortby("layer")
    bands = {str(name): _band(report.isel(lens=i)) for i, name in enumerate(report.lens.values)}
    canvas = Canvas(axes, width, title, palette, font_size, ax)
    with canvas.page(_WHAT, (1, 1), (4.4, 3.6), looks=dict(zip(bands, SERIES, strict=False))) as page:
        (panel,) = page.panels
        panel.set_yscale("log")
        for name, band in bands.items():
            page.name_line(draw_band(panel, band, page.looks[name], plain(name)), plain(name), plain(name))
        _limit(panel, bands)
        span_layers(panel, report)
        depth_axis(panel, report)
        page.entitle(panel, "How far a lens is from the output")
        page.label_x(panel, "layer")
        page.label_y(panel, "held-out KL from output to lens (nats)")
        page.legend(entries_of([panel]), _note(report))
    return page.root


def _check(report: xr.Dataset) -> None:
    require(report, _WHAT, variables=("kl",), dims=("lens", "layer"))
    for name in ("kl", "kl_low", "kl_high"):
        if name in report:
            require_shape(report, _WHAT, name, ("lens", "layer"))
    if report.sizes["lens"] > len(SERIES):
        raise ReadingError(
            f"{_WHAT} tells {len(SERIES)} lenses apart, this report has {report.sizes['lens']}. Select some of them."
        )
    if (report.kl < -_FLOOR_NATS).any():
        raise ReadingError(f"{_WHAT} was given a negative KL of {float(report.kl.min()):.3g} nats. Give divergences.")


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
    lines = [f"line: mean over held-out tokens{n_tokens}"]
    if {"kl_low", "kl_high"} <= set(report.variables):
        level = f"{100 * report.attrs['level']:g}% " if "level" in report.attrs else ""
        sequences = f" over {int(report.attrs['n_sequences']):,} sequences" if "n_sequences" in report.attrs else ""
        lines.append(f"band: its {level}interval{sequences}")
    kl = report.kl.values
    small, missing = int((kl < _FLOOR_NATS).sum()), int((~np.isfinite(kl)).sum())
    if small:
        lines.append(f"{count(small, 'value')} under {_FLOOR_NATS:g} nats not drawn (the output itself)")
    if missing:
        lines.append(f"{count(missing, 'value')} not finite, not drawn")
    return "\n".join(lines)
