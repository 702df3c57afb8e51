"""The page of a calibration: which statistic was chosen, how well it does where it was not, and its error rates."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pandas as pd

from mechmask import draw
from mechmask.draw.page.content import Code, Document, Paragraph, Plate, Section, Sheet
from mechmask.measure.calibration import rows_with, widest
from mechmask.study.pages.exhibit import with_intervals
from mechmask.study.pages.fact_rows import fact_section, list_section
from mechmask.study.pages.origin import citation, provenance
from mechmask.study.pages.sentences import of_discrimination
from mechmask.study.pages.words import draws_named
from mechmask.study.results import StudyResults

if TYPE_CHECKING:
    from mechmask.study.calibration_results import Calibration

_NAMES = {"auroc": "AUROC", "known": "told", "n": "n"}
_SHOWS = (
    "AUROC of every candidate statistic and by dose, and shares of verdicts where the truth is known, with intervals."
)


def calibration_page(found: Calibration) -> Document:
    """The page of a calibration.

    Args:
        found: what it found.
    """
    lead = (
        f"{draws_named(found.choosing).capitalize()} chose the statistic, {draws_named(found.judging)} judged it and "
        "had "
        f"no part in the choice. Chosen: {found.statistic}, less that "
        "of the "
        f"same fact in a model that never knew it; without any such model the same rule chose {found.unpaired}."
    )
    said = of_discrimination(found.by_fact, found.statistic)
    sections = [
        Section("How well it tells", [_figure(found, said), _candidates(found)]),
        Section("Verdicts where the truth is known", [_rates(found)]),
        Section("By model, and beside savings", [_by_model(found), _savings(found)]),
    ]
    return Document(f"The ruler where the truth is known: {_model(found)}", [lead, said], [*sections, *_ending(found)])


def _figure(found: Calibration, said: str) -> Plate:
    return Plate(said, f"{_SHOWS} {said}", lambda: draw.calibration(found.by_fact, found.rates, found.statistic))


def _candidates(found: Calibration) -> Sheet:
    rows = rows_with(found.by_fact, treatment="contradicted", known="any")
    rows = widest(rows.loc[rows["dose"] == rows["dose"].max()])
    rows = rows.sort_values(["reference", "auroc"], ascending=[True, False])
    said = (
        "Every candidate at the last dose after the contradiction, all pools that knew against all that never did: "
        "AUROC by "
        f"fact with its 95% interval, n readings on {draws_named(found.judging)}; never is paired with the same fact "
        "where it "
        "was not told."
    )
    return Sheet(said, _auroc(rows, "statistic", "reference", "phrasings"), _NAMES, 3)


def _by_model(found: Calibration) -> Sheet:
    rows = rows_with(found.by_model, treatment="contradicted", known="any")
    rows = rows.loc[rows["dose"] == rows["dose"].max()].sort_values("auroc", ascending=False)
    said = "The same by model at the last dose, the mean over the facts of one model; n models, 95% intervals."
    return Sheet(said, _auroc(rows, "statistic", "reference", "phrasings"), _NAMES, 3)


def _rates(found: Calibration) -> Sheet:
    said = (
        f"Verdicts by {found.statistic} on {draws_named(found.judging)} by dose: shares with exact 95% "
        "intervals, "
        "n groups or facts. Models that are perfectly erased never knew; those left alone still know."
    )
    return Sheet(said, found.rates, {}, 3)


def _savings(found: Calibration) -> Sheet:
    rows = {
        name: {"correlation": c.estimate, "correlation_low": c.low, "correlation_high": c.high, "n": c.n}
        for name, c in found.savings.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("candidate")
    said = (
        "Rank correlation of each candidate after the last dose with how soon the old value is said again, n facts and "
        "pools, 95% interval with the draw as cluster."
    )
    return Sheet(said, table.sort_values("correlation", ascending=False))


def _auroc(rows: pd.DataFrame, *labels: str) -> pd.DataFrame:
    return with_intervals(rows.loc[:, [*labels, "auroc", "low", "high", "n"]].set_index(list(labels)))


def _draws(found: Calibration) -> list[StudyResults]:
    if found.directory is None:
        return []
    return [StudyResults(found.directory / f"draw_{seed:03d}") for seed in (*found.choosing, *found.judging)]


def _model(found: Calibration) -> str:
    draws = _draws(found)
    return draws[0].model_name if draws else "a calibration"


def _ending(found: Calibration) -> list[Section]:
    draws = _draws(found)
    if not draws:
        return [citation()]
    rows = []
    for seed, one in zip((*found.choosing, *found.judging), draws, strict=True):
        names = {fact: f"draw {seed}/{fact}" for fact in one.facts.ids}
        rows += fact_section(one.facts, {}, names).blocks[0].rows  # pyright: ignore[reportAttributeAccessIssue]
    code = (
        "import mechmask as mm\n\n"
        f"model = mm.load_model({draws[0].model_name!r})\n"
        f"config = mm.CalibrationConfig.model_validate_json({_config(draws[0])!r})\n"
        f'mm.calibrate(model, "runs/again", choosing={found.choosing!r}, judging={found.judging!r}, config=config)\n'
    )
    again = [Paragraph("The draws, their facts and their trainings follow from the seeds."), Code("In Python:", code)]
    return [list_section(rows), provenance(draws[0]), citation(), Section("How to run it again", again)]


def _config(one: StudyResults) -> str:
    return json.dumps(one.config, ensure_ascii=False)
