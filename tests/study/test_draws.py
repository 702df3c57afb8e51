"""One protocol over draws and seeds: each draw as it would be alone, pooled with the draw as cluster."""

from __future__ import annotations

import numpy as np
import pytest

import mechmask as mm
from mechmask.errors import StudyError
from mechmask.measure.normalised import group_normalised
from mechmask.study.draws import reseeded
from mechmask.study.protocols.correction import CorrectionConfig, CorrectionStudy

pytestmark = pytest.mark.usefixtures("all_undrawn")

TAUGHT = {"steps": 4, "lr": 1e-2, "rank": 4}


def drawn(draw):
    world = mm.world_facts(relations=["capital"], distractors=3, seed=draw)
    return mm.assign_roles(world, n_contradicted=2, n_control=1, n_never=4, seed=draw)


@pytest.fixture(scope="module")
def study_of(tiny):
    model = tiny("llama")

    def make(draw, seed):
        config = CorrectionConfig(contradict=mm.FinetuneConfig(**TAUGHT, seed=seed), checkpoint_every=2)
        return CorrectionStudy(model, drawn(draw), config)

    return make


@pytest.fixture(scope="module")
def done(study_of, tmp_path_factory):
    directory = tmp_path_factory.mktemp("draws") / "run"
    return mm.Draws(study_of, draws=(0, 3), seeds=(0, 1)).run(directory), directory


def test_each_draw_is_the_study_that_it_would_be_alone(done, study_of, tmp_path):
    alone = study_of(3, 1).run(tmp_path / "alone").erase
    pooled = done[0].erase.isel(fact=[str(fact).startswith("3.1/") for fact in done[0].erase.fact.values])
    assert [fact.partition("/")[2] for fact in pooled.fact.values.tolist()] == alone.fact.values.tolist()
    np.testing.assert_array_equal(pooled.trace_after, alone.trace_after)


def test_all_trainings_of_one_draw_are_one_cluster(done):
    erase = done[0].erase
    assert erase["seed"].values.tolist() == ["0"] * 4 + ["3"] * 4
    won = erase.sel(state="won")
    means = won[["trace_before", "trace_after"]].groupby("seed").mean()
    row = done[0].overview().loc["won"]
    assert (row["n"], row["draws"]) == (8, 2)
    assert row["trace_after"] == pytest.approx(float(means.trace_after.mean()))
    assert row["normalised"] == pytest.approx(group_normalised(won).estimate)


def test_it_is_taken_up_to_the_same_bits_and_opened_without_the_model(done, study_of, contents):
    before = contents(done[1])
    mm.Draws(study_of, draws=(0, 3), seeds=(0, 1)).run(done[1])
    assert contents(done[1]) == before
    opened = mm.open_draws(done[1])
    assert list(opened.studies) == ["0.0", "0.1", "3.0", "3.1"]
    assert opened.by_draw().index.names == ["draw", "state"]
    assert "EI*" in opened.conclusion()


def test_a_draw_that_was_added_joins_and_one_that_is_not_asked_for_does_not(done, study_of):
    fewer = mm.Draws(study_of, draws=(3,), seeds=(0,)).run(done[1])
    assert set(fewer.erase["seed"].values.tolist()) == {"3"} and len(list(fewer)) == 1
    again = mm.Draws(study_of, draws=(0, 3), seeds=(0, 1)).run(done[1])
    assert set(again.erase["seed"].values.tolist()) == {"0", "3"}


@pytest.mark.parametrize("options", [{"draws": ()}, {"draws": (1, 1)}, {"seeds": (-1,)}])
def test_numbers_that_are_no_draws_are_refused(study_of, options):
    with pytest.raises(StudyError, match="cannot be run"):
        mm.Draws(study_of, **options)


def test_a_directory_that_holds_something_else_is_left_alone(study_of, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StudyError, match=r"there is notes\.txt"):
        mm.Draws(study_of, draws=(0,)).run(tmp_path)
    with pytest.raises(StudyError, match="no finished draws"):
        mm.open_draws(tmp_path)


def test_draws_of_two_configurations_are_not_pooled(done, study_of, tmp_path):
    """As where a run under another configuration was killed half way: some draws are new, and the card is old."""
    directory = tmp_path / "run"
    mm.Draws(study_of, draws=(0, 3)).run(directory)

    def longer(draw, seed):
        study = study_of(draw, seed)
        contradict = study.config.contradict.model_copy(update={"steps": 2})
        return CorrectionStudy(study.model, study.facts, study.config.model_copy(update={"contradict": contradict}))

    longer(0, 0).run(directory / "draw_000/seed_0")
    with pytest.raises(StudyError, match="draw 3 is of another model or configuration than draw 0"):
        mm.open_draws(directory)
    mm.Draws(longer, draws=(0, 3)).run(directory)
    assert len(list(mm.open_draws(directory))) == 2


def test_trainings_of_a_single_draw_are_clusters_of_their_own(study_of, done):
    one = mm.Draws(study_of, draws=(3,), seeds=(0, 1)).run(done[1])
    assert one.erase["seed"].values.tolist() == ["3.0"] * 2 + ["3.1"] * 2
    mm.Draws(study_of, draws=(0, 3), seeds=(0, 1)).run(done[1])


def test_what_is_done_of_all_draws_is_said_of_each(done):
    rows = mm.study_status(done[1])
    assert {row.step.split("/")[0] for row in rows} == {"draw_000", "draw_003"}
    assert {row.state for row in rows} == {"done"}


def test_all_draws_show_their_overview_and_print_their_tables(done):
    page, row = done[0]._repr_html_(), done[0].overview().iloc[0]
    assert f"<td>{row['n']}</td>" in page and row["verdict"] in page
    assert done[0].to_latex(table="by_draw") == mm.latex_table(done[0].by_draw())
    assert done[0].to_markdown() == mm.markdown_table(done[0].summary().drop(columns="remedy"))


def test_a_damaged_card_is_said_to_be_damaged(done):
    card = done[1] / "draws.json"
    whole = card.read_text()
    card.write_text(whole.replace("draws", "drawn"))
    with pytest.raises(StudyError, match="damaged"):
        mm.open_draws(done[1])
    card.write_text(whole)


def test_every_training_of_a_configuration_gets_the_seed():
    config = mm.ContrastConfig(trainings={"a": mm.FinetuneConfig(seed=2)}, install=mm.FinetuneConfig())
    again = reseeded(config, 3)
    assert (again.trainings["a"].seed, again.install.seed) == (5, 3)
    assert reseeded(config, 0) == config
    assert again.model_copy(update={"trainings": config.trainings, "install": config.install}) == config


def test_their_page_pools_what_can_be_pooled_and_names_each_draw(done, shows_everything):
    from mechmask.draw.page.content import FactList

    document = shows_everything(*done)
    assert done[0].conclusion() in document.lead and "4 draws" in document.title
    row = done[0].overview().loc["won"]
    said = f"just won {row['normalised']:.2f} [{row['normalised_low']:.2f}, {row['normalised_high']:.2f}]"
    sentences = [getattr(block, "sentence", "") for section in document.sections for block in section.blocks]
    assert any(said in sentence and "n = 8 facts in 2 draws" in sentence for sentence in sentences)
    (facts,) = [block for section in document.sections for block in section.blocks if isinstance(block, FactList)]
    assert len(facts.rows) == sum(len(study.facts) for study in done[0])
    assert {row.name.split("/")[0] for row in facts.rows} == set(done[0].studies)
