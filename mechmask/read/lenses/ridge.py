"""The ridge lens: mean and ridge regression from each layer's residual to the last one, in closed form.

With x a layer's residual, y the last one minus x, and S their centred second moments: ``A = S_yx (S_xx + p I)^-1``,
``b = mean(y) - A mean(x)``. The penalty draws towards no correction, which is the logit lens. Moments of all layers are
added up while the residuals stream by, so memory does not grow with the text.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mechmask.errors import ReadingError
from mechmask.read.lenses.affine import translators_of

# Share of the mean variance of a direction, trace(S_xx) / width, that is added to every direction. A share, because
# the scale of residuals differs by orders between layers and models.
PENALTY = 1e-4


class Moments:
    """Second moments of residuals ``[layer, node, width]``, the last layer being what is predicted.

    They are taken about the first batch's mean, so that the few directions whose mean is huge cost no digits.
    """

    def __init__(self) -> None:
        self.n = 0

    def add(self, residuals: Float[Tensor, "layer node width"]) -> None:
        """Take in the residuals of more tokens; they are added up in float64."""
        device = torch.device("cpu") if residuals.device.type == "mps" else residuals.device
        x = residuals.to(device, torch.float64)
        if not self.n:
            self._origin = x.mean(1, keepdim=True)
            n_layers, _, width = x.shape
            self._sum = x.new_zeros(n_layers, width)
            self._own = x.new_zeros(n_layers - 1, width, width)
            self._cross = x.new_zeros(n_layers - 1, width, width)
        x = x - self._origin
        self.n += x.shape[1]
        self._sum += x.sum(1)
        for layer in range(len(self._own)):
            self._own[layer].addmm_(x[layer].T, x[layer])
            self._cross[layer].addmm_(x[-1].T, x[layer])

    def corrections(self, device: torch.device) -> nn.ModuleList:
        """The ridge lens as linear maps in float32, layers 0..L-1."""
        return translators_of(*self.solve(), device)

    def solve(
        self, penalty: float = PENALTY
    ) -> tuple[Float[Tensor, "layer width width"], Float[Tensor, "layer width"]]:
        """Weights and biases of the corrections at layers 0..L-1, in float64.

        Args:
            penalty: as a share of trace(S_xx) / width.

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
        for layer in range(len(self._own)):
            own = self._own[layer] / self.n - torch.outer(mean[layer], mean[layer])
            cross = self._cross[layer] / self.n - torch.outer(mean[-1], mean[layer])
            own.diagonal().add_(ridge := penalty * own.trace() / len(own))
            # S_yx = S_Lx - S_xx, and S_xx is own without the ridge
            moved = cross - own
            moved.diagonal().add_(ridge)
            weight = torch.linalg.solve(own, moved, left=False)
            x_mean, last_mean = mean[layer] + self._origin[layer, 0], mean[-1] + self._origin[-1, 0]
            weights.append(weight)
            biases.append(last_mean - x_mean - weight @ x_mean)
        return torch.stack(weights), torch.stack(biases)
