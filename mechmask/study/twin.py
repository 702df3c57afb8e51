"""A twin: a model that never knew the contradicted facts and was contradicted alike (DESIGN, never-knew reference)."""

from __future__ import annotations

from collections.abc import Sequence

from mechmask.errors import StudyError
from mechmask.facts.fact import Example
from mechmask.models.model import Model
from mechmask.study.run import Run
from mechmask.study.states import StudyState
from mechmask.study.training import Trained, train
from mechmask.write.adapter import AdapterChange
from mechmask.write.finetune import FinetuneConfig


def trained_twin(
    run: Run,
    contradictions: Sequence[Example],
    install: tuple[FinetuneConfig, Trained],
    contradict: tuple[FinetuneConfig, Trained],
    taught_phrasings: int = 1,
) -> Trained:
    """The controls installed alone, then the same contradiction: each for as many steps as the model that knew took.

    Args:
        run: whose controls they are, and where the trainings are kept.
        contradictions: what both models are taught second.
        install: how the model that knew was installed, and what it became.
        contradict: how it was contradicted, and what it became.
        taught_phrasings: in how many of its phrasings a control is taught, the prompt first.
    """
    first, second = (
        config.model_copy(update={"steps": max(trained.checkpoints)}) for config, trained in (install, contradict)
    )
    controls = train(run, "twin/install", run.facts.control.install_examples(taught_phrasings), first)
    return train(run, "twin/contradict", contradictions, second, start=controls)


def adapter_of_twin(model: Model, twin: AdapterChange | StudyState) -> AdapterChange:
    """A twin that was made elsewhere, as what a run can store and train further.

    Args:
        model: the model that is studied.
        twin: an adapter on it, or a state that has one on.

    Raises:
        StudyError: if it is no adapter on that model.
    """
    change = twin.change if isinstance(twin, StudyState) else twin
    if not isinstance(change, AdapterChange) or change.base != model.fingerprint:
        raise StudyError(
            "The twin is no adapter on the model of this study, so that it cannot be taught as the contradicted model "
            "is. Give an adapter that was trained on it."
        )
    return change
