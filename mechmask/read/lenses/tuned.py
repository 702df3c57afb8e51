"""The tuned lens (Belrose et al. 2023) as the class of tuned-lens, over a model's own norm and unembedding.

tuned-lens copies norm and unembedding and finds them by its own list of families, which fails beside TransformerLens 4
and knows no softcap; here they are found by mechmask's anatomy and share the model's weights. Only this file imports
tuned_lens at its head, so it is itself imported when a tuned lens is asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tuned_lens.nn.lenses import TunedLens, TunedLensConfig
from tuned_lens.nn.unembed import Unembed

from mechmask.models.anatomy import capped
from mechmask.models.fingerprint import digest
from mechmask.models.model import Model
from mechmask.read.lenses.affine import AffineLens
from mechmask.read.lenses.divergence import plain_unembedding, unembedding_hash
from mechmask.read.lenses.files import save_lens


class SharedUnembed(Unembed):
    """Final norm and unembedding of a model: new modules over the model's weights, which ask for no gradient.

    Args:
        model: whose they are.
    """

    def __init__(self, model: Model) -> None:
        nn.Module.__init__(self)
        self.final_norm = _sharing(model.anatomy.final_norm)
        self.unembedding = _sharing(plain_unembedding(model.anatomy))
        # the numbers, since Anatomy.given_out would carry the whole model into copies
        self.softcap, self.logit_scale = model.anatomy.softcap, model.anatomy.logit_scale

    def unembedding_hash(self) -> str:
        """The hash by which tuned-lens identifies an unembedding."""
        return unembedding_hash(self.unembedding.weight)

    def forward(self, h: Float[Tensor, "*node width"]) -> Float[Tensor, "*node vocabulary"]:
        """Logits as the model gives them out."""
        return capped(self.unembedding(self.final_norm(h)) * self.logit_scale, self.softcap)


class FittedTunedLens(AffineLens, TunedLens):
    """A ``TunedLens`` that ``read_depth`` takes as it is; saves in tuned-lens's format, atomically.

    Args:
        model: whose norm and unembedding decode.
        translators: the corrections of layers 0..L-1, in float32 whatever the model's dtype.
        details: how it was fitted.
        unembed_hash: of the unembedding that it was fitted with; the model's by default.
    """

    name = "tuned"

    def __init__(
        self, model: Model, translators: nn.ModuleList, details: Mapping[str, Any], unembed_hash: str | None = None
    ) -> None:
        config = TunedLensConfig(
            base_model_name_or_path=model.name, d_model=model.width, num_hidden_layers=0, bias=True
        )
        with torch.random.fork_rng(devices=[]):  # it draws weights, which are thrown away
            TunedLens.__init__(self, SharedUnembed(model), config)
        of_the_model = str(config.unembed_hash)
        self.unembed_hash = config.unembed_hash = of_the_model if unembed_hash is None else unembed_hash
        self.unembedding_matches = self.unembed_hash == of_the_model
        config.num_hidden_layers = len(translators)
        self.layer_translators = translators
        self.details = details

    def transform_hidden(self, h: Float[Tensor, "*node width"], idx: int) -> Float[Tensor, "*node width"]:
        """The residual at layer ``idx``, carried to layer L."""
        return self.transport(h, idx)

    def save(self, path: Path | str, ckpt: str = "params.pt", config: str = "config.json") -> None:
        """Write the lens into a new directory, atomically, in tuned-lens's format.

        Beside it ``mechmask.json`` says how it was fitted, ``report.nc`` how well, and ``digests.json`` what was
        written. ``load_lens`` expects the names that ``ckpt`` and ``config`` have by default.

        Raises:
            ReadingError: if the directory exists already.
            FileError: if it cannot be written.
        """
        save_lens(self.stored(), Path(path), ckpt=ckpt, config=config)


class AdoptedTunedLens:
    """A ``TunedLens`` that was made elsewhere, as a lens of ``read_depth``.

    Args:
        lens: the lens.
        model: what it is to read.
    """

    name = "tuned"

    def __init__(self, lens: TunedLens, model: Model) -> None:
        self._lens = lens
        of_the_model = unembedding_hash(plain_unembedding(model.anatomy).weight)
        self.shape = (len(lens), lens.config.d_model)
        self.provenance = {
            "lens_fingerprint": "unknown",
            "lens_hash": digest(lens.layer_translators.state_dict().items()),
            "lens_unembedding_matches": int(lens.config.unembed_hash == of_the_model),
        }

    def transport(self, residual: Float[Tensor, "*node width"], layer: int) -> Float[Tensor, "*node width"]:
        """The residual at ``layer`` (0..L), carried to layer L by the lens's translator."""
        if layer == len(self._lens):
            return residual
        weight = next(self._lens.layer_translators[layer].parameters())
        carried = self._lens.transform_hidden(residual.to(weight.device, weight.dtype), layer)
        return carried.to(residual.device, residual.dtype)


def _sharing(module: nn.Module) -> Any:
    """The same module over the same weights, but with parameters that are not the model's.

    What is done to a lens (``to``, ``requires_grad_``) does not reach the model.
    """
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    return copy.deepcopy(module, shared)
