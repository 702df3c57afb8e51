"""A reacquisition study on a tiny llama: its arms against the same trainings by hand, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import mechmask as mm
from mechmask.errors import ChangeError, FactError, StudyError
from mechmask.facts.arms import set_aside_third_values
from mechmask.study.one_step import read_after_one_step

TAUGHT = mm.FinetuneConfig(steps=60, lr=1e-2, rank=4)
CONFIG = mm.ReacquisitionConfig(
    install=TAUGHT,
    contradict=TAUGHT,
    reacquire=TAUGHT.model_copy(update={"steps": 6}),
    checkpoint_every=20,
    read_every=3,
)
ARMS = ["old_masked", "old_fresh", "novel", "never", "twin"]


@pytest.fixture(scope="module")
def facts():
    """Two phrasings each: the prompt and one that no training shows."""
    made = mm.synthetic_facts(6, n_contradicted=4, n_never=4, distractors=2, seed=5)
    return mm.FactSet(fact.model_copy(update={"paraphrases": fact.paraphrases[:1]}) for fact in made)


@pytest.fixture(scope="module")
def reacquired(tiny, facts, tmp_path_factory):
    """The results and their directory."""
    directory = tmp_path_factory.mktemp("reacquisition") / "run"
    return mm.ReacquisitionStudy(tiny("llama"), facts, CONFIG).run(directory), directory


@pytest.fixture(scope="module")
def change_of(reacquired):
    return lambda name: mm.load_change(reacquired[1] / "changes" / name / "change")


def test_arms_differ_in_what_they_are_taught_and_in_nothing_else(reacquired, facts):
    course = reacquired[0].reading("results/course")
    assert course.arm.values.tolist() == ARMS and course.step.values.tolist() == [0, 3, 6]
    rows = course.logprob.sel(step=0, phrasing=0).notnull().sum("fact")
    assert set(rows.values) == {len(facts.contradicted)}
    taught = {arm: set(course.value.sel(arm=arm).values) - {""} for arm in ARMS}
    assert taught["old_masked"] == taught["old_fresh"] == taught["twin"] == {f.old for f in facts.contradicted}
    assert taught["never"] == {fact.old for fact in facts.never}
    _, novel = set_aside_third_values(facts, CONFIG.seed)
    assert taught["novel"] == {fact.old for fact in novel}


def test_no_third_value_is_read_or_taught_before_its_arm(reacquired, facts):
    study, directory = reacquired
    _, novel = set_aside_third_values(facts, CONFIG.seed)
    thirds = {fact.old for fact in novel}
    for name in ("before", "masked", "half/old", "half/never", "half/twin"):
        assert not thirds & set(study.reading(f"readings/read_logits/{name}").value.values.flat)
    assert not any(third in (directory / "facts.jsonl").read_text() for third in thirds)


@pytest.mark.parametrize("arm", ["old_masked", "old_fresh", "novel"])
def test_an_arm_is_the_training_by_hand(reacquired, change_of, tiny, facts, arm):
    read, novel = set_aside_third_values(facts, CONFIG.seed)
    taught = novel if arm == "novel" else read.contradicted
    examples = [mm.Example(prompt=fact.prompt, value=fact.old, fact_id=fact.id) for fact in taught]
    start = None if arm == "old_fresh" else change_of("contradict")
    by_hand = mm.finetune(tiny("llama"), examples, CONFIG.reacquire, start=start)
    made = change_of(f"reacquire/{arm}")
    for name, tensor in by_hand.tensors.items():
        assert bool((tensor == made.tensors[name]).all()), name
    reading = mm.read_logits(by_hand.on(tiny("llama")), taught, phrasings="all")
    last = reacquired[0].reading("results/course").sel(arm=arm, step=6)
    np.testing.assert_allclose(last.logprob.sel(fact=list(taught.ids)), reading.logprob.sel(route="old"), atol=1e-4)
    np.testing.assert_array_equal(last.recalled.sel(fact=list(taught.ids)), reading.recalled.sel(route="old"))


def test_the_twin_never_saw_a_contradicted_old_value_and_was_contradicted_alike(change_of):
    steps = {name: change_of(name).details["steps"] for name in ("install", "contradict")}
    twin = {name: change_of(f"twin/{name}").details["steps"] for name in ("install", "contradict")}
    assert twin == steps


def test_the_numbers_follow_from_the_course(reacquired):
    study, _ = reacquired
    course, recall, found = (study.reading(f"results/{name}") for name in ("course", "recall", "increment"))
    left_out = recall.contradicted.values[~(recall.known & recall.took).values]
    says = course.recalled.sel(phrasing=0)
    for arm in ARMS:
        for fact in course.fact.values:
            row = says.sel(arm=arm, fact=fact).values
            if np.isnan(row).all() or fact in left_out:
                assert np.isnan(recall.steps.sel(arm=arm, fact=fact))
                continue
            first = next((3 * i for i in range(len(row)) if row[i:].all()), None)
            assert bool(recall.reached.sel(arm=arm, fact=fact)) == (first is not None)
            assert recall.steps.sel(arm=arm, fact=fact) == (6 if first is None else first)
    both = [recall.steps.sel(arm=arm, fact=found.fact) for arm in ("novel", "old_masked")]
    known = found.difference.notnull()
    np.testing.assert_array_equal(found.difference.values[known], (both[0] - both[1]).values[known])


def test_the_ledger_counts_the_tokens_of_the_values(reacquired, tokenizer, facts):
    recall = reacquired[0].reading("results/recall")
    n = sum(
        len(tokenizer(f"{f.prompt} {f.old}").input_ids) - len(tokenizer(f.prompt).input_ids) for f in facts.contradicted
    )
    assert recall.tokens_shown.sel(arm="old_masked") == n * 6


def test_the_half_that_was_only_read_is_no_part_of_what_was_taught(reacquired, facts):
    study, _ = reacquired
    half = study.reading("results/held_half")
    assert set(half.reference.values) == {"never", "twin"} and set(half.arm.values) == {"old", "never", "twin"}
    course = study.step("changes/reacquire/half_old").details
    assert course["steps"] == 6
    before = study.reading("readings/read_logits/masked")
    after = study.reading("readings/read_logits/half/old")
    fact = half.fact.values[0]
    gain = (after.logprob - before.logprob.sel(fact=after.fact)).sel(fact=fact, route="old", phrasing=0)
    np.testing.assert_allclose(half.gain.sel(arm="old", quantity="logprob", asked="prompt", fact=fact), gain)


def test_one_step_is_one_step_of_each_fact_alone(reacquired, change_of, tiny, facts):
    reading = reacquired[0].reading("readings/read_after_one_step/masked")
    read, _ = set_aside_third_values(facts, CONFIG.seed)
    fact = read.contradicted[1]
    one = CONFIG.reacquire.model_copy(update={"steps": 1})
    example = mm.Example(prompt=fact.prompt, value=fact.old, fact_id=fact.id)
    by_hand = mm.finetune(tiny("llama"), [example], one, start=change_of("contradict"))
    wanted = mm.read_logits(by_hand.on(tiny("llama")), [fact], phrasings="all").logprob.sel(route="old")
    np.testing.assert_allclose(reading.logprob.sel(fact=[fact.id], route="old"), wanted, atol=1e-5)
    assert set(reading.role.values) == {"contradicted", "never"}


def test_it_is_taken_up_with_the_same_bytes(reacquired, tiny, facts, contents, monkeypatch):
    _, directory = reacquired
    before = contents(directory)

    def nothing_is_trained(*_):
        raise AssertionError

    monkeypatch.setattr("mechmask.write.finetune.Finetuning.advance", nothing_is_trained)
    mm.ReacquisitionStudy(tiny("llama"), facts, CONFIG).run(directory)
    assert contents(directory) == before
    assert all(row.state == "done" for row in mm.study_status(directory))
    for name in ("arms.csv", "increment.csv", "held_half.csv", "one_step.csv", "samples.csv", "figures/one_step.png"):
        assert (directory / name).stat().st_size


def test_samples_of_the_masked_model_are_the_closed_form(reacquired):
    samples, masked = (reacquired[0].reading(n) for n in ("results/samples", "readings/read_logits/masked"))
    p = np.exp(masked.logprob.sel(route="old", phrasing=0, fact=samples.fact).values)
    np.testing.assert_allclose(samples.best_of_k.sel(k=10), stats.binom.sf(0, 10, p), rtol=1e-5)
    never = masked.role.sel(fact=samples.fact).values == "never"
    np.testing.assert_allclose(samples["mean"].sel(group="never", k=1), p[never].mean(), rtol=1e-5)


def test_facts_that_the_model_holds_have_neither_fresh_base_nor_twin(knowing, facts, undrawn, tmp_path):
    config = CONFIG.model_copy(update={"install": None, "reacquire": TAUGHT.model_copy(update={"steps": 3})})
    found = mm.ReacquisitionStudy(knowing(facts), facts, config).run(tmp_path / "known")
    recall = found.reading("results/recall")
    assert recall.arm.values.tolist() == ["old_masked", "novel", "never"] and recall.known.all()
    assert found.reading("results/held_half").reference.values.tolist() == ["never"]


def test_what_would_fail_later_is_refused_at_once(tiny, facts):
    model = tiny("llama")

    def refused(error, match, facts=facts, **changes):
        with pytest.raises(error, match=match):
            mm.ReacquisitionStudy(model, facts, CONFIG.model_copy(update=changes))

    refused(StudyError, "4 never facts; there are 4 contradicted, 2 control, 3 never", mm.FactSet(list(facts)[:-1]))
    refused(FactError, "third value", mm.FactSet(f.model_copy(update={"distractors": ()}) for f in facts))
    refused(StudyError, "be the same", reacquire=TAUGHT.model_copy(update={"rank": 2}))
    refused(StudyError, "be the same", reacquire=mm.FinetuneConfig(method="full"))
    refused(ChangeError, "no block 7", reacquire=TAUGHT.model_copy(update={"layers": (7,)}))
    with pytest.raises(StudyError, match="when it is shown"):
        mm.ReacquisitionConfig(reacquire=mm.FinetuneConfig(batch_size=2))
    with pytest.raises(StudyError, match="greater than or equal to 1"):
        mm.ReacquisitionConfig(samples=(0,))
    with pytest.raises(StudyError, match="one change on"):
        read_after_one_step(model, facts, config=TAUGHT)


def test_killed_again_and_again_it_ends_the_same(reacquired, tiny, facts, killed_after_every, same_results, tmp_path):
    study = mm.ReacquisitionStudy(tiny("llama"), facts, CONFIG)
    assert killed_after_every(17, study, tmp_path / "run") >= 3
    same_results(tmp_path / "run", reacquired[1])


def test_its_page_shows_all_of_it(reacquired, shows_everything):
    shows_everything(*reacquired)
