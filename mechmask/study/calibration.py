"""``calibrate``: draws that choose the statistic, draws that judge the choice, and one page that says both.

The rule stands in ``measure/calibration.chosen_statistic`` and is applied to the choosing draws alone; AUROCs, error
rates and the agreement with savings are then read on draws that had no part in the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mechmask.errors import StudyError
from mechmask.facts.pools import HARD, KNOWING
from mechmask.files import write_text
from mechmask.measure.calibration import chosen_statistic, discrimination, pool_scores, rows_with, steps_to_recall
from mechmask.measure.correlation import Correlation, spearman
from mechmask.measure.error_rates import error_rates, verdicts_of_draw
from mechmask.measure.tables import markdown_table
from mechmask.models.model import Model
from mechmask.study.protocols.calibrate import CalibrationConfig, calibrate_draw
from mechmask.study.results import StudyResults


@dataclass(frozen=True)
class Calibration:
    """What the draws say.

    Attributes:
        statistic: chosen on the choosing draws.
        choosing: seeds of the draws that chose.
        judging: seeds of the draws that judged.
        by_fact: AUROC of every candidate by fact on the judging draws, see ``discrimination``.
        by_model: the same by model.
        rates: how often which verdict falls in which case on the judging draws, see ``error_rates``.
        savings: rank correlation of the statistic after the contradiction with the steps until old is recalled again.
    """

    statistic: str
    choosing: tuple[int, ...]
    judging: tuple[int, ...]
    by_fact: pd.DataFrame
    by_model: pd.DataFrame
    rates: pd.DataFrame
    savings: Correlation

    def to_markdown(self) -> str:
        """The page of the calibration."""
        return _page(self)


def calibrate(
    model: Model,
    directory: str | Path,
    *,
    choosing: Sequence[int] = range(4),
    judging: Sequence[int] = range(4, 8),
    config: CalibrationConfig | None = None,
) -> Calibration:
    """Choose the statistic of the old value by evidence, and say how well it does where it was not chosen.

    Args:
        model: the model; it is left as it was.
        directory: each draw is a run below it; what is finished is taken up. Tables and ``calibration.md`` go here.
        choosing: seeds of the draws on which the rule is applied.
        judging: seeds of the draws on which it is judged.
        config: how; ``CalibrationConfig()`` by default.

    Raises:
        StudyError: if a draw is among both, or there is none of one kind.
    """
    c, root = config or CalibrationConfig(), Path(directory)
    if not choosing or not judging or set(choosing) & set(judging):
        raise StudyError(
            f"The draws that choose ({', '.join(map(str, choosing))}) and those that judge "
            f"({', '.join(map(str, judging))}) have to be some each, and none in common. Give other seeds."
        )
    drawn = {seed: calibrate_draw(model, root / f"draw_{seed:03d}", seed, c) for seed in (*choosing, *judging)}
    scores = {seed: _scores(results, seed, c) for seed, results in drawn.items()}
    chosen = chosen_statistic(pd.concat([scores[seed] for seed in choosing]))
    held_out = pd.concat([scores[seed] for seed in judging])
    verdicts = [_verdicts(drawn[seed], chosen) for seed in judging]
    found = Calibration(
        chosen,
        tuple(choosing),
        tuple(judging),
        discrimination(held_out),
        discrimination(held_out, unit="model"),
        error_rates(pd.concat(verdicts)),
        _savings(held_out, {seed: drawn[seed] for seed in judging}, chosen),
    )
    for name, table in (("by_fact", found.by_fact), ("by_model", found.by_model), ("rates", found.rates)):
        write_text(root / f"{name}.csv", table.to_csv())
    write_text(root / "calibration.md", found.to_markdown())
    return found


def _scores(results: StudyResults, seed: int, config: CalibrationConfig) -> pd.DataFrame:
    doses = results.reading("results/doses")
    return pool_scores(doses, seed=seed, knowing=KNOWING, taught_phrasings=config.taught_phrasings)


def _verdicts(results: StudyResults, statistic: str) -> pd.DataFrame:
    doses, alone = (results.reading(f"results/{name}") for name in ("doses", "alone"))
    return verdicts_of_draw(doses, alone, knowing=KNOWING, statistic=statistic)


def _savings(scores: pd.DataFrame, drawn: dict[int, StudyResults], statistic: str) -> Correlation:
    """Over facts of all pools and draws: the less is left, the more steps it takes."""
    rows = rows_with(scores, statistic=statistic, phrasings="all", reference="none", dose=scores["dose"].max())
    steps = {seed: steps_to_recall(results.reading("results/relearned")) for seed, results in drawn.items()}
    taken = [float(steps[seed].sel(pool=pool, fact=fact)) for seed, pool, fact in rows[["seed", "pool", "fact"]].values]
    longest = max(step for step in taken if np.isfinite(step))
    censored = np.where(np.isfinite(taken), taken, longest + 1)  # ranks: behind all that were recalled
    return spearman(np.asarray(rows["value"]), -censored, cluster=np.asarray(rows["seed"]))


def _page(found: Calibration) -> str:
    shown = rows_with(found.by_fact, phrasings="all").query("dose > 0")
    by_pool = shown.pivot_table(values="auroc", index=["reference", "statistic"], columns="known", aggfunc="mean")
    first = [pool for pool in HARD if pool in by_pool.columns]
    by_pool = by_pool[[*first, *(pool for pool in by_pool.columns if pool not in first)]]
    doses = rows_with(found.by_fact, statistic=found.statistic, reference="never", known="any")
    s = found.savings
    return "\n".join(
        [
            "# The ruler where the truth is known",
            "",
            f"Draws {_listed(found.choosing)} chose the statistic, draws {_listed(found.judging)} judged it and had no "
            f"part in the choice. Chosen: **{found.statistic}**.",
            "",
            "AUROC by fact, mean over doses after the contradiction began, each pool that knows against all that never "
            "knew, all phrasings; `never` is paired with the same fact where it was not told:",
            "",
            markdown_table(by_pool.reset_index().set_index("statistic"), 3),
            "",
            f"{found.statistic}, paired, all pools, by phrasings and dose (0 is before the contradiction):",
            "",
            markdown_table(doses[["phrasings", "dose", "auroc", "low", "high", "n"]].set_index("phrasings"), 3),
            "",
            "Verdicts on the judging draws, shares with exact intervals:",
            "",
            markdown_table(found.rates.reset_index().set_index("case"), 3),
            "",
            f"Savings, which no log-probability enters: rank correlation of the statistic after the last dose with the "
            f"steps until the old value is recalled again {-s.estimate:.2f} [{-s.high:.2f}, {-s.low:.2f}] "
            f"(n = {s.n} facts in {s.n_clusters} draws).",
            "",
        ]
    )


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
