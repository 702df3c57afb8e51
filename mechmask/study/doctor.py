"""``mechmask doctor``: what is installed, and what a model and facts would hit, before any work starts."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mechmask.errors import MechmaskError
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import load_facts
from mechmask.facts.synthetic import synthetic_facts
from mechmask.models import smollm2
from mechmask.models.cache import cache_root
from mechmask.models.context import require_context
from mechmask.models.forward import may_pack
from mechmask.models.load import load_model
from mechmask.models.model import Model
from mechmask.models.packing import n_read
from mechmask.models.routes import encode_contests
from mechmask.study.proof import prove
from mechmask.write.edit import METHODS
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

_PROVEN_ON = 4  # facts: each is read some dozen times


def examine(model: str | None, facts: Path | None) -> dict[str, object]:
    """Findings by name, in the order in which they should be read.

    Args:
        model: a model to load and read once; none by default.
        facts: facts to tokenize with it.

    Returns:
        Texts and numbers by name; ``proof`` is among them where there is a model: a row for everything that was tried
        on it (``mechmask.study.proof``); ``problem`` where something would fail, with what would help.
    """
    findings: dict[str, object] = {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    findings |= {"threads": torch.get_num_threads(), "cuda": ", ".join(devices) or "none"}
    findings |= {f"presets of {method}": ", ".join(presets(method)) or "none" for method in METHODS}
    problems = [problem for examined in (_cache, _model_and_facts) for problem in examined(findings, model, facts)]
    return {**findings, "problem": "\n".join(problems)} if problems else findings


def _cache(findings: dict[str, object], *_: object) -> Iterator[str]:
    """Where models and lenses are kept, and whether they can be."""
    root = cache_root()
    cached = (root / f"{smollm2.NAME}-{smollm2.GGUF_SHA256[:8]}").is_dir()
    findings |= {"cache": str(root), "embedded model": "in the cache" if cached else "fetched on first use"}
    nearest = next(path for path in (root, *root.absolute().parents) if path.exists())
    if not nearest.is_dir():
        yield f"The cache {root} cannot be used: {nearest} is a file. Set MECHMASK_CACHE to a directory."
    elif not os.access(nearest, os.W_OK | os.X_OK):
        yield f"The cache {root} cannot be written to. Set MECHMASK_CACHE to a directory of yours."


def _model_and_facts(findings: dict[str, object], model: str | None, facts: Path | None) -> Iterator[str]:
    """What a model and facts would hit, each on its own and together."""
    contested = loaded = None
    try:
        contested = load_facts(facts) if facts is not None else None
    except MechmaskError as error:
        yield str(error)
    try:
        loaded = load_model(model) if model is not None else None
    except MechmaskError as error:
        yield str(error)
    if contested is not None:
        findings["facts"] = repr(contested)
    if loaded is None:
        return
    findings |= {"model": repr(loaded), "fingerprint": loaded.fingerprint, "tokenizer": type(loaded.tokenizer).__name__}
    findings["context"] = "no limit" if loaded.max_tokens is None else f"{loaded.max_tokens} tokens at most"
    if loaded.rope_threshold is not None:
        findings["rotary frequencies"] = f"other ones beyond {loaded.rope_threshold} tokens; never mixed in one batch"
    facts_tried = contested if contested is not None else synthetic_facts(4, n_never=0)
    try:
        _tokenize_together(findings, loaded, facts_tried)
    except MechmaskError as error:
        yield str(error)
        return
    proof = prove(loaded, facts_tried[:_PROVEN_ON])
    findings["proof"] = [asdict(check) for check in proof]
    yield from (f"{check.name}: {check.why}" for check in proof if check.is_needed and not check.passed)


def _tokenize_together(findings: dict[str, object], model: Model, facts: FactSet) -> None:
    """Tokenize the facts and hold them against the context."""
    contests = encode_contests(model.tokenizer, facts)
    longest = max(max(n_read(contest, "sequence").values()) for contest in contests if contest is not None)
    findings["longest fact"] = f"{longest} tokens with its longest value"
    require_context(model, contests)
    why = "attention takes no mask, or a route is longer than its window"
    why = "it is quantised so that what stands in one pass moves the rest" if model.is_read_alone else why
    findings["packed routes"] = "yes" if may_pack(model, contests) else f"no: {why}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def proof_table(findings: Mapping[str, Any]) -> pd.DataFrame:
    """What was tried on a model, as a person reads it.

    Args:
        findings: what ``examine`` found of a model.
    """
    rows = [
        {
            "check": row["name"],
            "result": "passed" if row["passed"] else "FAILED" if row["is_needed"] else "not offered",
            "off by (nats)": "" if math.isnan(row["error_nats"]) else f"{row['error_nats']:.1e}",
            "allowed": f"{row['tolerance_nats']:.0e}" if row["tolerance_nats"] else "nothing",
            "why": row["why"],
        }
        for row in findings["proof"]
    ]
    return pd.DataFrame(rows).set_index("check")
