"""``load_lens``: a lens from files in the format of tuned-lens, of which ``params.pt`` is read without unpickling.

They may be mechmask's own, tuned-lens's or a published lens's: what mechmask writes beside them need not be there.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from mechmask.errors import ReadingError, one_message
from mechmask.measure.reading import load_reading
from mechmask.models.model import Model
from mechmask.read.lenses.affine import AffineLens, RidgeLens, translators_of
from mechmask.read.lenses.config import require_tuned_lens
from mechmask.read.lenses.divergence import plain_unembedding
from mechmask.read.lenses.hash import unembedding_hash

_SPACE = "AlignmentResearch/tuned-lens"  # where the published lenses are, each in lens/<name of its model>


def load_lens(source: str | Path, model: Model, *, allow_other_unembedding: bool = False) -> AffineLens:
    """A lens from a directory, or a published one by the name of its model.

    Args:
        source: a directory that ``save`` or tuned-lens wrote, or a name such as ``gpt2`` under which the Space
            AlignmentResearch/tuned-lens holds a lens.
        model: what it is to read.
        allow_other_unembedding: whether a lens that was fitted with another unembedding is taken; readings then say
            ``lens_unembedding_matches`` 0.

    Raises:
        ReadingError: if there is no such lens, its files are damaged, or it is not one of this model.
    """
    directory = Path(source)
    if not directory.is_dir():
        directory = _published(str(source))
    config = _read_json(directory / "config.json")
    about = _read_json(directory / "mechmask.json") if (directory / "mechmask.json").is_file() else {}
    _require_fit(directory, config, model)
    own, stored = unembedding_hash(plain_unembedding(model.anatomy).weight), str(config.get("unembed_hash") or "")
    if stored != own and not allow_other_unembedding:
        what = "was fitted with another unembedding" if stored else "does not say with which unembedding it was fitted"
        raise ReadingError(
            f"The lens in {directory} {what} than {model.name}'s. Give a lens of this model, or "
            "allow_other_unembedding=True, which its readings will say."
        )
    weights, biases = _parameters(directory, model)
    translators = translators_of(weights, biases, model.device)
    details = about.get("details", {"model": str(config.get("base_model_name_or_path", ""))})
    if about.get("kind") == "ridge":
        lens: AffineLens = RidgeLens(translators, stored, details)
        lens.unembedding_matches = stored == own
    else:
        require_tuned_lens()
        from mechmask.read.lenses.tuned import FittedTunedLens

        lens = FittedTunedLens(model, translators, details, stored)
    lens.report = _report(directory)
    return lens


def _published(name: str) -> Path:
    from huggingface_hub import snapshot_download

    files = [f"lens/{name}/{file}" for file in ("config.json", "params.pt")]
    try:
        root = snapshot_download(_SPACE, repo_type="space", allow_patterns=files)
    except (OSError, ValueError) as error:
        raise ReadingError(
            f"{name!r} is no directory, and the published lenses in {_SPACE} cannot be reached "
            f"({type(error).__name__}). Give a directory that lens.save wrote."
        ) from error
    if not all((Path(root) / file).is_file() for file in files):
        raise ReadingError(
            f"{name!r} is no directory, and {_SPACE} publishes no lens of that name. Fit one with mechmask.fit_lens."
        )
    return Path(root) / "lens" / name


def _require_fit(directory: Path, config: dict[str, Any], model: Model) -> None:
    wanted = {"num_hidden_layers": model.n_layers, "d_model": model.width}
    problems = [
        f"The lens in {directory} has {name} {config.get(name)}, {model.name} has {value}. Give a lens of this model."
        for name, value in wanted.items()
        if config.get(name) != value
    ]
    lens_type = config.get("lens_type", "linear_tuned_lens")
    if lens_type != "linear_tuned_lens":
        problems.append(f"The lens in {directory} is a {lens_type}; mechmask reads linear_tuned_lens. Give such a one.")
    if problems:
        raise ReadingError(one_message("the lens", problems))


def _parameters(directory: Path, model: Model) -> tuple[Tensor, Tensor]:
    """Weights ``[layer, width, width]`` and biases ``[layer, width]``; zero where a lens has no bias."""
    path = directory / "params.pt"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ReadingError(
            f"{path} cannot be read as tensors ({type(error).__name__}); anything else in it is refused. Save the "
            "lens again."
        ) from error
    width, layers = model.width, range(model.n_layers)
    has_bias = isinstance(state, dict) and any(str(name).endswith(".bias") for name in state)
    shapes = {f"{i}.weight": (width, width) for i in layers} | (
        {f"{i}.bias": (width,) for i in layers} if has_bias else {}
    )
    found = {n: tuple(t.shape) for n, t in state.items() if isinstance(t, Tensor)} if isinstance(state, dict) else {}
    if found != shapes:
        odd = sorted(dict(set(found.items()) ^ set(shapes.items())))
        raise ReadingError(
            f"{path} does not hold the weights of {model.n_layers} layers of width {width}: {', '.join(odd[:3])} "
            "differ. Save the lens again."
        )
    bad = next((name for name, tensor in state.items() if not torch.isfinite(tensor).all()), None)
    if bad is not None:
        raise ReadingError(f"{bad} in {path} is not finite. Fit the lens again.")
    weights = torch.stack([state[f"{i}.weight"].float() for i in layers])
    biases = torch.stack([state[f"{i}.bias"].float() for i in layers]) if has_bias else torch.zeros(len(layers), width)
    return weights, biases


def _report(directory: Path) -> xr.Dataset | None:
    path = directory / "report.nc"
    return load_reading(path) if path.is_file() else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReadingError(
            f"{path} cannot be read as JSON ({type(error).__name__}), so this is no lens. Give a directory that "
            "lens.save wrote."
        ) from error
    if not isinstance(content, dict):
        raise ReadingError(f"{path} holds no object, so this is no lens. Give a directory that lens.save wrote.")
    return content
