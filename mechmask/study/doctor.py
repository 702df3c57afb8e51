"""``mechmask doctor``: what is installed, and what a model and facts would hit, before any work starts."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from mechmask.errors import MechmaskError
from mechmask.facts.load import load_facts
from mechmask.models import smollm2
from mechmask.models.cache import cache_root
from mechmask.models.load import load_model
from mechmask.models.routes import encode_contests
from mechmask.read.logits import read_logits
from mechmask.read.scoring.forward import may_pack
from mechmask.write.presets import presets

_PACKAGES = (
    "mechmask",
    "torch",
    "transformers",
    "transformer-lens",
    "nnsight",
    "tuned-lens",
    "peft",
    "xarray",
    "numpy",
)


def examine(model: str | None, facts: Path | None) -> dict[str, object]:
    """Findings by name; ``problem`` is among them where something would fail.

    Args:
        model: a model to load and read once; none by default.
        facts: facts to tokenize with it.
    """
    findings: dict[str, object] = {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    findings |= {"threads": torch.get_num_threads(), "cuda": ", ".join(devices) or "none", "cache": str(cache_root())}
    findings["embedded model"] = (
        "in the cache"
        if (cache_root() / f"{smollm2.NAME}-{smollm2.GGUF_SHA256[:8]}").is_dir()
        else "fetched on first use"
    )
    findings["FT-L presets"] = ", ".join(presets("ft_l"))
    try:
        _examine_model(findings, model, facts)
    except MechmaskError as error:
        findings["problem"] = str(error)
    return findings


def _examine_model(findings: dict[str, object], model: str | None, facts: Path | None) -> None:
    contested = load_facts(facts) if facts is not None else None
    if model is None:
        return
    loaded = load_model(model)
    findings |= {"model": repr(loaded), "fingerprint": loaded.fingerprint, "tokenizer": type(loaded.tokenizer).__name__}
    if contested is None:
        return
    contests = encode_contests(loaded.tokenizer, contested)
    findings["facts"] = repr(contested)
    findings["packed routes"] = (
        "yes" if may_pack(loaded, contests) else "no: attention takes no mask, or a route is longer than its window"
    )
    findings["self-check error"] = f"{read_logits(loaded, contested[:1]).attrs['check_error_nats']:.1e} nats per token"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
