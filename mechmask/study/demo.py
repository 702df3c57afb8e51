"""The setting of ``mechmask demo``: small enough for two cores and five minutes, large enough for a verdict."""

from __future__ import annotations

from mechmask.facts.fact_set import FactSet
from mechmask.facts.synthetic import synthetic_facts
from mechmask.study.config import StudyConfig


def demo_facts(seed: int = 0) -> FactSet:
    """Six contradicted facts, six controls, ten never shown."""
    return synthetic_facts(12, seed=seed, n_never=10)


def demo_config() -> StudyConfig:
    """The defaults of a study, but each fact taught in two of its four phrasings."""
    return StudyConfig(taught_phrasings=2)
