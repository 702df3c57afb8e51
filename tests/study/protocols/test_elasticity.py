"""An elasticity study on a tiny llama, its ways made again by hand."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import mechmask as mm
from mechmask.errors import ReadingError, StudyError
from mechmask.measure.elasticity import elasticity, ways

TAUGHT = mm.FinetuneConfig(steps=12, lr=1e-2, rank=4)
CONFIG = mm.ElasticityConfig(install=TAUGHT, contradict=TAUGHT, doses=(2, 6), revert=TAUGHT)


@pytest.fixture(scope="module")
def facts():
    return mm.synthetic_facts(6, n_contradicted=4, n_never=0, distractors=0, seed=5)


@pytest.fixture(scope="module")
def studied(tiny, facts, tmp_path_factory):
    directory = tmp_path_factory.mktemp("elasticity") / "run"
    return mm.ElasticityStudy(tiny("llama"), facts, CONFIG).run(directory), directory


@pytest.mark.parametrize("arm", ["installed", "never"])
def test_the_ways_are_those_of_trainings_by_hand(studied, tiny, facts, arm):
    model, dose = tiny("llama"), 6
    start = mm.finetune(model, facts.install_examples(), TAUGHT) if arm == "installed" else None

    def trained(examples, steps, begin):
        config = TAUGHT.model_copy(update={"steps": steps})
        return mm.finetune(model, examples, config, start=begin) if steps else begin

    def read(change):
        return mm.read_logits(model if change is None else change.on(model), facts.contradicted)

    out = [trained(facts.contradiction_examples(), steps, start) for steps in range(dose + 1)]
    back = [trained(facts.install_examples(), steps, out[-1]) for steps in range(TAUGHT.steps + 1)]
    found = studied[0].reading("results/ways").sel(arm=arm, dose=dose)
    margins = np.array([-read(change).margin.values for change in back])  # old above new
    for number, fact in enumerate(facts.contradicted):
        leads = margins[:, number] > 0
        first = next((s for s in range(len(leads)) if leads[s:].all()), None)
        assert bool(found.reached.sel(fact=fact.id)) == (first is not None)
        assert float(found.steps.sel(fact=fact.id)) == (TAUGHT.steps if first is None else first)
    for name, course, route in (("loss_out", out, "new"), ("loss_back", back, "old")):
        n_tokens = [
            len(model.tokenizer(f"{f.prompt} {f.values[route]}").input_ids) - len(model.tokenizer(f.prompt).input_ids)
            for f in facts.contradicted
        ]
        losses = [-read(change).logprob.sel(route=route).values / n_tokens for change in course[:dose]]
        np.testing.assert_allclose(found[name], np.mean(losses, axis=0), atol=1e-4)
    n_values = len({fact.old for fact in facts.contradicted})
    wanted = -read(start).logprob.sel(route="old").values / [
        len(model.tokenizer(f"{f.prompt} {f.old}").input_ids) - len(model.tokenizer(f.prompt).input_ids)
        for f in facts.contradicted
    ] - np.log(n_values)
    np.testing.assert_allclose(found.compression.sel(end="before", route="old"), wanted, atol=1e-4)


def test_it_is_taken_up_with_the_same_bytes(studied, tiny, facts, contents):
    _, directory = studied
    before = contents(directory)
    mm.ElasticityStudy(tiny("llama"), facts, CONFIG).run(directory)
    assert contents(directory) == before
    assert all(row.state == "done" for row in mm.study_status(directory))
    assert (directory / "elasticity.csv").stat().st_size and (directory / "figures/elasticity.png").stat().st_size


def test_killed_again_and_again_it_ends_the_same(studied, tiny, facts, killed_after_every, same_results, tmp_path):
    study = mm.ElasticityStudy(tiny("llama"), facts, CONFIG)
    assert killed_after_every(40, study, tmp_path / "run") >= 2
    same_results(tmp_path / "run", studied[1])


def test_its_page_shows_all_of_it(studied, shows_everything):
    shows_everything(*studied)


def made(steps, reached, loss_out, loss_back):
    """A table of ways over two arms, two doses and four facts."""
    dims = ("arm", "dose", "fact")
    columns = {"steps": steps, "reached": reached, "loss_out": loss_out, "loss_back": loss_back}
    coords = {"arm": ["installed", "never"], "dose": [5, 20], "fact": list("abcd")}
    return xr.Dataset({name: (dims, np.array(of)) for name, of in columns.items()}, coords, {"budget_steps": 30.0})


def test_rebound_advantage_and_resistance_are_what_they_say():
    steps = [[[10.0, 12, 14, 16], [6.0, 8, 10, 12]], [[11.0, 13, 15, 17], [20.0, 22, 24, 30]]]
    reached = [[[True] * 4, [True] * 4], [[True] * 4, [True, True, True, False]]]
    loss = np.ones((2, 2, 4))
    table = elasticity(made(steps, reached, loss * 2.0, loss * 1.5))
    assert table.rebound.sel(arm="installed") == 4  # each comes back four steps sooner
    assert float(table.rebound.sel(arm="never")) < 0
    assert table.advantage.sel(dose=5) == 1 and float(table.advantage.sel(dose=20)) >= 14
    np.testing.assert_allclose(table.resistance, 0.5)
    assert table.n_censored.sel(arm="never", dose=20) == 1 and table.median_steps.sel(arm="installed", dose=5) == 12


def test_what_cannot_be_compared_is_refused(tiny, facts):
    for doses in ((5,), (5, 5)):
        with pytest.raises(StudyError, match="two or more, and none twice"):
            mm.ElasticityConfig(doses=doses)
    with pytest.raises(StudyError, match="would not say how often"):
        mm.ElasticityConfig(revert=mm.FinetuneConfig(batch_size=2))
    with pytest.raises(StudyError, match="at least 2 contradicted"):
        mm.ElasticityStudy(tiny("llama"), facts.control, CONFIG)
    with pytest.raises(ReadingError, match="a way back for every way out"):
        ways({}, {}, xr.DataArray([]))
    whole = made(np.ones((2, 2, 4)), np.ones((2, 2, 4), bool), np.ones((2, 2, 4)), np.ones((2, 2, 4)))
    with pytest.raises(ReadingError, match="never was not read"):
        elasticity(whole.sel(arm=["installed"]))
