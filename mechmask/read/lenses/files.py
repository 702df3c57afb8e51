"""Lenses as files, in the format of tuned-lens: ``config.json`` and ``params.pt``, which is read without unpickling.

On the Hub the tensors are safetensors, ``params.safetensors``, which are read wherever they lie.

mechmask writes three more beside them, which tuned-lens passes over: ``mechmask.json`` says how a lens was fitted,
``report.nc`` how well, and ``digests.json`` what was written, so that damage is found. A lens from elsewhere has none
of the three; of its ``params.pt`` the archive's checksums are verified, which torch itself does not do.
"""

from __future__ import annotations

import errno
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
import xarray as xr
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mechmask.errors import DamageError, MechmaskError, ReadingError, one_message
from mechmask.files import new_sealed_directory, require_sealed
from mechmask.measure.reading import load_reading, require, save_reading
from mechmask.read.lenses.config import LensKind, problems_of

SAFE = "params.safetensors"

_SCHEMA = 2  # 1 had no digests
_REMEDY = "Copy the lens again from where it is whole, or fit it again into another directory."


@dataclass(frozen=True)
class StoredLens:
    """A lens as its files hold it; ``AffineLens`` says what the attributes are that it shares.

    Attributes:
        kind: ``tuned`` or ``ridge``.
        n_layers: the number of corrections, L.
        width: of the residual stream.
        parameters: ``{layer}.weight`` ``[width, width]`` and ``{layer}.bias`` ``[width]``.
        unembed_hash: of the unembedding; empty if not known.
        details: how it was fitted, as JSON values.
        report: ``kl[lens, layer]`` in nats; ``None`` if not known.
    """

    kind: LensKind
    n_layers: int
    width: int
    parameters: Mapping[str, Float[Tensor, ...]]
    unembed_hash: str
    details: Mapping[str, Any]
    report: xr.Dataset | None


def save_lens(lens: StoredLens, target: Path, *, ckpt: str = "params.pt", config: str = "config.json") -> None:
    """Write a lens into a new directory, atomically.

    Raises:
        ReadingError: if the directory exists already.
        FileError: if it cannot be written.
    """
    with new_sealed_directory(target, "the lens", ReadingError) as temporary:
        write_lens(lens, temporary, ckpt=ckpt, config=config)


def write_lens(lens: StoredLens, directory: Path, *, ckpt: str = "params.pt", config: str = "config.json") -> None:
    """Write a lens into an empty directory, such as ``mechmask.files.new_sealed_directory`` gives.

    Raises:
        OSError: if a file cannot be written; ``new_directory`` makes one sentence of it.
    """
    described = {
        "base_model_name_or_path": str(lens.details.get("model", "")),
        "d_model": lens.width,
        "num_hidden_layers": lens.n_layers,
        "bias": True,
        "base_model_revision": None,
        "unembed_hash": lens.unembed_hash,
        "lens_type": "linear_tuned_lens",
    }
    about = {"schema_version": _SCHEMA, "kind": lens.kind, "details": dict(lens.details)}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in lens.parameters.items()}
    try:
        if ckpt.endswith(".safetensors"):
            save_file(state, directory / ckpt)
        else:
            torch.save(state, directory / ckpt)
    except RuntimeError as error:  # how torch puts it that not all bytes were taken
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory / ckpt)) from error
    for name, content in ((config, described), ("mechmask.json", about)):
        (directory / name).write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")
    if lens.report is not None:
        save_reading(lens.report, directory / "report.nc")


def read_lens(directory: Path, *, from_elsewhere: bool = True) -> StoredLens:
    """A lens from its files, whole and consistent in itself.

    Args:
        directory: what ``save`` or tuned-lens wrote.
        from_elsewhere: whether a lens without digests is taken: one of tuned-lens, or of an older mechmask.

    Raises:
        DamageError: if a file is not what was written.
        ReadingError: if this is not a lens, or not one that mechmask can read.
        FileError: if a file cannot be read.
    """
    missing = "accept" if from_elsewhere else "refuse"
    sealed = require_sealed(directory, "The lens", _REMEDY, missing=missing)
    config = _validated(_Config, directory / "config.json")
    about = _About()
    if (directory / "mechmask.json").is_file():
        about = _validated(_About, directory / "mechmask.json")
        if about.schema_version == _SCHEMA and not sealed:
            raise DamageError(f"The lens in {directory} is damaged: digests.json is missing. {_REMEDY}")
    return StoredLens(
        about.kind,
        config.num_hidden_layers,
        config.d_model,
        _parameters(directory, config, sealed=sealed),
        config.unembed_hash or "",
        {"model": config.base_model_name_or_path or ""}
        if about.details is None
        else about.details.model_dump(exclude_unset=True),
        _report(directory / "report.nc"),
    )


