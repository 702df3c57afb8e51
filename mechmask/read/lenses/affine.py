"""Lenses that add an affine correction to the residual: ``h + A_l h + b_l``, one for each layer below L.

The ridge lens and the tuned lens are of this form and differ in what ``A`` and ``b`` minimise. Both are saved in the
format of tuned-lens.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from mechmask.models.fingerprint import digest
from mechmask.read.lenses.save import save_lens


class AffineLens:
    """What the ridge lens and the tuned lens have in common.

    Attributes:
        name: ``ridge`` or ``tuned``.
        layer_translators: ``A_l`` and ``b_l`` as linear maps, layers 0..L-1.
        unembed_hash: of the unembedding that it was fitted with, as tuned-lens takes it; empty where not known.
        unembedding_matches: whether that is the unembedding of the model that it was made or loaded for.
        details: how it was fitted, as JSON values; empty for a lens that comes from elsewhere.
        report: ``kl[lens, layer]`` to the model's output on held-out tokens, in nats; ``None`` where not known.
    """

    name: str
    layer_translators: nn.ModuleList
    unembed_hash: str
    unembedding_matches: bool = True
    details: Mapping[str, Any]
    report: xr.Dataset | None = None

    def __repr__(self) -> str:
        n_layers, width = self.shape
        return f"{type(self).__name__}({self.details.get('model', '')!r}, {n_layers} layers of width {width})"

    def _repr_html_(self) -> str:
        """What it is, and how far its output is from the model's at every layer, where that is known."""
        shown = f"<p>{html.escape(repr(self))}</p>"
        if self.report is None:
            return shown
        table = self.report.kl.transpose("layer", "lens").to_pandas()
        return f"{shown}<p>Held-out KL to the model's output, in nats</p>{table.to_html(float_format='{:.2f}'.format)}"

    @property
    def shape(self) -> tuple[int, int]:
        """The number of layers L and the width of the residual stream."""
        return len(self.layer_translators), linear_of(self.layer_translators, 0).in_features

    @property
    def provenance(self) -> dict[str, str | int]:
        """The weights that the lens was fitted on, its own hash, and whether its unembedding is the model's."""
        return {
            "lens_fingerprint": str(self.details.get("fingerprint", "unknown")),
            "lens_hash": digest(self.layer_translators.state_dict().items()),
            "lens_unembedding_matches": int(self.unembedding_matches),
        }

    def transport(self, residual: Float[Tensor, "node width"], layer: int) -> Float[Tensor, "node width"]:
        """The residual at ``layer`` (0..L), carried to layer L; computed in the lens's dtype, given in its own."""
        if layer == len(self.layer_translators):
            return residual
        linear = linear_of(self.layer_translators, layer)
        own = residual.to(linear.weight.device, linear.weight.dtype)
        return (own + linear(own)).to(residual.device, residual.dtype)

    def save(self, path: Path | str) -> None:
        """Write the lens into a new directory, atomically, in tuned-lens's format: ``config.json`` and ``params.pt``.

        Beside them ``mechmask.json`` says how it was fitted and ``report.nc`` how well.

        Raises:
            ReadingError: if the directory is there already.
        """
        save_lens(self, Path(path))


class RidgeLens(AffineLens, nn.Module):
    """The affine lens that ridge regression gives in closed form.

    Args:
        translators: the corrections of layers 0..L-1.
        unembed_hash: of the model's unembedding.
        details: how it was fitted.
    """

    name = "ridge"

    def __init__(self, translators: nn.ModuleList, unembed_hash: str, details: Mapping[str, Any]) -> None:
        super().__init__()
        self.layer_translators = translators
        self.unembed_hash = unembed_hash
        self.details = details


def linear_of(translators: nn.ModuleList, layer: int) -> nn.Linear:
    """The correction at ``layer``."""
    linear = translators[layer]
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"The translator of layer {layer} is a {type(linear).__name__}, not a Linear.")
    return linear


def translators_of(
    weights: Float[Tensor, "layer width width"], biases: Float[Tensor, "layer width"], device: torch.device
) -> nn.ModuleList:
    """Corrections as linear maps in float32, which ask for no gradient."""
    made = []
    for weight, bias in zip(weights, biases, strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")  # draws no random numbers
        linear.weight = nn.Parameter(weight.detach().to(device, torch.float32, copy=True), requires_grad=False)
        linear.bias = nn.Parameter(bias.detach().to(device, torch.float32, copy=True), requires_grad=False)
        made.append(linear)
    return nn.ModuleList(made)
