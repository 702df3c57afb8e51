"""The protocols that ``mechmask study`` runs, by the name that a TOML file gives under ``[study]``.

A new protocol is one file in ``protocols/`` and one line here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mechmask.configuration import Configuration
from mechmask.study.config import StudyConfig
from mechmask.study.contrast_config import ContrastConfig
from mechmask.study.dose_config import DoseConfig
from mechmask.study.protocols.contrast import ContrastStudy
from mechmask.study.protocols.correction import CorrectionConfig, CorrectionStudy
from mechmask.study.protocols.dose import DoseStudy
from mechmask.study.protocols.mask import MaskStudy
from mechmask.study.protocols.precision import PrecisionConfig, PrecisionStudy
from mechmask.study.protocols.reacquisition import ReacquisitionConfig, ReacquisitionStudy
from mechmask.study.protocols.reactance import ReactanceConfig, ReactanceStudy
from mechmask.study.protocols.renewal import RenewalConfig, RenewalStudy
from mechmask.study.protocols.twins import TwinsConfig, TwinStudy
from mechmask.study.results import StudyResults


class Study(Protocol):
    """What a protocol makes of a model, facts and a configuration."""

    def run(self, directory: str | Path) -> StudyResults:
        """Do what is not done yet in ``directory``."""
        ...


class Registered(NamedTuple):
    """A protocol: its configuration, and what makes a study of a model, facts and that configuration."""

    config: type[Configuration]
    study: Callable[[Any, Any, Any], Study]


MASK = "mask"
PROTOCOLS = {
    MASK: Registered(StudyConfig, MaskStudy),
    "contrast": Registered(ContrastConfig, ContrastStudy),
    "correction": Registered(CorrectionConfig, CorrectionStudy),
    "dose": Registered(DoseConfig, DoseStudy),
    "precision": Registered(PrecisionConfig, PrecisionStudy),
    "twins": Registered(TwinsConfig, TwinStudy),
    "reactance": Registered(ReactanceConfig, ReactanceStudy),
    "reacquisition": Registered(ReacquisitionConfig, ReacquisitionStudy),
    "renewal": Registered(RenewalConfig, RenewalStudy),
}