_Text = Annotated[str, Field(pattern="^[^\\x00]*$", max_length=4096)]  # goes into attributes of readings


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True)


class _Config(_Fields):
    """``config.json``, as tuned-lens defines it."""

    num_hidden_layers: int = Field(ge=1, le=100_000)
    d_model: int = Field(ge=1, le=10_000_000)
    base_model_name_or_path: _Text | None = None
    unembed_hash: _Text | None = None
    lens_type: Literal["linear_tuned_lens"] = "linear_tuned_lens"


class _Details(_Fields):
    model_config = ConfigDict(extra="allow")

    model: _Text = ""
    fingerprint: _Text = "unknown"


class _About(_Fields):
    """``mechmask.json``; these defaults are those of a lens that has none."""

    schema_version: Literal[1, 2] = 1
    kind: LensKind = "tuned"
    details: _Details | None = None


_Checked = TypeVar("_Checked", bound=_Fields)


def _validated(fields: type[_Checked], path: Path) -> _Checked:
    try:
        content = json.loads(path.read_bytes())
        json.dumps(content, ensure_ascii=False).encode()  # no lone surrogate, no depth that could not be saved again
    except (OSError, ValueError, RecursionError) as error:
        raise ReadingError(
            f"{path} cannot be read as JSON ({type(error).__name__}), so this is not a lens. Give a directory that "
            "lens.save wrote."
        ) from error
    try:
        return fields.model_validate(content)
    except ValidationError as error:
        problems = [f"In {path}, {problem} Give a lens that lens.save wrote." for problem in problems_of(error)]
        raise ReadingError(one_message("the lens", problems)) from error


def _parameters(directory: Path, config: _Config, *, sealed: bool) -> dict[str, Tensor]:
    """Weights and biases in float32, checked against the configuration; zero where a lens has no bias."""
    safe = (directory / SAFE).is_file()
    path = directory / (SAFE if safe else "params.pt")
    if not sealed and not safe:
        _require_checksums(path)
    try:
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes fail wherever the reader happens to stumble
        raise ReadingError(
            f"{path} cannot be read as tensors ({type(error).__name__}); anything else in it is refused. {_REMEDY}"
        ) from error
    width, layers = config.d_model, range(config.num_hidden_layers)
    tensors = {str(name): _float32(tensor) for name, tensor in state.items()} if isinstance(state, dict) else {}
    held = {name: None if tensor is None else tuple(tensor.shape) for name, tensor in tensors.items()}
    shapes = {f"{layer}.weight": (width, width) for layer in layers}
    if any(name.endswith(".bias") for name in held):
        shapes |= {f"{layer}.bias": (width,) for layer in layers}
    if held != shapes:
        odd = sorted(name for name in held.keys() | shapes.keys() if held.get(name) != shapes.get(name))
        raise ReadingError(
            f"{path} does not hold the weights of {len(layers)} layers of width {width}: {', '.join(odd[:3])} "
            f"{'differs' if len(odd) == 1 else 'differ'}. {_REMEDY}"
        )
    checked = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    infinite = next((name for name, tensor in checked.items() if not torch.isfinite(tensor).all()), None)
    if infinite is not None:
        raise ReadingError(f"{infinite} in {path} is not finite. Fit the lens again.")
    return {f"{layer}.bias": torch.zeros(width) for layer in layers} | checked


def _float32(value: object) -> Tensor | None:
    """A tensor of plain floating-point numbers in memory, as float32; ``None`` for anything else."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    return value.float() if value.layout == torch.strided and value.device.type == "cpu" else None


def _require_checksums(path: Path) -> None:
    """Refuse an archive of which a part does not have the checksum that it was written with."""
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":  # torch before 1.6 wrote no archive
                return
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # as above
        damaged = type(error).__name__
    if damaged is not None:
        raise DamageError(f"{path} is damaged: the archive's checksums do not hold ({damaged}). {_REMEDY}")


def _report(path: Path) -> xr.Dataset | None:
    if not path.is_file():
        return None
    try:
        report = load_reading(path)
        require(report, "The lens's report", variables=("kl",), dims=("lens", "layer"))
    except Exception as error:  # as above, of a report without digest
        reason = str(error) if isinstance(error, MechmaskError) else f"{path} is damaged ({type(error).__name__})."
        raise ReadingError(f"{reason} Or delete {path.name}, and the lens is loaded without its report.") from error
    return report
