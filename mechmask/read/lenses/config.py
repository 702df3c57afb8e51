"""How a lens is fitted: the settings, and what is refused before work starts."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mechmask.errors import ReadingError, one_message

KINDS = ("tuned", "ridge")


class LensConfig(BaseModel):
    """How a lens is fitted.

    Steps and learning rate are chosen on SmolLM2-135M, where 50 steps leave at layers 10 and 20, in nats, 2.19 and 1.47
    at 1e-3 and 2.16 and 1.45 at 2e-3; ridge, from which they start, 2.68 and 1.84.

    Attributes:
        seed: of sampled text, the held-out part and the order of tokens.
        n_tokens: tokens of text, a tenth of them held out.
        steps: of Adam, for each layer; only for the tuned lens, as what follows.
        tokens_per_step: tokens that a step sees.
        lr: learning rate at the first step; it falls linearly to zero.
        patience: checks, ten steps apart, without a lower held-out KL after which a layer stops.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0)
    n_tokens: int = Field(default=16384, ge=256)
    steps: int = Field(default=50, ge=1)
    tokens_per_step: int = Field(default=256, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    patience: int = Field(default=2, ge=1)


def lens_config(**values: float) -> LensConfig:
    """Checked settings.

    Raises:
        ReadingError: listing every value that is out of bounds.
    """
    try:
        return LensConfig.model_validate(values)
    except ValidationError as error:
        problems = [f"{entry['loc'][0]} is {entry['input']!r}: {entry['msg']}." for entry in error.errors()]
        raise ReadingError(one_message("the settings of the lens", problems)) from error


def require_kind(kind: str) -> None:
    """Refuse a kind of lens that cannot be fitted, or whose library is not there.

    Raises:
        ReadingError: saying which there are, or how to install it.
    """
    if kind not in KINDS:
        raise ReadingError(f"A lens of kind {kind!r} cannot be fitted. Give one of {', '.join(KINDS)}.")
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
            "Run: pip install 'tuned-lens>=0.2', or use lens='ridge'."
        ) from error
