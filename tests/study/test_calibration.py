"""A calibration of a tiny model: which draws chose, which judged, and the page that says so."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from mechmask import FinetuneConfig, FTConfig, load_change, patch_residual, read_depth, read_linear_probe
from mechmask.errors import ChangeError, StudyError
from mechmask.facts.pools import KNOWING
from mechmask.measure.calibration import chosen_statistic, discrimination, pool_scores, rows_with
from mechmask.measure.depth_score import depth_score, lens_depth_score
from mechmask.measure.old_value import STATISTICS
from mechmask.study.calibration import calibrate
from mechmask.study.calibration_results import FIGURE
from mechmask.study.expected import EXPECTED, read_expected
from mechmask.study.protocols.calibrate import CalibrationConfig
from mechmask.study.results import open_study

_STATES = ("ends/full", "ends/blank", "contradicted/verbatim")


@pytest.fixture(scope="module")
def found(tiny, tmp_path_factory):
    taught = FinetuneConfig(steps=4, lr=1e-2, rank=4)
    config = CalibrationConfig(
        n_contradicted=3,
        n_control=1,
        distractors=3,
        tell=taught,
        contradict=(taught,),
        relearn=taught,
        n_doses=2,
        edits=(FTConfig(layer=0),),
    )
    root = tmp_path_factory.mktemp("calibration")
    return calibrate(tiny("llama"), root, choosing=(0,), judging=(1,), config=config), root


def test_the_choosing_draws_choose_and_the_others_judge(found):
    calibration, root = found
    scores = [
        pool_scores(
            open_study(root / f"draw_{seed:03d}").reading("results/doses"),
            seed=seed,
            knowing=KNOWING,
            taught_phrasings=2,
        )
        for seed in range(2)
    ]
    assert calibration.statistic == chosen_statistic(scores[0])
    labels = {"statistic": calibration.statistic, "phrasings": "all", "reference": "never"}
    judged = rows_with(scores[1], **labels)
    shown = rows_with(calibration.by_fact, treatment="contradicted", **labels)
    pd.testing.assert_frame_equal(shown.reset_index(drop=True), discrimination(judged))
    assert calibration.rates.loc[("group", "left alone", 2), "n"] == 1
    savings = calibration.savings[calibration.statistic]
    assert (savings.n_clusters, savings.n) == (1, 18) and np.isnan(savings.low)


def test_the_page_says_which_draws_did_what(found):
    calibration, root = found
    page = (root / "calibration.md").read_text()
    assert page == calibration.to_markdown()
    assert "Draw 0 chose the statistic, draw 1 judged it" in page
    assert f"**{calibration.statistic}**" in page and f"**{calibration.unpaired}**" in page
    assert "perfectly erased, edited" in page
    doses, last, *_ = page.split("Every candidate at the last dose")
    assert "linear\\_probe" not in doses and "linear\\_probe" in last  # it is read at the last dose alone
    assert {"by_fact.csv", "by_model.csv", "rates.csv", "calibration.png"} <= {path.name for path in root.iterdir()}
    assert f"]({FIGURE})" in page and read_expected(root / EXPECTED) == calibration.expected


def test_a_notebook_and_latex_show_the_page_s_table(found):
    calibration, _ = found
    page = calibration.to_markdown()
    shown = [float(cell) for cell in re.findall(r"<td>([0-9.]+)</td>", calibration._repr_html_())]
    said = {round(float(cell), 2) for cell in re.findall(r"\b[01]\.[0-9]{3}\b", page)}
    assert shown and all(any(abs(number - one) < 0.011 for one in said) for number in shown)
    assert calibration.statistic in repr(calibration) and "DataFrame" not in repr(calibration)
    for table in ("by_fact", "by_model", "rates", "savings"):
        assert calibration.to_latex(table=table).count("\\\\\n") > 1


def test_every_candidate_after_every_treatment(found):
    calibration, root = found
    table = calibration.by_fact
    below = {"depth_score", "lens_depth_score", "linear_probe"}
    candidates = {treatment: set(rows["statistic"]) for treatment, rows in table.groupby("treatment")}
    assert candidates["contradicted"] == {*STATISTICS, *below, "erase_index", "savings"}
    assert candidates["left alone"] == {*STATISTICS, *below, "erase_index"}
    assert candidates["edited"] == {*STATISTICS, *below} - {"linear_probe"}  # no control is read under an edit
    depth = open_study(root / "draw_001").reading("results/depth")
    assert depth.depth_score.sel(treatment="left alone").notnull().all()
    assert ((depth.depth_score >= 0) & (depth.depth_score <= 1)).all()


def test_the_depth_scores_are_those_of_readings_made_by_hand(found, tiny):
    """The verbatim model after the contradiction, patched into another that was told; the reference was not."""
    _, root = found
    model, draw = tiny("llama"), open_study(root / "draw_001")
    changes = {name: load_change(root / "draw_001" / "changes" / name / "change") for name in _STATES}
    full, blank, changed = (changes[name].on(model) for name in _STATES)
    facts = draw.facts.contradicted
    reference, patched = (patch_residual(source, full, facts, progress=False) for source in (blank, changed))
    first, second, third = (read_depth(state, facts) for state in (full, blank, changed))
    found_there = draw.reading("results/depth").sel(treatment="contradicted", pool="verbatim")
    np.testing.assert_allclose(found_there.depth_score, 1 - depth_score(reference, patched).score, atol=1e-5)
    np.testing.assert_allclose(
        found_there.lens_depth_score, 1 - lens_depth_score(first, second, third).score, atol=1e-5
    )
    probe = (
        read_linear_probe(changed, draw.facts, phrasings="all")
        .probe.sel(fact=list(facts.ids))
        .isel(layer=slice(1, None))
    )
    np.testing.assert_allclose(found_there.linear_probe, probe.mean("layer"), atol=1e-5)


def test_what_cannot_be_done_is_refused_before_work(tiny, tmp_path):
    with pytest.raises(StudyError, match="cannot be read at 3 places evenly"):
        CalibrationConfig(contradict=(FinetuneConfig(steps=20),))
    with pytest.raises(ChangeError, match="preset"):  # the editor's, of a model that has none
        calibrate(tiny("llama"), tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("choosing", "judging"), [((0, 1), (1, 2)), ((), (1,)), ((0,), ())])
def test_a_draw_that_chose_cannot_judge(tiny, tmp_path, choosing, judging):
    with pytest.raises(StudyError, match="none in common"):
        calibrate(tiny("llama"), tmp_path, choosing=choosing, judging=judging)


def test_it_opens_again_as_it_was_found_and_has_a_page(found):
    from mechmask import open_calibration, open_results
    from mechmask.draw.page.content import Plate

    calibration, root = found
    again = open_calibration(root)
    assert again.to_markdown() == calibration.to_markdown() == (root / "calibration.md").read_text()
    pd.testing.assert_frame_equal(again.by_fact, calibration.by_fact)
    document = open_results(root).page()
    assert calibration.statistic in document.lead[0] and "Draw 0 chose" in document.lead[0]
    blocks = [block for section in document.sections for block in section.blocks]
    (plate,) = [block for block in blocks if isinstance(block, Plate)]
    last = rows_with(calibration.by_fact, statistic=calibration.statistic, reference="never", phrasings="all")
    last = rows_with(last, treatment="contradicted", known="any").iloc[-1]
    assert f"{last['auroc']:.2f}" in plate.sentence and f"n = {int(last['n'])}" in plate.sentence


def test_a_calibration_that_does_not_say_which_draws_chose_is_refused(found, tmp_path):
    import shutil

    from mechmask import open_calibration, open_results

    root = shutil.copytree(found[1], tmp_path / "run")
    (root / "calibration.json").unlink()
    with pytest.raises(StudyError, match="does not say which draws chose"):
        open_results(root)
    (root / "calibration.json").write_text('{"choosing": [0], "judging": [1]}')
    with pytest.raises(StudyError, match=r"calibration\.json is damaged"):
        open_calibration(root)
