"""A reactance study on a tiny llama: conditions that differ in where installing ended, and the numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import mechmask as mm
from mechmask.errors import StudyError

TAUGHT = mm.FinetuneConfig(steps=40, lr=1e-2, rank=4)
CONFIG = mm.ReactanceConfig(
    install=TAUGHT,
    levels=(4, mm.Until(recall=0.75)),
    contradict=TAUGHT.model_copy(update={"steps": 3}),
    checkpoint_every=8,
)


@pytest.fixture(scope="module")
def facts():
    return mm.synthetic_facts(6, n_contradicted=5, n_never=0, distractors=0, seed=5)


@pytest.fixture(scope="module")
def resisted(tiny, facts, tmp_path_factory):
    directory = tmp_path_factory.mktemp("reactance") / "run"
    return mm.ReactanceStudy(tiny("llama"), facts, CONFIG).run(directory), directory


def test_conditions_differ_in_where_installing_ended(resisted, tiny, facts):
    study, directory = resisted
    changes = {
        name: mm.load_change(directory / "changes" / name / "change")
        for name in ("install/steps_4", "install/recall_0.75")
    }
    assert changes["install/steps_4"].details["steps"] == 4 < changes["install/recall_0.75"].details["steps"]
    assert study.step("changes/contradict/steps_4").details == study.step("changes/contradict/recall_0.75").details
    by_hand = mm.finetune(tiny("llama"), facts.install_examples(), TAUGHT.model_copy(update={"steps": 4}))
    assert all(bool((changes["install/steps_4"].tensors[n] == t).all()) for n, t in by_hand.tensors.items())


def test_the_numbers_follow_from_the_readings(resisted):
    study, _ = resisted
    table = study.reading("results/reactance")
    assert table.condition.values.tolist() == ["steps_4", "recall_0.75"]
    for name in table.condition.values:
        before, after = (study.reading(f"readings/read_logits/{when}/{name}") for when in ("before", "after"))
        prior, final = before.logprob.sel(route="old").values, after.margin.values
        one = table.sel(condition=name)
        np.testing.assert_allclose(one.prior, prior)
        np.testing.assert_allclose(one.margin, final)
        np.testing.assert_allclose(one.estimate.sel(correlation="pearson"), stats.pearsonr(prior, final).statistic)
        surprise = study.reading("results/surprise").sel(condition=name)
        wanted = -before.logprob.sel(route="new").values
        np.testing.assert_allclose(surprise.surprise, wanted)
        found = surprise.estimate.sel(correlation="spearman")
        np.testing.assert_allclose(found, stats.spearmanr(wanted, final).statistic)
    assert table.recalled[1] > table.recalled[0]


def test_it_is_taken_up_with_the_same_bytes(resisted, tiny, facts, contents):
    _, directory = resisted
    before = contents(directory)
    mm.ReactanceStudy(tiny("llama"), facts, CONFIG).run(directory)
    assert contents(directory) == before
    assert all(row.state == "done" for row in mm.study_status(directory))
    for name in (
        "reactance.csv",
        "surprise.csv",
        "surprise_by_magnitude.csv",
        "figures/surprise.png",
        "figures/reactance.png",
    ):
        assert (directory / name).stat().st_size


def test_levels_that_are_none_or_one_are_refused(tiny, facts, tmp_path):
    for levels, said in (((), "at least one"), ((3, 3), "none twice"), ((0,), "installs nothing")):
        with pytest.raises(StudyError, match=said):
            mm.ReactanceConfig(levels=levels)
    with pytest.raises(StudyError, match="until they are recalled"):
        mm.ReactanceConfig(levels=(mm.Until(margin=1.0),))

    def refused(said, **changes):
        with pytest.raises(StudyError, match=said):
            mm.ReactanceStudy(tiny("llama"), facts, CONFIG.model_copy(update=changes)).run(tmp_path / said[:5])

    few = TAUGHT.model_copy(update={"steps": 2})
    refused("is not reached", install=few, levels=(mm.Until(recall=1.0),))
    refused("both end after", levels=(mm.Until(recall=0.7), mm.Until(recall=0.75)), checkpoint_every=40)
    with pytest.raises(StudyError, match="at least 3 contradicted"):
        mm.ReactanceStudy(tiny("llama"), facts[3:], CONFIG)


def test_facts_that_the_model_holds_are_one_condition(tiny, facts, undrawn, tmp_path):
    config = CONFIG.model_copy(update={"install": None})
    study = mm.ReactanceStudy(tiny("llama"), facts, config).run(tmp_path / "run")
    table, before = study.reading("results/reactance"), mm.read_logits(tiny("llama"), facts.contradicted)
    assert table.condition.values.tolist() == ["known"]
    np.testing.assert_allclose(table.prior.sel(condition="known"), before.logprob.sel(route="old"), atol=1e-5)
    assert mm.ReactanceConfig.model_validate({"install": "none"}).install is None


def test_killed_again_and_again_it_ends_the_same(resisted, tiny, facts, killed_after_every, same_results, tmp_path):
    study = mm.ReactanceStudy(tiny("llama"), facts, CONFIG)
    assert killed_after_every(7, study, tmp_path / "run") >= 2
    same_results(tmp_path / "run", resisted[1])


def test_its_page_shows_all_of_it(resisted, shows_everything):
    shows_everything(*resisted)
