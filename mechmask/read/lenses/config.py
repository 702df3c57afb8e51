"""How a lens is fitted: the settings, and what is refused before work starts. Needs no torch."""

from __future__ import annotations

import reprlib
from typing import Literal, TypeAlias, get_args

from pydantic import Field, ValidationError

from mechmask.configuration import Configuration, LearningRate, validated
from mechmask.errors import ReadingError

LensKind: TypeAlias = Literal["tuned", "ridge"]


class LensConfig(Configuration):
    """How a lens is fitted.

    Steps and learning rate were chosen on SmolLM2-135M, where 50 steps leave 2.19 and 1.47 nats at layers 10 and 20
    with 1e-3, and 2.16 and 1.45 with 2e-3; ridge, from which they start, leaves 2.68 and 1.84.

    Attributes:
        seed: draws the sampled text, the held-out part and the order of tokens.
        n_tokens: tokens of text, a tenth of them held out.
        steps: steps of Adam for each layer; this and what follows concern the tuned lens only.
        tokens_per_step: tokens that a step sees.
        lr: learning rate at the first step; it falls linearly to zero.
        patience: a layer stops after this many checks, ten steps apart, without a lower held-out KL.
    """

    refusal = ReadingError

    seed: int = Field(default=0, ge=0, lt=2**63)
    n_tokens: int = Field(default=16384, ge=256)
    steps: int = Field(default=50, ge=1)
    tokens_per_step: int = Field(default=256, ge=1)
    lr: LearningRate = 2e-3
    patience: int = Field(default=2, ge=1)


def lens_config(**values: object) -> LensConfig:
    """Checked settings.

    Raises:
        ReadingError: listing every value that is out of bounds.
    """
    return validated(LensConfig, values, "the settings of the lens", ReadingError)


def problems_of(error: ValidationError) -> list[str]:
    """What pydantic refused: one sentence for each field, with the value that it has."""
    problems = []
    for entry in error.errors(include_url=False, include_context=False):
        field = ".".join(map(str, entry["loc"])) or "the whole"
        problems.append(f"{field} is {reprlib.repr(entry['input'])}: {entry['msg']}.")
    return problems


def require_kind(kind: str) -> None:
    """Refuse a kind of lens that cannot be fitted, or whose library is missing.

    Raises:
        ReadingError: naming the kinds there are, or how to install the library.
    """
    if kind not in get_args(LensKind):
        raise ReadingError(f"A lens of kind {kind!r} cannot be fitted. Give one of {', '.join(get_args(LensKind))}.")
    if kind == "tuned":
        require_tuned_lens()


def require_tuned_lens() -> None:
    """Refuse to go on without the library tuned-lens.

    Raises:
        ReadingError: with the command that installs it.
    """
    try:
        import tuned_lens.nn.lenses  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise ReadingError(
            f"The tuned lens needs the library tuned-lens, which cannot be imported ({error}). "
            "Run: pip install 'tuned-lens>=0.2', or use the ridge lens instead."
        ) from error
