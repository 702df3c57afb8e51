"""The setting of ``mechmask demo``: small enough for two cores and five minutes, large enough for a verdict."""

from __future__ import annotations

from mechmask.facts.fact_set import FactSet
from mechmask.facts.synthetic import synthetic_facts
from mechmask.study.config import StudyConfig
from mechmask.write.finetune import FinetuneConfig


def demo_facts(seed: int = 0) -> FactSet:
    """Six contradicted facts, six controls, and as many never shown as a verdict needs."""
    return synthetic_facts(12, seed=seed, n_never=8)


def demo_config() -> StudyConfig:
    """A study that teaches each fact in two of its four phrasings, and contradicts for 20 steps to spare time."""
    return StudyConfig(taught_phrasings=2, contradict=FinetuneConfig(steps=20))
