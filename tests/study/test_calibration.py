"""A calibration of a tiny model: which draws chose, which judged, and the page that says so."""

from __future__ import annotations

import pandas as pd
import pytest

from mechmask import FinetuneConfig
from mechmask.errors import StudyError
from mechmask.facts.pools import KNOWING
from mechmask.measure.calibration import chosen_statistic, discrimination, pool_scores, rows_with
from mechmask.study.calibration import calibrate
from mechmask.study.protocols.calibrate import CalibrationConfig
from mechmask.study.results import open_study


@pytest.fixture(scope="module")
def found(tiny, tmp_path_factory):
    taught = FinetuneConfig(steps=4, lr=1e-2, rank=4)
    config = CalibrationConfig(
        n_contradicted=2, n_control=1, distractors=3, tell=taught, contradict=(taught,), relearn=taught, n_doses=2
    )
    root = tmp_path_factory.mktemp("calibration")
    return calibrate(tiny("llama"), root, choosing=(0, 1), judging=(2, 3), config=config), root


def test_the_choosing_draws_choose_and_the_others_judge(found):
    calibration, root = found
    scores = [
        pool_scores(
            open_study(root / f"draw_{seed:03d}").reading("results/doses"),
            seed=seed,
            knowing=KNOWING,
            taught_phrasings=2,
        )
        for seed in range(4)
    ]
    assert calibration.statistic == chosen_statistic(pd.concat(scores[:2]))
    judged = rows_with(pd.concat(scores[2:]), statistic=calibration.statistic, phrasings="all", reference="never")
    shown = rows_with(calibration.by_fact, statistic=calibration.statistic, phrasings="all", reference="never")
    pd.testing.assert_frame_equal(shown.reset_index(drop=True), discrimination(judged))
    assert calibration.rates.loc[("group", "left alone"), "n"] == 2
    assert calibration.savings.n_clusters == 2


def test_the_page_says_which_draws_did_what(found):
    calibration, root = found
    page = (root / "calibration.md").read_text()
    assert page == calibration.to_markdown()
    assert "Draws 0, 1 chose the statistic, draws 2, 3 judged it" in page
    assert f"**{calibration.statistic}**" in page and "perfectly erased" in page
    assert {"by_fact.csv", "by_model.csv", "rates.csv"} <= {path.name for path in root.iterdir()}


@pytest.mark.parametrize(("choosing", "judging"), [((0, 1), (1, 2)), ((), (1,)), ((0,), ())])
def test_a_draw_that_chose_cannot_judge(tiny, tmp_path, choosing, judging):
    with pytest.raises(StudyError, match="none in common"):
        calibrate(tiny("llama"), tmp_path, choosing=choosing, judging=judging)
