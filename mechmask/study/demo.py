"""``mechmask demo``: one question asked twice, of facts that the model knows and of facts that it was taught.

Small enough for two cores and five minutes. What a model knows from pretraining is held against invented subjects in
the same prompts; what it was taught, against a twin that was not taught it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mechmask.facts.fact_set import FactSet
from mechmask.facts.roles import assign_roles
from mechmask.facts.synthetic import synthetic_facts
from mechmask.facts.world import world_facts
from mechmask.models.model import Model
from mechmask.read.known import known_facts
from mechmask.study.protocols.correction import CorrectionConfig, CorrectionStudy
from mechmask.study.protocols.twins import TwinsConfig, TwinStudy
from mechmask.study.results import StudyResults
from mechmask.write.finetune import FinetuneConfig

KNOWN_HOW = {"world": "that it knows, such as capitals", "taught": "that it was taught, and a twin was not"}
RELATIONS = ("capital", "official_language", "city_country", "continent")


def run_demo(model: Model, directory: Path, seed: int = 0) -> Mapping[str, StudyResults]:
    """Both studies of the demo.

    Args:
        model: the model; it is left as it was.
        directory: the studies lie below it, ``world`` and ``taught``; taken up again where they stopped.
        seed: draws the facts.

    Returns:
        The results by name.
    """
    held = known_facts(model, world_facts(relations=RELATIONS, seed=seed))
    known = assign_roles(held, n_contradicted=8, n_control=4, n_never=16, seed=seed)
    world = CorrectionConfig(
        contradict=FinetuneConfig(steps=20), checkpoint_every=4, taught_phrasings=1, edits=("ft_l",)
    )
    taught = TwinsConfig(install=FinetuneConfig(steps=36), contradict=FinetuneConfig(steps=20), checkpoint_every=4)
    return {
        "world": CorrectionStudy(model, known, world).run(directory / "world"),
        "taught": TwinStudy(model, demo_facts(seed), taught).run(directory / "taught"),
    }


def demo_facts(seed: int = 0) -> FactSet:
    """Facts about things that do not exist: six contradicted, three controls, four never shown."""
    return synthetic_facts(9, n_contradicted=6, n_never=4, seed=seed)
