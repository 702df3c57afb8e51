"""The protocols that ``mechmask study`` runs, by the name that a TOML file gives under ``[study]``.

A new protocol is one file in ``protocols/`` and one line here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from mechmask.configuration import Configuration
from mechmask.study.config import StudyConfig
from mechmask.study.contrast_config import ContrastConfig
from mechmask.study.dose_config import DoseConfig
from mechmask.study.draws import DrawnResults
from mechmask.study.editing.config import EditingConfig
from mechmask.study.paper import PaperConfig, PaperStudy
from mechmask.study.paper_results import PaperResults
from mechmask.study.protocols.contrast import ContrastStudy
from mechmask.study.protocols.correction import CorrectionConfig, CorrectionStudy
from mechmask.study.protocols.dose import DoseStudy
from mechmask.study.protocols.editing import EditStudy
from mechmask.study.protocols.elasticity import ElasticityConfig, ElasticityStudy
from mechmask.study.protocols.mask import MaskStudy
from mechmask.study.protocols.precision import PrecisionConfig, PrecisionStudy
from mechmask.study.protocols.reacquisition import ReacquisitionConfig, ReacquisitionStudy
from mechmask.study.protocols.reactance import ReactanceConfig, ReactanceStudy
from mechmask.study.protocols.renewal import RenewalConfig, RenewalStudy
from mechmask.study.protocols.retention import RetentionStudy
from mechmask.study.protocols.twins import TwinsConfig, TwinStudy
from mechmask.study.results import StudyResults
from mechmask.study.retention.config import RetentionConfig


class Study(Protocol):
    """What a protocol makes of a model, facts and a configuration."""

    def run(self, directory: str | Path) -> StudyResults | DrawnResults | PaperResults:
        """Do what is not done yet in ``directory``."""
        ...


class Registered(NamedTuple):
    """A protocol: its configuration, and what makes a study of a model, facts and that configuration.

    Attributes:
        config: the class of the configuration.
        study: makes the study; of the model and the configuration alone where it draws its facts itself.
        draws_facts: whether it does.
    """

    config: type[Configuration]
    study: Callable[..., Study]
    draws_facts: bool = False


MASK = "mask"
PROTOCOLS = {
    MASK: Registered(StudyConfig, MaskStudy),
    "contrast": Registered(ContrastConfig, ContrastStudy),
    "correction": Registered(CorrectionConfig, CorrectionStudy),
    "dose": Registered(DoseConfig, DoseStudy),
    "editing": Registered(EditingConfig, EditStudy),
    "precision": Registered(PrecisionConfig, PrecisionStudy),
    "twins": Registered(TwinsConfig, TwinStudy),
    "reactance": Registered(ReactanceConfig, ReactanceStudy),
    "reacquisition": Registered(ReacquisitionConfig, ReacquisitionStudy),
    "renewal": Registered(RenewalConfig, RenewalStudy),
    "elasticity": Registered(ElasticityConfig, ElasticityStudy),
    "retention": Registered(RetentionConfig, RetentionStudy),
    "paper": Registered(PaperConfig, PaperStudy, draws_facts=True),
}
