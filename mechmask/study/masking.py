"""Old values that are installed until they are recalled, then masked by a correction that has just won.

Where the protocols begin that ask what becomes of a masked value afterwards. Facts that the model holds from
pretraining are not installed.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mechmask.configuration import NONE_BY_NAME, Configuration
from mechmask.facts.fact_set import FactSet
from mechmask.study.run import Run
from mechmask.study.states import StudyState
from mechmask.study.training import Trained, train
from mechmask.study.until import Until
from mechmask.study.watches import recall_watch
from mechmask.write.finetune_config import FinetuneConfig


class MaskingConfig(Configuration):
    """How old values are installed and masked.

    Attributes:
        install: how the old values are taught first; ``None`` (``"none"`` in TOML) for facts that the model holds
            already.
        install_recall: installing ends at the first checkpoint at which this share of the taught facts is recalled.
        contradict: how the new values are taught, from the installed adapter on.
        contradict_until: contradicting ends at the first checkpoint at which new is recalled or leads by so much: a
            correction that has just won. After all steps with ``None`` (``"none"`` in TOML).
        taught_phrasings: in how many of its phrasings each fact is taught, the prompt first; recall counts on the
            prompt, and the others are only read.
        checkpoint_every: optimizer steps between two readings while installing and contradicting.
        level: of all intervals.
        batch_size: prompts per forward pass when reading; affects memory only.
    """

    install: Annotated[FinetuneConfig | None, NONE_BY_NAME] = FinetuneConfig(steps=60)
    install_recall: float = Field(default=1.0, gt=0, le=1)
    contradict: FinetuneConfig = FinetuneConfig(steps=30)
    contradict_until: Annotated[Until | None, NONE_BY_NAME] = Until(recall=1.0)
    taught_phrasings: int = Field(default=1, ge=1)
    checkpoint_every: int = Field(default=5, ge=1)
    level: float = Field(default=0.95, gt=0, lt=1)
    batch_size: int = Field(default=32, ge=1)


def installed(run: Run, facts: FactSet, config: MaskingConfig) -> Trained | None:
    """The model with the old values installed; ``None`` where it holds them already.

    Args:
        run: which run.
        facts: what is installed.
        config: how.
    """
    if config.install is None:
        return None
    watch = recall_watch(facts, config.checkpoint_every, config.batch_size)
    examples = facts.install_examples(config.taught_phrasings)
    return train(run, "install", examples, config.install, until=config.install_recall, watch=watch)


def contradicted(
    run: Run, facts: FactSet, start: StudyState | None, config: MaskingConfig, name: str = "contradict"
) -> Trained:
    """The model in which the new values mask the old ones.

    Args:
        run: which run.
        facts: what is contradicted.
        start: what it goes on from; the model as it came by default.
        config: how.
        name: of the training.
    """
    watch = recall_watch(facts, config.checkpoint_every, config.batch_size)
    examples = facts.contradiction_examples(config.taught_phrasings)
    return train(run, name, examples, config.contradict, start=start, until=config.contradict_until, watch=watch)
