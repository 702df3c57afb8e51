"""What a calibration found: its tables, and the page that says which draws did what and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mechmask.errors import StudyError
from mechmask.facts.pools import HARD, KNOWING
from mechmask.measure.calibration import (
    chosen_statistic,
    discrimination,
    inner_scores,
    pool_scores,
    rows_with,
    savings_agreement,
    savings_scores,
    widest,
)
from mechmask.measure.correlation import Correlation
from mechmask.measure.error_rates import error_rates, verdicts_of_draw
from mechmask.measure.noise_parts import expected_of
from mechmask.measure.tables import markdown_table
from mechmask.measure.twin_design import Expected
from mechmask.study.pages.words import draws_named
from mechmask.study.results import StudyResults
from mechmask.study.step import unsealed
from mechmask.study.tabled import Tabled, Tables
from mechmask.study.tables import concatenated

if TYPE_CHECKING:
    from mechmask.draw.page.content import Document

CARD = "calibration.json"
FIGURE = "calibration.png"  # beside the page


@dataclass(frozen=True, repr=False)
class Calibration(Tabled):
    """What the draws say.

    Attributes:
        statistic: chosen on the choosing draws, of those paired with the never-knew reference.
        unpaired: chosen by the same rule of those without any reference.
        choosing: seeds of the draws that chose.
        judging: seeds of the draws that judged.
        scores: every candidate of every fact of the judging draws, see ``pool_scores``.
        by_fact: AUROC of every candidate by fact on the judging draws, see ``discrimination``.
        by_model: the same by model.
        rates: how often which verdict falls in which case on the judging draws, see ``error_rates``.
        savings: rank correlation of candidates after the contradiction with the savings of the same fact, by name.
        expected: what a study of twins may expect, of all draws, since nobody chose by it; ``None`` where what was told
            does not stand above what was not.
        directory: of the draws.
    """

    statistic: str
    unpaired: str
    choosing: tuple[int, ...]
    judging: tuple[int, ...]
    scores: pd.DataFrame
    by_fact: pd.DataFrame
    by_model: pd.DataFrame
    rates: pd.DataFrame
    savings: dict[str, Correlation]
    expected: Expected | None
    directory: Path | None = None

    _in_notebook = "by_fact"

    def __repr__(self) -> str:
        return (
            f"Calibration({self.statistic!r}, {draws_named(self.choosing)} chose, {draws_named(self.judging)} judged)"
        )

    def conclusion(self) -> str:
        """Which statistic was chosen, by which draws, and which without a reference."""
        choosing, judging = draws_named(self.choosing), draws_named(self.judging)
        return (
            f"{choosing.capitalize()} chose {self.statistic}, paired with the same fact in a model that "
            f"never knew it, and {self.unpaired} where there is no such model; {judging} judged. AUROC by "
            "fact over all phrasings, mean over doses after the contradiction began, by what the model knew."
        )

    def tables(self) -> Tables:
        """Every table by its name, to be made when it is asked for."""

        def by_pool(rows: pd.DataFrame) -> pd.DataFrame:
            return _by_pool(_at_every_dose(rows_with(rows, treatment="contradicted")))

        return {
            "by_fact": lambda: by_pool(self.by_fact),
            "by_model": lambda: by_pool(self.by_model),
            "rates": lambda: self.rates.reset_index().set_index("case"),
            "savings": lambda: _agreement(self),
        }

    def to_markdown(self) -> str:
        """The page of the calibration."""
        return _page(self)

    def page(self) -> Document:
        """What the report page of the calibration holds; ``mechmask.draw.report`` writes it."""
        from mechmask.study.pages.calibration import calibration_page

        return calibration_page(self)


def open_calibration(directory: str | Path) -> Calibration:
    """What a calibration found, from the results of its draws, without its model and without torch.

    Args:
        directory: where ``calibrate`` was told to work. It is only read.

    Raises:
        StudyError: if it holds no calibration that has ended, or a file of it is damaged; the message names the file.
    """
    root = Path(directory)
    path = root / CARD
    if not path.is_file():
        raise StudyError(f"{root} holds no finished calibration. Give the directory of one.")
    try:
        card = unsealed(path.read_bytes().decode("utf-8"))
        choosing, judging = card["choosing"], card["judging"]
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(
            f"{path} is damaged ({error}). Run the calibration again: what is finished is kept."
        ) from error
    drawn = {seed: StudyResults(root / f"draw_{seed:03d}") for seed in (*choosing, *judging)}
    return calibration_of(root, drawn, choosing, judging)


def calibration_of(
    directory: Path, drawn: Mapping[int, StudyResults], choosing: Sequence[int], judging: Sequence[int]
) -> Calibration:
    """What draws say together.

    Args:
        directory: of the draws.
        drawn: the results of each, by its seed.
        choosing: seeds of the draws on which the rule is applied.
        judging: seeds of the draws on which it is judged.
    """
    scores = {seed: _scores(results, seed) for seed, results in drawn.items()}
    to_choose = pd.concat([scores[seed] for seed in choosing], ignore_index=True)
    held_out = pd.concat([scores[seed] for seed in judging], ignore_index=True)
    chosen = chosen_statistic(to_choose)
    return Calibration(
        statistic=chosen,
        unpaired=chosen_statistic(to_choose, reference="none"),
        choosing=tuple(choosing),
        judging=tuple(judging),
        scores=held_out,
        by_fact=discrimination(held_out),
        by_model=discrimination(held_out, unit="model"),
        rates=error_rates(pd.concat([_verdicts(drawn[seed], chosen) for seed in judging])),
        savings=savings_agreement(held_out),
        expected=expected_of([results.reading("results/doses") for results in drawn.values()]),
        directory=directory,
    )


def _scores(results: StudyResults, seed: int) -> pd.DataFrame:
    """Every candidate of one draw after every treatment."""
    doses = results.reading("results/doses")
    last = doses.sizes["step"] - 1
    n = int(results.config["taught_phrasings"])
    tables = [
        pool_scores(doses, seed=seed, knowing=KNOWING, taught_phrasings=n),
        savings_scores(results.reading("results/relearned"), seed=seed, knowing=KNOWING, dose=last),
        inner_scores(results.reading("results/depth"), seed=seed, knowing=KNOWING, dose=last),
    ]
    for treatment, name in (("left alone", "alone"), ("edited", "edited"))[: 1 + bool(results.config["edits"])]:
        after = results.reading(f"results/{name}")[["logprob"]]
        told = doses[["logprob"]].isel(step=0, drop=True).sel(fact=after.fact)
        both = concatenated([told, after], "step", [0, 1])
        tables.append(pool_scores(both, seed=seed, knowing=KNOWING, taught_phrasings=n, treatment=treatment))
    return pd.concat(tables, ignore_index=True)


def _verdicts(results: StudyResults, statistic: str) -> pd.DataFrame:
    names = ("doses", "alone", "edited")[: 2 + bool(results.config["edits"])]
    readings = (results.reading(f"results/{name}") for name in names)
    return verdicts_of_draw(*readings, knowing=KNOWING, statistic=statistic)


def _page(found: Calibration) -> str:
    contradicted = rows_with(found.by_fact, treatment="contradicted")
    last = contradicted["dose"].max()
    widely = widest(rows_with(contradicted, dose=last))
    chosen = rows_with(found.by_fact, statistic=found.statistic, reference="never", known="any")
    by_treatment = rows_with(found.by_fact, statistic=found.statistic, reference="never", phrasings="all")
    return "\n".join(
        [
            "# The ruler where the truth is known",
            "",
            f"{draws_named(found.choosing).capitalize()} chose the statistic, {draws_named(found.judging)} judged it "
            "and had no "
            f"part in the choice. Chosen: **{found.statistic}**, less that of the same fact in a model that never knew "
            f"it. Without any such model, the same rule chose **{found.unpaired}**.",
            "",
            f"![AUROC of every candidate and by dose, and verdicts where the truth is known]({FIGURE})",
            "",
            "AUROC by fact over all phrasings, mean over doses after the contradiction began, each pool that knows "
            "against all that never knew; `never` is paired with the same fact where it was not told:",
            "",
            markdown_table(_by_pool(_at_every_dose(contradicted)), 3),
            "",
            "Every candidate at the last dose, those that read below the output included, over all phrasings or, of "
            "the depth scores and of savings, on the prompt:",
            "",
            markdown_table(_by_pool(widely), 3),
            "",
            "By model, the mean over the facts of one model, over all phrasings:",
            "",
            markdown_table(_by_pool(_at_every_dose(rows_with(found.by_model, treatment="contradicted"))), 3),
            "",
            f"{found.statistic}, paired, contradicted, all pools, by phrasings and dose (0 is before it):",
            "",
            _intervals(rows_with(chosen, treatment="contradicted"), "phrasings", "dose"),
            "",
            f"{found.statistic}, paired, all phrasings, by what was done and by pool, before it (dose 0) and after:",
            "",
            _intervals(by_treatment, "treatment", "known", "dose"),
            "",
            "Verdicts on the judging draws by dose, shares with exact intervals, which take the facts of one draw as "
            "independent. `perfectly erased` are models that never knew, `left alone` still know:",
            "",
            markdown_table(found.rates.reset_index().set_index("case"), 3),
            "",
            "Agreement with savings, which no log-probability enters: rank correlation of the unpaired candidate after "
            "the last dose with how soon the old value is said again, over facts and pools, the draw as cluster:",
            "",
            markdown_table(_agreement(found), 2),
            "",
            _expected(found),
            "",
        ]
    )


def _expected(found: Calibration) -> str:
    e, n = found.expected, len(found.choosing) + len(found.judging)
    if e is None:
        return "What was told does not stand above what was not, so that nothing is said of what twins may expect."
    return (
        f"What a study of twins may expect, of all {n} draws (`mechmask power --calibration DIR`): a trace of "
        f"{e.trace_before:.1f} nats before, with a spread over facts of {e.spread:.1f}; noise of "
        f"{e.noise_history:.1f} nats over histories, {e.noise_phrasing:.1f} a phrasing and {e.noise_distractor:.1f} a "
        "distractor."
    )


def _at_every_dose(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows over all phrasings after the contradiction began, of candidates that were read all along."""
    along = rows_with(rows, phrasings="all").query("dose > 0")
    n_doses = along.groupby("statistic")["dose"].transform("nunique")
    return along.loc[n_doses == n_doses.max()]


def _by_pool(rows: pd.DataFrame) -> pd.DataFrame:
    """AUROCs by pool, the hard one first; statistics of one reference from the best to the worst."""
    table = rows.pivot_table(values="auroc", index=["reference", "statistic"], columns="known", aggfunc="mean")
    first = [pool for pool in HARD if pool in table.columns]
    table = table[[*first, *(pool for pool in table.columns if pool not in first)]].reset_index()
    table = table.sort_values(["reference", "any"], ascending=[True, False])
    return table.set_index("statistic")


def _intervals(rows: pd.DataFrame, *labels: str) -> str:
    return markdown_table(rows[[*labels, "auroc", "low", "high", "n"]].set_index(labels[0]), 3)


def _agreement(found: Calibration) -> pd.DataFrame:
    rows = {
        name: {"correlation": c.estimate, "low": c.low, "high": c.high, "n": c.n, "draws": c.n_clusters}
        for name, c in found.savings.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("candidate")
    return table.sort_values("correlation", ascending=False)
