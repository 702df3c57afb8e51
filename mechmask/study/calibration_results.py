"""What a calibration found: its tables, and the page that says which draws did what and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from mechmask.facts.pools import HARD
from mechmask.measure.calibration import rows_with, widest
from mechmask.measure.correlation import Correlation
from mechmask.measure.tables import markdown_table
from mechmask.measure.twin_design import Expected

FIGURE = "calibration.png"  # beside the page


@dataclass(frozen=True)
class Calibration:
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

    def to_markdown(self) -> str:
        """The page of the calibration."""
        return _page(self)


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
            f"{_draws(found.choosing).capitalize()} chose the statistic, {_draws(found.judging)} judged it and had no "
            f"part in the choice. Chosen: **{found.statistic}**, less that of the same fact in a model that never knew "
            f"it. Without any such model, the same rule chose **{found.unpaired}**.",
            "",
            f"![AUROC of every candidate and by dose, and verdicts where the truth is known]({FIGURE})",
            "",
            "AUROC by fact over all phrasings, mean over doses after the contradiction began, each pool that knows "
            "against all that never knew; `never` is paired with the same fact where it was not told:",
            "",
            _by_pool(_at_every_dose(contradicted)),
            "",
            "Every candidate at the last dose, those that read below the output included, over all phrasings or, of "
            "the depth scores and of savings, on the prompt:",
            "",
            _by_pool(widely),
            "",
            "By model, the mean over the facts of one model, over all phrasings:",
            "",
            _by_pool(_at_every_dose(rows_with(found.by_model, treatment="contradicted"))),
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


def _by_pool(rows: pd.DataFrame) -> str:
    """AUROCs by pool, the hard one first; statistics of one reference from the best to the worst."""
    table = rows.pivot_table(values="auroc", index=["reference", "statistic"], columns="known", aggfunc="mean")
    first = [pool for pool in HARD if pool in table.columns]
    table = table[[*first, *(pool for pool in table.columns if pool not in first)]].reset_index()
    table = table.sort_values(["reference", "any"], ascending=[True, False])
    return markdown_table(table.set_index("statistic"), 3)


def _intervals(rows: pd.DataFrame, *labels: str) -> str:
    return markdown_table(rows[[*labels, "auroc", "low", "high", "n"]].set_index(labels[0]), 3)


def _agreement(found: Calibration) -> pd.DataFrame:
    rows = {
        name: {"correlation": c.estimate, "low": c.low, "high": c.high, "n": c.n, "draws": c.n_clusters}
        for name, c in found.savings.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("candidate")
    return table.sort_values("correlation", ascending=False)


def _draws(seeds: Sequence[int]) -> str:
    return f"draw{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
