"""``PaperStudy``: all experiments of paper 2F on one model, over several draws of facts, and a report of its findings.

Every part is a protocol over the same number of draws, of facts that the model knows or of facts that it is taught; all
lie in one directory, each draw a study that can be opened alone. The report sets each finding of the paper beside this
run's number, its interval and n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from mechmask.configuration import Configuration
from mechmask.errors import StudyError
from mechmask.facts.fact_set import FactSet
from mechmask.file_errors import file_errors
from mechmask.files import write_text
from mechmask.models.model import Model
from mechmask.progress import note
from mechmask.study.config import StudyConfig
from mechmask.study.contrast_config import ContrastConfig
from mechmask.study.dose_config import DoseConfig
from mechmask.study.draws import Draws
from mechmask.study.fact_tables import SyntheticTable, WorldTable
from mechmask.study.paper_parts import NOTHING_TO_INSTALL, PARTS
from mechmask.study.paper_results import FINDINGS, PAPER_CARD, REPORT, PaperResults
from mechmask.study.protocols.contrast import ContrastStudy
from mechmask.study.protocols.correction import CorrectionConfig, CorrectionStudy
from mechmask.study.protocols.dose import DoseStudy
from mechmask.study.protocols.mask import MaskStudy
from mechmask.study.protocols.precision import PrecisionConfig, PrecisionStudy
from mechmask.study.protocols.reacquisition import ReacquisitionConfig, ReacquisitionStudy
from mechmask.study.protocols.reactance import ReactanceConfig, ReactanceStudy
from mechmask.study.protocols.renewal import RenewalConfig, RenewalStudy
from mechmask.study.protocols.twins import TwinsConfig, TwinStudy
from mechmask.study.report import paper_report
from mechmask.study.step import sealed_text
from mechmask.write.finetune_config import FinetuneConfig

_STUDIES: Mapping[str, Callable[[Model, FactSet, Any], Any]] = {
    "correction": CorrectionStudy,
    "twins": TwinStudy,
    "mask": MaskStudy,
    "dose": DoseStudy,
    "precision": PrecisionStudy,
    "contrast": ContrastStudy,
    "reactance": ReactanceStudy,
    "reacquisition": ReacquisitionStudy,
    "renewal": RenewalStudy,
}


_KNOWN = FinetuneConfig(steps=20)


class PaperConfig(Configuration):
    """Which experiments, of how many draws, and how each is done.

    Attributes:
        draws: how many draws of facts.
        first_draw: number of the first one.
        known: facts of the world that the model holds, drawn anew for each draw.
        taught: invented facts, drawn anew for each draw.
        correction: known facts, corrected and edited; ``None`` (``"none"`` in TOML) leaves a part out.
        twins: taught facts, in twins.
        mask: taught facts at every layer.
        mask_known: known facts at every layer.
        dose: known facts, corrected ever further.
        precision: known facts, with the weights in coarser types.
        contrast: known facts, edited and fine-tuned to one margin.
        reactance: taught facts, installed to several strengths.
        reactance_known: known facts, as strong as each is.
        reacquisition: taught facts, taught again after their correction.
        reacquisition_known: known facts, taught again after their correction.
        renewal: taught facts, asked in another context.
        renewal_known: known facts, asked in another context.
    """

    draws: int = Field(default=5, ge=1)
    first_draw: int = Field(default=0, ge=0)
    known: WorldTable = WorldTable(n_contradicted=8, n_control=4, n_never=16)
    taught: SyntheticTable = SyntheticTable(n=12, n_contradicted=8, n_never=4)
    correction: CorrectionConfig | None = CorrectionConfig(contradict=FinetuneConfig(steps=20), checkpoint_every=4)
    twins: TwinsConfig | None = TwinsConfig(install=FinetuneConfig(steps=36), contradict=FinetuneConfig(steps=20))
    mask: StudyConfig | None = StudyConfig(lens="ridge", edits=())
    mask_known: StudyConfig | None = StudyConfig(install=None, contradict=_KNOWN, lens="ridge", edits=())
    dose: DoseConfig | None = DoseConfig(grid=({"lr": 1e-4}, {"lr": 1e-3}), scales=(0.5, 1.5))
    precision: PrecisionConfig | None = PrecisionConfig()
    contrast: ContrastConfig | None = ContrastConfig()
    reactance: ReactanceConfig | None = ReactanceConfig()
    reactance_known: ReactanceConfig | None = ReactanceConfig(install=None)
    reacquisition: ReacquisitionConfig | None = ReacquisitionConfig()
    reacquisition_known: ReacquisitionConfig | None = ReacquisitionConfig(install=None)
    renewal: RenewalConfig | None = RenewalConfig()
    renewal_known: RenewalConfig | None = RenewalConfig(install=None)

    @field_validator(*PARTS, mode="before")
    @classmethod
    def _none_by_name(cls, value: object) -> object:
        """TOML has no null."""
        return None if value == "none" else value

    @field_validator(*NOTHING_TO_INSTALL, mode="before")
    @classmethod
    def _held_already(cls, value: object) -> object:
        """A table of such a part need not say that nothing is installed."""
        return {"install": None, **value} if isinstance(value, Mapping) else value

    @field_validator(*NOTHING_TO_INSTALL)
    @classmethod
    def _not_installed(cls, value: Any) -> Any:
        if value is not None and value.install is not None:
            raise ValueError("the model holds these facts already, so that nothing is installed. Leave install out")
        return value

    @property
    def parts(self) -> dict[str, Configuration]:
        """The configuration of every part that is run, by its name."""
        return {name: config for name in PARTS if (config := getattr(self, name)) is not None}


class PaperStudy:
    """All experiments of the paper on one model.

    Args:
        model: the model; it is left as it was.
        config: which experiments; ``PaperConfig()`` by default.

    Raises:
        StudyError: if no part is left to be run, and as each protocol refuses its first draw.
        FactError: if the model holds fewer facts than are asked for.
        ChangeError: if an editor has no setting for this model, or a training cannot be done.
        RouteError: if a value cannot be told from the prompt or from its rival.
    """

    def __init__(self, model: Model, config: PaperConfig | None = None) -> None:
        self.model, self.config = model, config or PaperConfig()
        self._drawn: dict[tuple[str, int], FactSet] = {}
        if not self.config.parts:
            raise StudyError(f"No part is left to be run. Give a configuration of at least one of {', '.join(PARTS)}.")
        for name in self.config.parts:
            self._study(name, self.config.first_draw)

    def __repr__(self) -> str:
        return f"PaperStudy({self.model.name!r}, {self.config.draws} draws of {', '.join(self.config.parts)})"

    def run(self, directory: str | Path) -> PaperResults:
        """Do what is not done yet in ``directory``, then write ``report.md``, ``findings.csv`` and the figures.

        Args:
            directory: new, or that of such a study; each part is a directory of draws below it.

        Raises:
            StudyError: if the directory or that of a part holds something else; and what the protocols raise.
        """
        c, root = self.config, Path(directory)
        _refuse_strangers(root)
        for name in c.parts:
            note(f"{name}: {c.draws} draws of {PARTS[name].facts} facts")
            Draws(partial(self._study, name), range(c.first_draw, c.first_draw + c.draws)).run(root / name)
        write_text(root / PAPER_CARD, sealed_text({"config": c.model_dump(mode="json")}))
        results = PaperResults(root)
        write_text(root / FINDINGS, results.summary().to_csv())
        write_text(root / REPORT, paper_report(results.findings, results.parts, root))
        return results

    def _study(self, part: str, draw: int, _seed: int = 0) -> Any:
        """The study of one draw, whose number draws the facts; trainings have the seeds of their configurations."""
        protocol, facts = PARTS[part]
        return _STUDIES[protocol](self.model, self._facts(facts, draw), self.config.parts[part])

    def _facts(self, kind: str, draw: int) -> FactSet:
        """The facts of a draw, drawn once: to know what a model holds takes a reading."""
        if (kind, draw) not in self._drawn:
            c = self.config
            self._drawn[kind, draw] = c.known.facts(self.model, draw) if kind == "known" else c.taught.facts(draw)
        return self._drawn[kind, draw]


def _refuse_strangers(root: Path) -> None:
    """Leave a directory alone that holds something but a paper study: its report would take the place of another."""
    with file_errors(root):
        there = {path.name for path in root.iterdir()} if root.is_dir() else set()
    parts = there & set(PARTS)
    ours = {*PARTS, REPORT, FINDINGS, PAPER_CARD, "figures"} if parts else set()
    strangers = sorted(
        name for name in there - ours if not name.startswith((f".{REPORT}.", f".{FINDINGS}.", f".{PAPER_CARD}."))
    )
    if strangers:
        raise StudyError(
            f"{root} is not empty and holds no paper study (there is {strangers[0]}). Give a new directory."
        )
