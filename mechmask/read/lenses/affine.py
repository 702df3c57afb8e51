"""Lenses that add an affine correction to the residual, ``h + A_l h + b_l`` for each layer l below L; ridge regression.

The ridge lens and the tuned lens are of this form and differ in what ``A`` and ``b`` minimise. The ridge lens has a
closed form: with x a layer's residual, y the last one minus x, and S their centred second moments,
``A = S_yx (S_xx + p I)^-1`` and ``b = mean(y) - A mean(x)``. The penalty p draws towards no correction, which is the
logit lens. Moments of all layers are summed while residuals stream by, so memory does not grow with the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from mechmask.errors import ReadingError
from mechmask.hub import push
from mechmask.measure.tables import html_table
from mechmask.models.fingerprint import digest
from mechmask.notebook import card, sentence
from mechmask.progress import Tick
from mechmask.read.lenses.config import LensKind
from mechmask.read.lenses.files import SAFE, StoredLens, save_lens
from mechmask.read.lenses.lens_card import card_of

# Share of the mean variance of a direction, trace(S_xx) / width, that is added to every direction. A share, because
# the scale of residuals differs by orders of magnitude between layers and models.
PENALTY = 1e-4


class AffineLens:
    """What the ridge lens and the tuned lens have in common.

    Attributes:
        name: ``ridge`` or ``tuned``.
        layer_translators: ``A_l`` and ``b_l`` as linear maps, layers 0..L-1.
        unembed_hash: of the unembedding that the lens was fitted with, as tuned-lens computes it; empty if not known.
        unembedding_matches: whether that is the unembedding of the model that the lens was made or loaded for.
        details: how it was fitted, as JSON values; empty for a lens that comes from elsewhere.
        report: ``kl[lens, layer]`` to the model's output on held-out tokens, in nats; ``None`` if not known.
    """

    name: LensKind
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
        n_layers, width = self.shape
        fields: dict[str, object] = {"kind": self.name, "layers": n_layers, "width": width}
        fields["fitted on"] = " ".join(
            str(self.details[key]) for key in ("model", "fingerprint") if key in self.details
        )
        if not self.unembedding_matches:
            fields["unembedding"] = "another than the model's"
        if self.report is None:
            return card(repr(self), fields)
        table = self.report.kl.transpose("layer", "lens").to_pandas()
        return card(repr(self), fields, sentence("Held-out KL to the model's output, in nats"), html_table(table))

    @property
    def shape(self) -> tuple[int, int]:
        """The number of layers L and the width of the residual stream."""
        return len(self.layer_translators), linear_of(self.layer_translators, 0).in_features

    @property
    def provenance(self) -> dict[str, str | int]:
        """Attributes of a reading through this lens.

        The fingerprint of the weights it was fitted on, a hash of the lens itself, and whether its unembedding is the
        model's.
        """
        return {
            "lens_fingerprint": str(self.details.get("fingerprint", "unknown")),
            "lens_hash": digest(self.layer_translators.state_dict().items()),
            "lens_unembedding_matches": int(self.unembedding_matches),
        }

    def transport(self, residual: Float[Tensor, "*node width"], layer: int) -> Float[Tensor, "*node width"]:
        """The residual at ``layer`` (0..L), carried to layer L.

        It is computed in the lens's dtype and on its device, and returned in those of ``residual``.
        """
        if layer == len(self.layer_translators):
            return residual
        linear = linear_of(self.layer_translators, layer)
        converted = residual.to(linear.weight.device, linear.weight.dtype)
        return (converted + linear(converted)).to(residual.device, residual.dtype)

    def save(self, path: Path | str) -> None:
        """Write the lens into a new directory, atomically, in tuned-lens's format: ``config.json`` and ``params.pt``.

        Beside them ``mechmask.json`` says how it was fitted, ``report.nc`` how well, and ``digests.json`` what was
        written.

        Raises:
            ReadingError: if the directory exists already.
            FileError: if it cannot be written.
        """
        save_lens(self.stored(), Path(path))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Save the lens as a repository of models on the Hugging Face Hub, with a card; ``load_lens`` reads it.

        The tensors are safetensors there. What ``details`` say goes with it, paths of this machine among them.

        Args:
            repo_id: ``owner/name``; made if it is not there. A lens that mechmask saved there before is replaced.
            license: of the weights, as the Hub names it.
            revision: a branch, made if it is not there; the main one by default.
            private: whether a new repository is; the owner's default otherwise.
            token: of the Hub; the one that is logged in by default.
            commit_message: of the commit.

        Returns:
            The commit's hash, which ``load_lens`` takes as ``revision``.

        Raises:
            ReadingError: if the Hub refuses, or the repository holds something else.
            FileError: if there is no room to save it first.
        """
        stored = self.stored()
        return push(
            lambda directory: save_lens(stored, directory, ckpt=SAFE),
            card_of(stored, repo_id, license),
            repo_id,
            repo_type="model",
            refusal=ReadingError,
            revision=revision,
            private=private,
            token=token,
            commit_message=commit_message,
        )

    def stored(self) -> StoredLens:
        """The lens as its files hold it, without a copy of the weights."""
        state = {name: tensor.detach() for name, tensor in self.layer_translators.state_dict().items()}
        return StoredLens(self.name, *self.shape, state, self.unembed_hash, self.details, self.report)


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


