"""What a fine-tuning trains, a file each. A new method is one class and one line in ``METHODS``."""

from __future__ import annotations

from mechmask.models.model import Model
from mechmask.write.finetune_config import FinetuneConfig, Method
from mechmask.write.trained.adapter import DoRA, LoRA
from mechmask.write.trained.full import Full
from mechmask.write.trained.trained import Trained

METHODS: dict[Method, type[Trained]] = {"lora": LoRA, "dora": DoRA, "full": Full}


def trained_by(model: Model, config: FinetuneConfig) -> Trained:
    """What a configuration trains on a model.

    Raises:
        ChangeError: if it names no block, or one that the model lacks, or the weights cannot be trained as it says.
    """
    return METHODS[config.method](model, config)
