"""Lenses that are fitted once: kept in mechmask's cache by the fingerprint of the weights and the settings."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext

import xxhash

from mechmask.models.cache import cache_root, made_once
from mechmask.models.model import Model, adapted_layers
from mechmask.read.lenses.affine import AffineLens
from mechmask.read.lenses.config import LensConfig, require_kind
from mechmask.read.lenses.fit import fit_lens
from mechmask.read.lenses.load import load_lens
from mechmask.read.lenses.save import write_lens

_SCHEMA = 1  # goes up when the same settings give another lens
_OF_RIDGE = {"seed", "n_tokens"}


def cached_lens(
    model: Model, kind: str = "tuned", config: LensConfig | None = None, *, progress: bool = True
) -> AffineLens:
    """The lens of the weights under a model's adapter, fitted on text that it samples from itself when first asked for.

    An adapter that is applied is switched off meanwhile: one lens reads before and after. A change of the weights
    themselves makes another model; to read that with the lens of the one before, pass the lens that this returned.

    Args:
        model: the model.
        kind: ``tuned`` or ``ridge``.
        config: how it is fitted.
        progress: whether bars are shown while it is.

    Raises:
        ReadingError: as ``fit_lens`` does, or if the lens in the cache is damaged.
    """
    require_kind(kind)
    config = config or LensConfig()
    with _base_weights(model):
        name = f"lenses/{kind}-{_key(model, kind, config)}"
        with made_once(name) as directory:
            if directory is not None:
                write_lens(fit_lens(model, kind=kind, progress=progress, **config.model_dump()), directory)  # pyright: ignore[reportArgumentType]
        return load_lens(cache_root() / name, model)


def _key(model: Model, kind: str, config: LensConfig) -> str:
    settings = config.model_dump(mode="json", include=_OF_RIDGE if kind == "ridge" else None)
    described = [_SCHEMA, kind, model.fingerprint, settings]
    return xxhash.xxh3_128_hexdigest(json.dumps(described, sort_keys=True).encode())


def _base_weights(model: Model) -> AbstractContextManager[None]:
    """The weights under an adapter, or the model where it has none."""
    return model.without_adapter() if adapted_layers(model.module) else nullcontext()