class Moments:
    """Second moments of residuals ``[layer, node, width]``; the last layer is what the others predict.

    They are taken about the first batch's mean, so that the few directions whose mean is huge cost no digits.
    """

    def __init__(self) -> None:
        self.n = 0

    def add(self, residuals: Float[Tensor, "layer node width"]) -> None:
        """Take in the residuals of more tokens; sums are in float64."""
        device = torch.device("cpu") if residuals.device.type == "mps" else residuals.device
        x = residuals.to(device, torch.float64)
        if not self.n:
            self._origin = reduce(x, "layer node width -> layer width", "mean")
            n_layers, _, width = x.shape
            self._sum = x.new_zeros(n_layers, width)
            self._squares = x.new_zeros(n_layers - 1, width, width)
            self._products = x.new_zeros(n_layers - 1, width, width)
        x = x - rearrange(self._origin, "layer width -> layer 1 width")
        self.n += x.shape[1]
        self._sum += reduce(x, "layer node width -> layer width", "sum")
        by_width = rearrange(x, "layer node width -> layer width node")
        for layer in range(len(self._squares)):
            self._squares[layer].addmm_(by_width[layer], x[layer])
            self._products[layer].addmm_(by_width[-1], x[layer])

    def corrections(self, device: torch.device, tick: Tick | None = None) -> nn.ModuleList:
        """The ridge lens as linear maps in float32, layers 0..L-1; ``tick`` is called after each layer."""
        return translators_of(*self.solve(tick=tick), device)

    def solve(
        self, penalty: float = PENALTY, *, tick: Tick | None = None
    ) -> tuple[Float[Tensor, "layer width width"], Float[Tensor, "layer width"]]:
        """Weights and biases of the corrections at layers 0..L-1, in float64.

        Args:
            penalty: as a share of trace(S_xx) / width.
            tick: called after each layer with the state of the work.

        Raises:
            ReadingError: if a residual was not finite.
        """
        mean = self._sum / self.n
        if not torch.isfinite(mean).all():
            layer = int((~torch.isfinite(mean)).any(1).nonzero()[0])
            raise ReadingError(
                f"The residuals at layer {layer} are not finite. Check the model's weights, or load it in float32."
            )
        weights, biases = [], []
        for layer in range(len(self._squares)):
            s_xx = self._squares[layer] / self.n - torch.outer(mean[layer], mean[layer])
            s_lx = self._products[layer] / self.n - torch.outer(mean[-1], mean[layer])
            s_xx.diagonal().add_(ridge := penalty * s_xx.trace() / len(s_xx))
            # S_yx = S_Lx - S_xx, and S_xx is s_xx without the ridge
            s_yx = s_lx - s_xx
            s_yx.diagonal().add_(ridge)
            weight = torch.linalg.solve(s_xx, s_yx, left=False)
            x_mean, last_mean = mean[layer] + self._origin[layer], mean[-1] + self._origin[-1]
            weights.append(weight)
            biases.append(last_mean - x_mean - weight @ x_mean)
            if tick is not None:
                tick(f"layer {layer} solved")
        return torch.stack(weights), torch.stack(biases)


def linear_of(translators: nn.ModuleList, layer: int) -> nn.Linear:
    """The correction at ``layer``.

    Raises:
        TypeError: if it is not a linear map.
    """
    linear = translators[layer]
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"The translator of layer {layer} is a {type(linear).__name__}, not a Linear.")
    return linear


def translators_of(
    weights: Iterable[Float[Tensor, "width width"]], biases: Iterable[Float[Tensor, " width"]], device: torch.device
) -> nn.ModuleList:
    """Corrections as linear maps in float32 that ask for no gradient, one for each layer; they copy what is given."""
    translators = []
    for weight, bias in zip(weights, biases, strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")  # draws no random numbers
        linear.weight = nn.Parameter(weight.detach().to(device, torch.float32, copy=True), requires_grad=False)
        linear.bias = nn.Parameter(bias.detach().to(device, torch.float32, copy=True), requires_grad=False)
        translators.append(linear)
    return nn.ModuleList(translators)
