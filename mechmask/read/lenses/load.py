"""Lenses that exist already: from a directory, from the published ones, or from mechmask's cache.

``cached_lens`` fits a lens when it is first asked for; it stays under the fingerprint of the weights and the settings,
never under a name, and is fitted again if its files turn out to be damaged.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import xxhash

from mechmask.errors import ReadingError, one_message
from mechmask.file_errors import file_errors
from mechmask.hub import is_id, located
from mechmask.models.cache import cache_root, made_once
from mechmask.models.model import Model, adapted_layers
from mechmask.models.states import Variant, active
from mechmask.read.lenses.affine import AffineLens, RidgeLens, translators_of
from mechmask.read.lenses.config import LensConfig, LensKind, require_kind, require_tuned_lens
from mechmask.read.lenses.divergence import plain_unembedding, unembedding_hash
from mechmask.read.lenses.files import StoredLens, read_lens, write_lens
from mechmask.read.lenses.fit import fit_lens

_SPACE = "AlignmentResearch/tuned-lens"  # where the published lenses are, each in lens/<name of its model>
_SCHEMA = 2  # goes up when the same settings give another lens, or other files
_OF_RIDGE = {"seed", "n_tokens"}


def load_lens(
    source: str | Path,
    model: Model | Variant,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    allow_other_unembedding: bool = False,
) -> AffineLens:
    """A lens from a directory, from the Hugging Face Hub, or a published one by the name of its model.

    Args:
        source: a directory that ``save`` or tuned-lens wrote; the id ``owner/name`` of a repository that
            ``push_to_hub`` made; or a name such as ``gpt2`` under which the Space AlignmentResearch/tuned-lens holds a
            lens.
        model: the model or state that it is to read.
        revision: branch, tag or commit of a repository.
        token: of the Hub; the one that is logged in by default.
        allow_other_unembedding: whether a lens that was fitted with another unembedding is taken; readings then say
            ``lens_unembedding_matches`` 0.

    Raises:
        ReadingError: if there is no such lens, or it is not one of this model.
        DamageError: if a file of it is not what was written.
        FileError: if a file of it cannot be read.
    """
    directory = _directory(source, revision, token)
    stored = read_lens(directory)
    with active(model) as changed:
        _require_fit(directory, stored, changed, allow_other_unembedding=allow_other_unembedding)
        return _lens(stored, changed)


def cached_lens(
    model: Model | Variant, kind: LensKind = "tuned", config: LensConfig | None = None, *, progress: bool = True
) -> AffineLens:
    """The lens of the weights under a model's adapter, fitted on text that it samples from itself when first asked for.

    An adapter that is applied is switched off meanwhile, so that one lens reads before and after. A change of the
    weights themselves makes another model; to read that with the lens of the one before, pass the lens that this
    returned.

    Args:
        model: the model or state.
        kind: ``tuned`` or ``ridge``.
        config: how it is fitted.
        progress: whether bars are shown while it is.

    Raises:
        ReadingError: as ``fit_lens`` does.
        FileError: if the cache cannot be written.
    """
    require_kind(kind)
    config = config or LensConfig()
    with active(model) as changed, _base_weights(changed):
        name = f"lenses/{kind}-{_key(changed, kind, config)}"
        with made_once(name) as directory:
            if directory is not None:
                lens = fit_lens(changed, kind=kind, progress=progress, **config.model_dump())
                write_lens(lens.stored(), directory)
        return _lens(read_lens(cache_root() / name, from_elsewhere=False), changed)


def _key(model: Model, kind: LensKind, config: LensConfig) -> str:
    settings = config.model_dump(mode="json", include=_OF_RIDGE if kind == "ridge" else None)
    described = [_SCHEMA, kind, model.fingerprint, settings]
    return xxhash.xxh3_128_hexdigest(json.dumps(described, sort_keys=True).encode())


def _base_weights(model: Model) -> AbstractContextManager[None]:
    """The weights under an adapter, or the model where it has none."""
    return model.without_adapter() if adapted_layers(model.module) else nullcontext()


def _lens(stored: StoredLens, model: Model) -> AffineLens:
    """The lens that the files describe, over a model of its shape."""
    layers = range(stored.n_layers)
    translators = translators_of(
        [stored.parameters[f"{layer}.weight"] for layer in layers],
        [stored.parameters[f"{layer}.bias"] for layer in layers],
        model.device,
    )
    if stored.kind == "ridge":
        lens: AffineLens = RidgeLens(translators, stored.unembed_hash, stored.details)
        lens.unembedding_matches = stored.unembed_hash == unembedding_hash(plain_unembedding(model.anatomy).weight)
    else:
        require_tuned_lens()
        from mechmask.read.lenses.tuned import FittedTunedLens

        lens = FittedTunedLens(model, translators, stored.details, stored.unembed_hash)
    lens.report = stored.report
    return lens


def _require_fit(directory: Path, stored: StoredLens, model: Model, *, allow_other_unembedding: bool) -> None:
    shapes = {
        "num_hidden_layers": (stored.n_layers, model.n_layers),
        "d_model": (stored.width, model.width),
    }
    problems = [
        f"The lens in {directory} has {name} {ours}, {model.name} has {needed}. Give a lens of this model."
        for name, (ours, needed) in shapes.items()
        if ours != needed
    ]
    if problems:
        raise ReadingError(one_message("the lens", problems))
    if allow_other_unembedding or stored.unembed_hash == unembedding_hash(plain_unembedding(model.anatomy).weight):
        return
    if not stored.unembed_hash:
        cause = f"does not say with which unembedding it was fitted, so it may not be {model.name}'s"
    else:
        cause = f"was fitted with another unembedding than {model.name}'s"
    raise ReadingError(
        f"The lens in {directory} {cause}. Give a lens of this model; in Python, load_lens takes this one with "
        "allow_other_unembedding=True, and its readings say so."
    )


def _directory(source: str | Path, revision: str | None, token: str | bool | None) -> Path:
    """Where the files are: the directory itself, or the snapshot of a repository on the Hub or of the Space."""
    directory = Path(source)
    with file_errors(directory, "read"):
        there = directory.is_dir()
    asked = {"repo_type": "model", "refusal": ReadingError, "revision": revision, "token": token}
    if there or revision is not None:
        return located(source, "a lens", **asked)
    if isinstance(source, Path) or not is_id(source):
        return _published(str(source))
    try:
        return located(source, "a lens", **asked)
    except ReadingError as error:  # the published lenses of some models are called as those models are
        try:
            return _published(source)
        except ReadingError as neither:
            raise ReadingError(f"{error} {neither}") from error


def _published(name: str) -> Path:
    from huggingface_hub import snapshot_download

    files = [f"lens/{name}/{file}" for file in ("config.json", "params.pt")]
    try:
        root = Path(snapshot_download(_SPACE, repo_type="space", allow_patterns=files))
        there = all((root / file).is_file() for file in files)
    except Exception as error:  # of the hub, of its HTTP client, of the file system
        raise ReadingError(
            f"{name!r} is not a directory, and the published lenses in {_SPACE} cannot be reached "
            f"({type(error).__name__}). Give a directory that lens.save wrote."
        ) from error
    if not there:
        raise ReadingError(
            f"{name!r} is not a directory, and {_SPACE} does not publish a lens of that name. Fit one with fit_lens."
        )
    return root / "lens" / name
