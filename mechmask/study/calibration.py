"""``calibrate``: draws that choose the statistic, draws that judge the choice, and one page that says both.

The rule stands in ``measure/calibration.chosen_statistic`` and is applied to the choosing draws alone; AUROCs, error
rates and the agreement with savings are then read on draws that had no part in the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mechmask import draw
from mechmask.errors import StudyError
from mechmask.files import write_text
from mechmask.models.model import Model
from mechmask.study.calibration_results import CARD, FIGURE, Calibration, calibration_of
from mechmask.study.expected import EXPECTED, write_expected
from mechmask.study.protocols.calibrate import CalibrationConfig, calibrate_draw
from mechmask.study.step import sealed_text


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
    write_text(root / CARD, sealed_text({"choosing": list(choosing), "judging": list(judging)}))
    found = calibration_of(root, drawn, choosing, judging)
    for name in ("by_fact", "by_model", "rates"):
        write_text(root / f"{name}.csv", getattr(found, name).to_csv())
    draw.save_figure(draw.calibration(found.by_fact, found.rates, found.statistic), root / FIGURE)
    if found.expected is None:
        (root / EXPECTED).unlink(missing_ok=True)  # of other draws
    else:
        write_expected(found.expected, root / EXPECTED)
    write_text(root / "calibration.md", found.to_markdown())
    return found
