"""All experiments of the paper in one run: the same studies as alone, a report of every claim, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import mechmask as mm
from mechmask.errors import StudyError
from mechmask.study.fact_tables import SyntheticTable, WorldTable

SHORT = mm.FinetuneConfig(steps=2, lr=1e-2, rank=2)
INSTALL = mm.FinetuneConfig(steps=6, lr=2e-2, rank=2)
NONE = dict.fromkeys(
    ("mask", "dose", "precision", "contrast", "reactance", "reacquisition", "renewal"),
)


def config(**parts):
    return mm.PaperConfig(
        **{
            "draws": 2,
            "known": WorldTable(n_contradicted=2, n_control=1, n_never=4, relations=("capital",), min_margin=-100),
            "taught": SyntheticTable(n=3, n_contradicted=2, n_never=3, distractors=3),
            "correction": mm.CorrectionConfig(contradict=SHORT, checkpoint_every=1),
            "twins": mm.TwinsConfig(install=INSTALL, contradict=SHORT, checkpoint_every=1),
            **NONE,
            **parts,
        }
    )


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    directory = tmp_path_factory.mktemp("paper") / "run"
    mask = mm.StudyConfig(install=INSTALL, contradict=SHORT, checkpoint_every=2, edits=())
    return mm.PaperStudy(tiny("llama"), config(mask=mask)).run(directory), directory


def test_each_part_is_the_study_that_it_would_be_alone(done, tiny, tmp_path):
    c = config()
    alone = mm.TwinStudy(tiny("llama"), c.taught.facts(1), c.twins).run(tmp_path / "alone").erase
    pooled = done[0].parts["twins"].erase
    ours = pooled.isel(fact=np.flatnonzero(pooled["seed"].values == "1"))
    np.testing.assert_array_equal(ours.trace_after, alone.trace_after)


def test_the_report_says_every_claim_and_shows_what_was_run(done):
    report = (done[1] / "report.md").read_text(encoding="utf-8")
    table = done[0].summary()
    assert len(table) == len(done[0].findings)
    run = table["verdict"] != "not run"
    assert run.sum() == 12 + 3 + 4, "masking in two parts, depth, and surprise in both"
    for text in ("Contradiction masks", "not run", "figures/twins_course.png", "figures/mask_depth.png"):
        assert text in report
    assert (done[1] / "figures/correction_course.png").stat().st_size > 10_000
    assert f"{(~run).sum()} not run" in done[0].conclusion()


def test_it_is_taken_up_to_the_same_bits(done, tiny, contents):
    before = contents(done[1])
    mask = mm.StudyConfig(install=INSTALL, contradict=SHORT, checkpoint_every=2, edits=())
    mm.PaperStudy(tiny("llama"), config(mask=mask)).run(done[1])
    assert contents(done[1]) == before


def test_a_part_that_is_added_is_run_and_the_others_are_kept(done, tiny, contents):
    before = contents(done[1] / "twins")
    again = mm.PaperStudy(tiny("llama"), config(reactance=mm.ReactanceConfig(
        install=INSTALL, levels=(2, 6), contradict=SHORT))).run(done[1])  # fmt: skip
    assert contents(done[1] / "twins") == before
    assert (again.summary()["finding"] if "finding" in again.summary() else again.summary().index).tolist().count(
        4
    ) == 2
    reactance = again.summary().loc[4]
    assert (reactance["n"] == 4).all() and (reactance["verdict"] == "undecided").all()


def test_a_run_without_parts_is_refused(tiny):
    with pytest.raises(StudyError, match="No part is left"):
        mm.PaperStudy(tiny("llama"), config(correction=None, twins="none"))


def test_a_directory_without_a_finished_part_is_refused(tmp_path):
    with pytest.raises(StudyError, match="no finished part"):
        mm.PaperResults(tmp_path)
