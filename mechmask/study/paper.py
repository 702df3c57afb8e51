"""``PaperStudy``: all experiments of paper 2F on one model, over several draws of facts, and a report of its findings.

Every part is a protocol over the same number of draws, of facts that the model knows or of facts that it is taught; all
lie in one directory, each draw a study that can be opened alone. The report sets each finding of the paper beside this
run's number, its interval and n.
"""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pydantic import Field, field_validator

from mechmask.configuration import Configuration
from mechmask.errors import StudyError, known_names
from mechmask.facts.fact_set import FactSet
from mechmask.files import write_text
from mechmask.models.model import Model
from mechmask.progress import note
from mechmask.study.config import StudyConfig
from mechmask.study.contrast_config import ContrastConfig
from mechmask.study.dose_config import DoseConfig
from mechmask.study.draws import CARD, DrawnResults, Draws
from mechmask.study.fact_tables import SyntheticTable, WorldTable
from mechmask.study.findings import CLAIMS
from mechmask.study.findings.finding import Finding, findings_of, findings_table, verdict_counts
from mechmask.study.protocols.contrast import ContrastStudy
from mechmask.study.protocols.correction import CorrectionConfig, CorrectionStudy
from mechmask.study.protocols.dose import DoseStudy
from mechmask.study.protocols.mask import MaskStudy
from mechmask.study.protocols.precision import PrecisionConfig, PrecisionStudy
from mechmask.study.protocols.reacquisition import ReacquisitionConfig, ReacquisitionStudy
from mechmask.study.protocols.reactance import ReactanceConfig, ReactanceStudy
from mechmask.study.protocols.renewal import RenewalConfig, RenewalStudy
from mechmask.study.protocols.twins import TwinsConfig, TwinStudy
from mechmask.study.report import figures_of_first_draw, paper_report
from mechmask.write.finetune_config import FinetuneConfig

REPORT = "report.md"


class Part(NamedTuple):
    """An experiment of the paper: the protocol, and whether its facts are known to the model or taught first."""

    study: Any
    facts: str


PARTS = {
    "correction": Part(CorrectionStudy, "known"),
    "twins": Part(TwinStudy, "taught"),
    "mask": Part(MaskStudy, "taught"),
    "dose": Part(DoseStudy, "known"),
    "precision": Part(PrecisionStudy, "known"),
    "contrast": Part(ContrastStudy, "known"),
    "reactance": Part(ReactanceStudy, "taught"),
    "reacquisition": Part(ReacquisitionStudy, "taught"),
    "renewal": Part(RenewalStudy, "taught"),
}


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
        dose: known facts, corrected ever further.
        precision: known facts, with the weights in coarser types.
        contrast: known facts, edited and fine-tuned to one margin.
        reactance: taught facts, installed to several strengths.
        reacquisition: taught facts, taught again after their correction.
        renewal: taught facts, asked in another context.
    """

    draws: int = Field(default=5, ge=1)
    first_draw: int = Field(default=0, ge=0)
    known: WorldTable = WorldTable(n_contradicted=8, n_control=4, n_never=16)
    taught: SyntheticTable = SyntheticTable(n=12, n_contradicted=8, n_never=4)
    correction: CorrectionConfig | None = CorrectionConfig(contradict=FinetuneConfig(steps=20), checkpoint_every=4)
    twins: TwinsConfig | None = TwinsConfig(install=FinetuneConfig(steps=36), contradict=FinetuneConfig(steps=20))
    mask: StudyConfig | None = StudyConfig(lens="ridge", edits=())
    dose: DoseConfig | None = DoseConfig(grid=({"lr": 1e-4}, {"lr": 1e-3}), scales=(0.5, 1.5))
    precision: PrecisionConfig | None = PrecisionConfig()
    contrast: ContrastConfig | None = ContrastConfig()
    reactance: ReactanceConfig | None = ReactanceConfig()
    reacquisition: ReacquisitionConfig | None = ReacquisitionConfig()
    renewal: RenewalConfig | None = RenewalConfig()

    @field_validator(*PARTS, mode="before")
    @classmethod
    def _none_by_name(cls, value: object) -> object:
        """TOML has no null."""
        return None if value == "none" else value

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
            StudyError: if a part's directory holds something else; and what the protocols raise.
        """
        c, root = self.config, Path(directory)
        for name in c.parts:
            note(f"{name}: {c.draws} draws of {PARTS[name].facts} facts")
            Draws(partial(self._study, name), range(c.first_draw, c.first_draw + c.draws)).run(root / name)
        results = PaperResults(root)
        write_text(root / "findings.csv", results.summary().to_csv())
        write_text(root / REPORT, paper_report(results.findings, results.parts, root))
        return results

    def _study(self, part: str, draw: int, _seed: int = 0) -> Any:
        """The study of one draw, whose number draws the facts; trainings have the seeds of their configurations."""
        return PARTS[part].study(self.model, self._facts(PARTS[part].facts, draw), self.config.parts[part])

    def _facts(self, kind: str, draw: int) -> FactSet:
        """The facts of a draw, drawn once: to know what a model holds takes a reading."""
        if (kind, draw) not in self._drawn:
            c = self.config
            self._drawn[kind, draw] = c.known.facts(self.model, draw) if kind == "known" else c.taught.facts(draw)
        return self._drawn[kind, draw]


class PaperResults:
    """What a run of the paper's experiments found, opened without a model and without torch.

    Args:
        directory: of the run.

    Raises:
        StudyError: if no part in it is finished.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        if not self.parts:
            raise StudyError(
                f"{self.directory} holds no finished part of a paper study. Run it, or give its directory."
            )

    def __repr__(self) -> str:
        return f"PaperResults({str(self.directory)!r}, {', '.join(self.parts)})"

    @cached_property
    def parts(self) -> dict[str, DrawnResults]:
        """The draws of every part that is finished, by its name."""
        return {name: DrawnResults(self.directory / name) for name in PARTS if (self.directory / name / CARD).is_file()}

    @cached_property
    def findings(self) -> list[Finding]:
        """Every claim of the paper beside this run's number."""
        return findings_of(CLAIMS, self.parts)

    def figures(self, part: str) -> list[Path]:
        """The figures of a part's first draw, as PNG.

        Args:
            part: its name.

        Raises:
            StudyError: if it is not finished.
        """
        if part not in self.parts:
            raise StudyError(f"{self.directory} holds no finished part {part!r}. {known_names(part, self.parts)}")
        return figures_of_first_draw(part, self.parts[part])

    def summary(self) -> pd.DataFrame:
        """The findings, a row each: the paper's number, this run's with its interval and n, and the verdict."""
        return findings_table(self.findings)

    def conclusion(self) -> str:
        """How many claims agree, disagree, are undecided, or were not measured."""
        counts = verdict_counts(self.findings)
        return f"Of {len(self.findings)} claims of the paper, {counts}. {self.directory / REPORT} says which."
