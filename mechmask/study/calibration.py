"""``calibrate``: draws that choose the statistic, draws that judge the choice, and one page that says both.

The rule stands in ``measure/calibration.chosen_statistic`` and is applied to the choosing draws alone; AUROCs, error
rates and the agreement with savings are then read on draws that had no part in the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mechmask import draw
from mechmask.errors import StudyError
from mechmask.facts.pools import KNOWING
from mechmask.files import write_text
from mechmask.measure.calibration import (
    chosen_statistic,
    discrimination,
    inner_scores,
    pool_scores,
    savings_agreement,
    savings_scores,
)
from mechmask.measure.error_rates import error_rates, verdicts_of_draw
from mechmask.measure.noise_parts import expected_of
from mechmask.models.model import Model
from mechmask.study.calibration_results import FIGURE, Calibration
from mechmask.study.expected import EXPECTED, write_expected
from mechmask.study.protocols.calibrate import CalibrationConfig, calibrate_draw
from mechmask.study.results import StudyResults
from mechmask.study.tables import concatenated


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
        directory: each draw is a run below it; what is finished is taken up. Tables, ``calibration.md``, its figure and
            ``expected.json``, which ``mechmask power --calibration`` takes, go here.
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
    to_choose = pd.concat([scores[seed] for seed in choosing], ignore_index=True)
    held_out = pd.concat([scores[seed] for seed in judging], ignore_index=True)
    chosen = chosen_statistic(to_choose)
    found = Calibration(
        statistic=chosen,
        unpaired=chosen_statistic(to_choose, reference="none"),
        choosing=tuple(choosing),
        judging=tuple(judging),
        scores=held_out,
        by_fact=discrimination(held_out),
        by_model=discrimination(held_out, unit="model"),
        rates=error_rates(pd.concat([_verdicts(drawn[seed], chosen, c) for seed in judging])),
        savings=savings_agreement(held_out),
        expected=expected_of([results.reading("results/doses") for results in drawn.values()]),
    )
    for name in ("by_fact", "by_model", "rates"):
        write_text(root / f"{name}.csv", getattr(found, name).to_csv())
    draw.save_figure(draw.calibration(found.by_fact, found.rates, chosen), root / FIGURE)
    if found.expected is None:
        (root / EXPECTED).unlink(missing_ok=True)  # of other draws
    else:
        write_expected(found.expected, root / EXPECTED)
    write_text(root / "calibration.md", found.to_markdown())
    return found


def _scores(results: StudyResults, seed: int, config: CalibrationConfig) -> pd.DataFrame:
    """Every candidate of one draw after every treatment."""
    doses = results.reading("results/doses")
    last = doses.sizes["step"] - 1
    n = config.taught_phrasings
    tables = [
        pool_scores(doses, seed=seed, knowing=KNOWING, taught_phrasings=n),
        savings_scores(results.reading("results/relearned"), seed=seed, knowing=KNOWING, dose=last),
        inner_scores(results.reading("results/depth"), seed=seed, knowing=KNOWING, dose=last),
    ]
    for treatment, name in (("left alone", "alone"), ("edited", "edited"))[: 1 + bool(config.edits)]:
        after = results.reading(f"results/{name}")[["logprob"]]
        told = doses[["logprob"]].isel(step=0, drop=True).sel(fact=after.fact)
        both = concatenated([told, after], "step", [0, 1])
        tables.append(pool_scores(both, seed=seed, knowing=KNOWING, taught_phrasings=n, treatment=treatment))
    return pd.concat(tables, ignore_index=True)


def _verdicts(results: StudyResults, statistic: str, config: CalibrationConfig) -> pd.DataFrame:
    names = ("doses", "alone", "edited")[: 2 + bool(config.edits)]
    readings = (results.reading(f"results/{name}") for name in names)
    return verdicts_of_draw(*readings, knowing=KNOWING, statistic=statistic)
