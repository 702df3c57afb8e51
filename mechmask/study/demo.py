"""The setting of ``mechmask demo``: small enough for two cores and five minutes, large enough for a verdict."""

from __future__ import annotations

from mechmask.facts.fact_set import FactSet
from mechmask.facts.synthetic import synthetic_facts
from mechmask.study.config import StudyConfig


def demo_facts(seed: int = 0) -> FactSet:
    """Eight contradicted facts, eight controls, twelve never shown."""
    return synthetic_facts(16, seed=seed, n_never=12)


def demo_config() -> StudyConfig:
    """The defaults of a study."""
    return StudyConfig()
