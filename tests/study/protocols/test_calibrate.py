"""Six histories of one draw: what each model was told, and what is read of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mechmask import FinetuneConfig, finetune, open_study, read_logits
from mechmask.facts.pools import told, without_spare
from mechmask.facts.synthetic import synthetic_facts
from mechmask.study.protocols.calibrate import POOLS, CalibrationConfig, calibrate_draw


@pytest.fixture(scope="module")
def config():
    taught = FinetuneConfig(steps=4, lr=1e-2, rank=4)
    trainings = {"tell": taught, "contradict": (taught,), "relearn": taught}
    return CalibrationConfig(n_contradicted=2, n_control=1, distractors=3, n_doses=2, edits=(), **trainings)


@pytest.fixture(scope="module")
def drawn(tiny, config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("calibrate") / "draw"
    return calibrate_draw(tiny("llama"), directory, 3, config), directory


def test_every_pool_is_read_at_every_dose(drawn, config):
    doses = drawn[0].reading("results/doses")
    assert tuple(doses.pool.values) == POOLS
    assert doses.step.values.tolist() == [0, 2, 4]
    assert doses.logprob.notnull().all() and doses.sizes["route"] == 2 + config.distractors
    assert drawn[0].reading("results/depth").treatment.values.tolist() == ["contradicted", "left alone"]  # no editor
    relearned = drawn[0].reading("results/relearned")
    assert relearned.recalled.dims == ("pool", "step", "fact", "route")


def test_it_equals_the_same_history_by_hand(drawn, config, tiny):
    facts = synthetic_facts(3, seed=3, n_contradicted=2, n_never=0, distractors=4)
    model, read = tiny("llama"), without_spare(facts)
    history = finetune(model, told(facts, "biography", seed=3), config.tell)
    after = finetune(model, read.contradiction_examples(2), config.contradict[0], start=history)
    by_hand = read_logits(after.on(model), read, phrasings="all")
    run = drawn[0].reading("results/doses").sel(pool="biography", step=4)
    np.testing.assert_allclose(run.logprob.values, by_hand.logprob.values, atol=1e-4)


def test_it_is_taken_up_to_the_same_bits_and_opens_without_a_model(drawn, config, tiny, contents):
    results, directory = drawn
    before = contents(directory)
    calibrate_draw(tiny("llama"), directory, 3, config)
    assert contents(directory) == before
    assert open_study(directory).reading("results/alone").identical(results.reading("results/alone"))


def test_killed_again_and_again_it_ends_the_same(drawn, config, tiny, killed_after_every, same_results, tmp_path):
    study = SimpleNamespace(run=lambda directory: calibrate_draw(tiny("llama"), directory, 3, config))
    assert killed_after_every(45, study, tmp_path / "run") >= 1
    same_results(tmp_path / "run", drawn[1])


def test_its_page_shows_all_of_it(drawn, shows_everything):
    shows_everything(*drawn)
