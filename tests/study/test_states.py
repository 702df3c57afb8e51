"""States of a run: what is read of one is never taken for what was read of another."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import mechmask as mm
from mechmask.errors import StudyError
from mechmask.study.lenses import FittedLens
from mechmask.study.states import StudyState, reading_in, readings_of, state_of_change

CONFIG = mm.FinetuneConfig(steps=1, lr=1e-2, rank=2)


def mean_score(model, facts, *, scale=1.0):
    return mm.read_logits(model, facts, "mean")[["margin"]] * scale


@pytest.fixture
def run(tiny, small_facts, tmp_path):
    with mm.Run(tmp_path / "run", tiny("llama"), small_facts) as run:
        yield run


@pytest.fixture(scope="module")
def adapter(tiny, small_facts):
    return mm.finetune(tiny("llama"), small_facts.install_examples(), CONFIG)


def test_a_state_that_does_not_name_its_change_is_refused(run, adapter):
    with pytest.raises(StudyError, match="state_of_change"):
        StudyState("x", adapter.on(run.model), {}, "x")


def test_a_change_from_elsewhere_is_a_state_of_the_run(run, adapter, small_facts):
    state = state_of_change(run, "mine", adapter)
    read = mm.read_states(run, {"mine": state, "untouched": mm.untouched(run)}, mm.read_logits)
    by_hand = mm.read_logits(adapter.on(run.model), small_facts)
    np.testing.assert_array_equal(read["mine"].logprob, by_hand.logprob)
    assert state_of_change(run, "mine", adapter).inputs == state.inputs
    other = mm.finetune(run.model, small_facts.contradiction_examples(), CONFIG)
    assert state_of_change(run, "mine", other).inputs != state.inputs


def test_a_state_of_another_model_is_refused(run, tiny, adapter):
    other = StudyState("other", tiny("llama", seed=1), {}, "other")
    with pytest.raises(StudyError, match="other weights"):
        mm.read_states(run, {"other": other}, mm.read_logits)


def test_a_model_that_is_changed_while_the_run_is_open_is_not_read_as_untouched(run, adapter):
    with adapter.applied(run.model), pytest.raises(StudyError, match="changed since"):
        mm.read_states(run, {"before": mm.untouched(run)}, mm.read_logits)


def test_readings_that_their_name_does_not_describe_are_refused(run):
    def around(model, facts):
        return mean_score(model, facts, scale=scale)

    scale = 2.0
    for reading in (lambda model, facts: mm.read_logits(model, facts), functools.partial(mm.read_logits, score="mean")):
        with pytest.raises(StudyError, match="has no name"):
            mm.read_states(run, {"before": mm.untouched(run)}, reading)
    with pytest.raises(StudyError, match="variables from around it"):
        mm.read_states(run, {"before": mm.untouched(run)}, around)


def test_a_reading_of_one_s_own_counts_by_its_text_and_options(run):
    states = {"before": mm.untouched(run)}
    once = mm.read_states(run, states, mean_score)["before"]
    twice = mm.read_states(run, states, mean_score, scale=2.0)["before"]
    np.testing.assert_array_equal(twice.margin, once.margin * 2)
    rewritten: dict = {"mm": mm}
    exec("def mean_score(model, facts, *, scale=1.0):\n    return mm.read_logits(model, facts)[['margin']]", rewritten)
    other = mm.read_states(run, states, rewritten["mean_score"])["before"]
    assert not np.array_equal(other.margin, once.margin)


def patched_into(state, facts, *, target):
    return mm.patch_residual(state, target, facts, progress=False)


def test_a_second_state_is_read_with_and_counts(run, tiny, adapter):
    """Which of two states a reading takes is part of what it is: the other way round is another step."""
    changed, untouched = state_of_change(run, "changed", adapter), mm.untouched(run)
    there = readings_of(run, {"a": changed}, patched_into, target=untouched)["a"]
    expected = mm.patch_residual(changed.state, untouched.state, run.facts, progress=False)
    np.testing.assert_array_equal(reading_in(there).logprob, expected.logprob)
    back = readings_of(run, {"a": untouched}, patched_into, target=changed)["a"]
    assert back.digest != there.digest
    np.testing.assert_allclose(reading_in(back).logprob.isel(layer=-1), expected.logprob_target, atol=1e-5)
    assert readings_of(run, {"a": changed}, patched_into, target=untouched)["a"].digest == there.digest
    into_changed = readings_of(run, {"a": changed}, patched_into, target=changed)["a"]
    assert into_changed.digest not in (there.digest, back.digest)  # and not that of the source without the change
    other = StudyState("other", tiny("llama", seed=5), {}, "other")
    with pytest.raises(StudyError, match="run of its own"):
        readings_of(run, {"b": changed}, patched_into, target=other)


def test_an_option_that_cannot_be_written_down_is_refused(run):
    with pytest.raises(StudyError, match="The option backend is of the type object"):
        mm.read_states(run, {"before": mm.untouched(run)}, mm.read_depth, backend=object())


def test_a_lens_that_nothing_tells_from_another_is_refused():
    class Lens:
        name = "mine"

        def transport(self, residual, layer):
            return residual

    with pytest.raises(StudyError, match="The lens mine"):
        FittedLens(Lens(), {})  # pyright: ignore[reportArgumentType]


def test_a_lens_by_its_name(run, small_facts):
    read = mm.read_states(run, {"before": mm.untouched(run)}, mm.read_depth, lens="logit")["before"]
    np.testing.assert_array_equal(read.logprob, mm.read_depth(run.model, small_facts).logprob)


def test_a_step_that_another_has_replaced_is_not_read_as_if_it_were_there(run):
    states = {"before": mm.untouched(run)}
    first = readings_of(run, states, mm.read_logits)["before"]
    second = readings_of(run, states, mm.read_logits, score="mean")["before"]
    with pytest.raises(StudyError, match="taken its place"):
        reading_in(first)
    assert reading_in(second).attrs["score"] == "mean"


def test_two_trainings_of_one_name_are_not_mixed(run, small_facts):
    examples = small_facts.install_examples()
    first = mm.train(run, "x", examples, CONFIG)
    second = mm.train(run, "x", examples, CONFIG.model_copy(update={"seed": 1}))
    with pytest.raises(StudyError, match="taken its place"):
        mm.read_states(run, {"first": first}, mm.read_logits)
    mm.read_states(run, {"second": second}, mm.read_logits)
