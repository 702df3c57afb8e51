"""What a mask study does, as a frozen configuration; every default stands here and in the study's folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mechmask.errors import StudyError, one_message
from mechmask.measure.erase import PAPER_CUTOFF_NATS
from mechmask.write.finetune import FinetuneConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


class StudyConfig(BaseModel):
    """Install, contradict, read.

    Attributes:
        install: how the old values are taught; ``None`` for facts that the model holds already.
        install_recall: installing ends at the first checkpoint at which this share of taught facts is recalled.
        contradict: how the new values are taught, from the installed adapter on.
        taught_phrasings: in how many of its phrasings each fact is installed and contradicted, the prompt first; the
            others are only read, as what carries over. The paper teaches one.
        checkpoint_every: optimizer steps between two readings.
        edits: editors that change each contradicted fact alone, beside the fine-tuning: configurations, or names of
            methods whose preset for the model's family and size is taken. Empty for none.
        score: of the readings at the output.
        lens: of the depth reading.
        backend: of the depth reading.
        cutoff_nats: erase index above which the paper's criterion says erased.
        level: of all intervals.
        batch_size: prompts per forward pass when reading; affects memory only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    install: FinetuneConfig | None = FinetuneConfig(steps=60)
    install_recall: float = Field(default=1.0, gt=0, le=1)
    contradict: FinetuneConfig = FinetuneConfig(steps=30)
    taught_phrasings: int = Field(default=1, ge=1)
    checkpoint_every: int = Field(default=10, ge=1)
    edits: tuple[EditConfig | EditMethod, ...] = ("ft_l",)
    score: Literal["sequence", "mean"] = "sequence"
    lens: LensName = "logit"
    backend: BackendName = "transformer_lens"
    cutoff_nats: float = Field(default=PAPER_CUTOFF_NATS, gt=0)
    level: float = Field(default=0.95, gt=0, lt=1)
    batch_size: int = Field(default=32, ge=1)

    @field_validator("install", mode="before")
    @classmethod
    def _none_by_name(cls, value: object) -> object:
        """TOML has no null."""
        return None if value == "none" else value


def checked(model: type[BaseModel], data: object, where: str) -> BaseModel:
    """``data`` as a configuration.

    Raises:
        StudyError: listing every field that is not usable, in one message.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [
            f"{where}: {'.'.join(map(str, item['loc'])) or 'the file'}: {item['msg']}. Mend it."
            for item in error.errors()
        ]
        raise StudyError(one_message(where, problems)) from error


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary.

    Raises:
        StudyError: if it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"Cannot read {path}: {error.strerror}. Check the path.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StudyError(f"{path.name} is not TOML ({error}). Mend it.") from error
