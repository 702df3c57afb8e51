"""What every reading says of itself: which weights, how read, by which versions."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import torch
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.facts.fact import Fact
from mechmask.measure.reading import SCHEMA_VERSION
from mechmask.models.model import Model

SCORES = ("sequence", "mean", "divergence")

_PACKAGES = ("mechmask", "torch", "transformers", "transformer-lens", "peft")


def provenance(model: Model, **how: str | float) -> dict[str, str | float]:
    """Attributes of a reading: model, fingerprint of the weights, ``how`` it was made, package versions."""
    versions = {f"version_{name.replace('-', '_')}": version(name) for name in _PACKAGES}
    threads = torch.get_num_threads()
    return {
        "schema_version": SCHEMA_VERSION,
        "model": model.name,
        "fingerprint": model.fingerprint,
        **how,
        **versions,
        "threads": threads,
    }


def fact_coordinates(facts: list[Fact]) -> dict[str, tuple[str, list[str]] | list[str]]:
    """Coordinates of the ``fact`` dimension: label, subject, role, relation, magnitude."""
    fields = {
        name: ("fact", [getattr(fact, name) for fact in facts]) for name in ("subject", "role", "relation", "magnitude")
    }
    return {"fact": [fact.id for fact in facts], **fields}


def route_names(facts: list[Fact]) -> list[str]:
    """``old``, ``new`` and as many distractors as the fact with most of them has."""
    return ["old", "new", *(f"distractor_{i}" for i in range(max(len(fact.distractors) for fact in facts)))]


def value_coordinate(facts: list[Fact], routes: list[str]) -> xr.DataArray:
    """The value of every route as text ``[fact, route]``; empty where a fact has no such route."""
    values = np.array([[fact.values.get(route, "") for route in routes] for fact in facts], dtype=object)
    return xr.DataArray(values.astype(str), dims=("fact", "route"))


def require_score(score: str) -> None:
    """Refuse a score that is not defined."""
    if score not in SCORES:
        raise ReadingError(f"{score!r} is no score. Give one of {', '.join(SCORES)}.")
