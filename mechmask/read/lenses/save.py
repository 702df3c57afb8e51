"""Lenses as files, in the format of tuned-lens: ``config.json`` and ``params.pt``.

``mechmask.json`` and ``report.nc`` beside them say how a lens was fitted and how well; tuned-lens passes them over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import xarray as xr
from torch import nn

from mechmask.errors import ReadingError
from mechmask.files import new_directory
from mechmask.measure.reading import save_reading

_SCHEMA = 1


class AffineCorrections(Protocol):
    """What of a lens is written; ``AffineLens`` says what each of these is."""

    name: str
    layer_translators: nn.ModuleList
    unembed_hash: str
    details: Mapping[str, Any]
    report: xr.Dataset | None

    @property
    def shape(self) -> tuple[int, int]:
        """The number of layers and the width."""
        ...


def save_lens(lens: AffineCorrections, target: Path, *, ckpt: str = "params.pt", config: str = "config.json") -> None:
    """Write a lens into a new directory, atomically.

    Raises:
        ReadingError: if the directory is there already.
    """
    if target.exists():
        raise ReadingError(f"{target} is there already. Save the lens under another name.")
    with new_directory(target) as temporary:
        write_lens(lens, temporary, ckpt=ckpt, config=config)


def write_lens(
    lens: AffineCorrections, directory: Path, *, ckpt: str = "params.pt", config: str = "config.json"
) -> None:
    """Write a lens into an empty directory."""
    n_layers, width = lens.shape
    described = {
        "base_model_name_or_path": str(lens.details.get("model", "")),
        "d_model": width,
        "num_hidden_layers": n_layers,
        "bias": True,
        "base_model_revision": None,
        "unembed_hash": lens.unembed_hash,
        "lens_type": "linear_tuned_lens",
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in lens.layer_translators.state_dict().items()}
    torch.save(state, directory / ckpt)
    _write_json(directory / config, described)
    _write_json(directory / "mechmask.json", {"schema_version": _SCHEMA, "kind": lens.name, "details": lens.details})
    if lens.report is not None:
        save_reading(lens.report, directory / "report.nc")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")
