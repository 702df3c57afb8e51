"""What a study of editors does, as a frozen configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from mechmask.configuration import NONE_BY_NAME
from mechmask.read.backends import BackendName
from mechmask.read.lenses.lens import LensName
from mechmask.study.config import Editor, VerdictConfig
from mechmask.write.finetune_config import FinetuneConfig

OF_THE_MODEL = "model"


class EditingConfig(VerdictConfig):
    """Which editors change the facts, how, and what is read of each.

    Attributes:
        edits: the editors: configurations with their ``method``, or names of methods, of which the preset for the model
            is taken; at least one.
        edited: ``each`` fact alone; all of them ``together`` by one call; or one after the other in a ``sequence``, by
            one editor that goes on from its own edits.
        read_every: edits of a sequence between two readings of its drift.
        install: how the old values are taught first, to twins that each know one share of the facts; ``None``
            (``"none"`` in TOML) for facts that the model knows from pretraining.
        twins: how many, where facts are installed.
        lens: of the depth readings.
        backend: of the depth readings.
        generation: whether texts are sampled, for GE; each takes ``n_tokens`` forward passes.
        n_tokens: length of a text, its prompt included.
        seed: of the draws of these texts, and of text that the model samples from itself.
        text: held-out text on which drift is read: the path of a UTF-8 file, from where the study is run, or ``model``
            for text that the model samples from itself; ``None`` (``"none"`` in TOML) for no such reading.
        text_tokens: of that text, at most.
    """

    edits: tuple[Editor, ...] = ("ft_l",)
    edited: Literal["each", "together", "sequence"] = "each"
    read_every: int = Field(default=10, ge=1)
    install: Annotated[FinetuneConfig | None, NONE_BY_NAME] = None
    twins: int = Field(default=2, ge=2)
    lens: LensName = "logit"
    backend: BackendName = "transformer_lens"
    generation: bool = True
    n_tokens: int = Field(default=100, ge=2)
    seed: int = Field(default=0, ge=0)
    text: Annotated[str | None, NONE_BY_NAME] = None
    text_tokens: int = Field(default=1024, ge=2)

    @field_validator("edits")
    @classmethod
    def _some(cls, edits: tuple[Editor, ...]) -> tuple[Editor, ...]:
        if not edits:
            raise ValueError("there is no editor. Give at least one")
        return edits
