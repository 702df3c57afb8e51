"""``FinetuneConfig``: what a fine-tuning does, checked before a model is touched."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from mechmask.configuration import Configuration, LearningRate
from mechmask.errors import ChangeError

Method: TypeAlias = Literal["lora", "dora", "full"]
Precision: TypeAlias = Literal["float32", "bfloat16"]
OF_ADAPTERS = ("rank", "alpha", "dropout", "projections")


class FinetuneConfig(Configuration):
    """How a model is fine-tuned.

    Attributes:
        method: what is trained: ``lora``, an adapter of low rank (Hu et al. 2021); ``dora``, one with a magnitude for
            each output beside it (Liu et al. 2024); ``full``, every weight of the blocks, while embedding, final norm
            and unembedding stay as they are. A full training takes a lower learning rate, some 1e-5.
        rank: of the LoRA factors.
        alpha: LoRA scale; the update is ``alpha / rank * B A``.
        dropout: on the adapter's input.
        projections: which linear maps carry an adapter.
        layers: which blocks are trained, 0..L-1; all by default.
        lr: learning rate of AdamW.
        steps: optimizer steps.
        batch_size: examples per step; all of them by default.
        weight_decay: of AdamW.
        max_grad_norm: L2 norm to which the gradient is clipped.
        seed: of the adapter's initial factors, the order of examples, and dropout.
        precision: of the products of a step. ``bfloat16`` is faster where the processor has it, and refused where it
            would be imitated; what is learned and its optimizer stay in float32, and readings are not affected. Of
            ``dora``, which peft computes, the first steps are then smaller: it rounds an update by itself.
            ``float32`` computes in the model's own type.
    """

    refusal = ChangeError

    method: Method = "lora"
    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    projections: Literal["all", "attention", "mlp"] = "all"
    layers: tuple[int, ...] | None = None
    lr: LearningRate = 2e-4
    steps: int = Field(default=30, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    seed: int = Field(default=0, ge=0)
    precision: Precision = "float32"

    @model_validator(mode="after")
    def _without_idle_settings(self) -> FinetuneConfig:
        idle = [name for name in OF_ADAPTERS if getattr(self, name) != FinetuneConfig.model_fields[name].default]
        if self.method == "full" and idle:
            raise ValueError(
                f"the method full trains the weights themselves, so that {' and '.join(idle)} would do nothing. Leave "
                "what belongs to adapters out, or take the method lora."
            )
        return self
