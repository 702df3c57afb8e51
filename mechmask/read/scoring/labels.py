"""What every reading says of itself: which model, how it was read, by which versions; and the labels of its axes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, Literal, get_args

import numpy as np
import torch
import xarray as xr
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mechmask.errors import ReadingError, known_names
from mechmask.facts.fact import Fact
from mechmask.measure.reading import SCHEMA_VERSION
from mechmask.models.model import Model
from mechmask.models.states import Variant, unchanged

Score = Literal["sequence", "mean", "divergence"]
SCORES: tuple[Score, ...] = get_args(Score)

_PART = "\N{REPLACEMENT CHARACTER}"  # how decoders show bytes that are no whole character

_PACKAGES = ("mechmask", "torch", "transformers", "transformer-lens", "peft")


def provenance(now: Model, state: Model | Variant | None = None, **how: str | float) -> dict[str, str | float]:
    """Attributes of a reading.

    Args:
        now: what was computed with, changes included: its name and fingerprint.
        state: what the caller asked to be read; a state adds ``base_model``, the name of the model under its changes.
        how: how the reading was made.
    """
    under = {"base_model": unchanged(state).name} if isinstance(state, Variant) else {}
    return {
        "schema_version": SCHEMA_VERSION,
        "model": now.name,
        "fingerprint": now.fingerprint,
        **under,
        **how,
        **_versions(),
        "threads": torch.get_num_threads(),
    }


@cache
def _versions() -> dict[str, str]:
    return {f"version_{name.replace('-', '_')}": version(name) for name in _PACKAGES}


def fact_coordinates(facts: Sequence[Fact]) -> dict[str, Any]:
    """Coordinates of the ``fact`` dimension: label, subject, role, relation, magnitude, whom it stands for."""
    names = ("subject", "role", "relation", "magnitude", "stands_for")
    fields = {name: ("fact", [getattr(fact, name) for fact in facts]) for name in names}
    return {"fact": [fact.id for fact in facts], **fields}


def layer_coordinates(n_layers: int) -> dict[str, Any]:
    """Coordinates of the ``layer`` dimension, 0 (embedding) to L (what the final norm reads): ``depth`` = layer / L.

    Args:
        n_layers: L, the number of blocks.
    """
    layers = np.arange(n_layers + 1)
    return {"layer": layers, "depth": ("layer", layers / n_layers)}


def route_names(facts: Sequence[Fact]) -> list[str]:
    """``old``, ``new`` and as many distractors as the fact with most of them has."""
    return ["old", "new", *(f"distractor_{i}" for i in range(max(len(fact.distractors) for fact in facts)))]


def value_coordinate(facts: Sequence[Fact], routes: list[str]) -> xr.DataArray:
    """The value of every route as text ``[fact, route]``; empty where a fact has no such route."""
    values = np.array([[fact.values.get(route, "") for route in routes] for fact in facts], dtype=object)
    return xr.DataArray(values.astype(str), dims=("fact", "route"))


def token_texts(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[int]) -> str:
    r"""Tokens as text, ``|`` between two; tokens that split a character stand together, as the character.

    Where a character has no end among the tokens, its bytes are shown, such as ``\xe4\xb8``.
    """
    return "|".join(map(storable, _pieces(tokenizer, list(tokens))))


def _pieces(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> Iterator[str]:
    """The shortest runs of tokens that are text."""
    start = 0
    for stop in range(1, len(tokens) + 1):
        text = str(tokenizer.decode(tokens[start:stop]))
        if text.endswith(_PART) and stop < len(tokens):
            continue
        yield _in_bytes(tokenizer, tokens[start:stop]) if _PART in text else text
        start = stop


def _in_bytes(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    """Tokens that are no text as their bytes, where the tokenizer is over bytes; what can be read is."""
    spelled = "".join(tokenizer.convert_ids_to_tokens(tokens))
    fallback = re.findall(r"<0x([0-9A-F]{2})>", spelled)
    if fallback:
        return bytes.fromhex("".join(fallback)).decode("utf-8", "backslashreplace")
    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    if any(letter not in letters for letter in spelled):
        return str(tokenizer.decode(tokens))
    return bytes(letters[letter] for letter in spelled).decode("utf-8", "backslashreplace")


def storable(text: str) -> str:
    """Text as it can be written to any file: a backslash and its code for NUL and for lone surrogates."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def require_choice(what: str, choice: str, choices: Sequence[str]) -> None:
    """Refuse an unknown choice.

    Args:
        what: the name of the option, such as ``score``.
        choice: what was given.
        choices: what can be given.

    Raises:
        ReadingError: naming the nearest choice, if one is near, and all of them.
    """
    if choice not in choices:
        raise ReadingError(f"{what}={choice!r} is not known. {known_names(str(choice), choices)}")


def require_score(score: str) -> None:
    """Refuse a score that is not defined.

    Raises:
        ReadingError: naming those that are.
    """
    require_choice("score", score, SCORES)
