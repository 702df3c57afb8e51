"""What a contrast of edits and fine-tuning does, as a frozen configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mechmask.study.config import Editor, JudgedConfig
from mechmask.write.finetune_config import FinetuneConfig

JUST_WON_NATS = 1.5  # the paper's corrections that have just won: new at -1.6 to -2.4, old at -3.2 to -3.7


class ContrastConfig(JudgedConfig):
    """Which ways of changing are held against each other, and where.

    Attributes:
        trainings: ways of fine-tuning, by name.
        taught: ``alone``, each fact by a training of its own with one example, its prompt and its new value, which is
            what an edit is given, so that trainings and edits differ in how they change weights and in nothing else; it
            costs a training for each fact and way. ``together``, the paper's regime: one training of all facts with the
            controls re-presented, which differs from an edit in that as well.
        matched_margin: nats by which new leads old on the prompt where ways are compared. The paper's corrections that
            have just won lead by about 1.5.
        install: how the old values are taught first to the model that every way starts from; ``None`` (left out in
            TOML) for facts that it knows from pretraining.
        checkpoint_every: optimizer steps of a training between two looks at the margin.
        edits: the editors; at least one.
    """

    trainings: dict[str, FinetuneConfig] = Field(
        default={
            "lora": FinetuneConfig(lr=1e-4, steps=30),
            "full": FinetuneConfig(method="full", lr=1e-5, steps=30),
        },
        min_length=1,
    )
    taught: Literal["alone", "together"] = "alone"
    matched_margin: float = Field(default=JUST_WON_NATS, gt=0, allow_inf_nan=False)
    install: FinetuneConfig | None = None
    checkpoint_every: int = Field(default=1, ge=1)
    edits: tuple[Editor, ...] = ("ft_l",)
