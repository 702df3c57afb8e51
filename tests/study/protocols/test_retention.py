"""A retention study on a tiny llama: the edits, the later trainings and every number made again by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tomllib

import mechmask as mm
from mechmask.errors import FileError, StudyError
from mechmask.measure.statistics import proportion_interval
from mechmask.study.retention.readings import read_kept
from mechmask.study.retention.tasks import lessons_of
from mechmask.study.toml import study_from_file

WORDS = "one two three four five six seven eight nine ten eleven twelve red blue green sun moon day night rain snow"
VALUES = ["apple", "bread", "corn", "dough", "eggs", "fish", "grape", "honey"]
TAUGHT = mm.FinetuneConfig(method="full", steps=6, lr=3e-3, batch_size=4)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    (root / "text.txt").write_text(" ".join(WORDS.split()[i % 21] for i in range(400)), encoding="utf-8")
    records = [{"instruction": f"Say the colour number {i}", "input": "", "output": f"colour {i}"} for i in range(12)]
    (root / "instructions.json").write_text(json.dumps(records), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def known():
    """Facts whose values begin with different letters, which the tokens of the tiny model mostly are."""
    return mm.FactSet(
        mm.Fact(
            subject=f"Zub{i}",
            prompt=f"The food of Zub{i} is",
            old=VALUES[i],
            new=VALUES[(i + 3) % 8],
            distractors=tuple(VALUES[(i + k) % 8] for k in (1, 2, 5)),
            relation=f"food {i % 4}",
            role="contradicted" if i < 4 else "control",
            id=f"fact{i}",
        )
        for i in range(8)
    )


@pytest.fixture(scope="module")
def config(sources):
    text = mm.LaterTask(
        kind="text", source=sources / "text.txt", n=12, n_held_out=4, words=8, finetune=TAUGHT, check_every=3
    )
    short = {"n": 8, "n_held_out": 4, "finetune": TAUGHT, "check_every": 2, "until": mm.UntilHeldOut(loss=5.6)}
    instructions = mm.LaterTask(kind="instructions", source=sources / "instructions.json", **short)
    edits = (mm.FTConfig(layer=0, lr=3e-2, steps=12), mm.FTLConfig(layer=1, clamp=0.2, steps=12, lr=5e-2))
    return mm.RetentionConfig(edits=edits, tasks=(text, instructions), together={"ft_l": 2})


@pytest.fixture(scope="module")
def studied(tiny, known, config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("retention") / "run"
    return mm.RetentionStudy(tiny("llama"), known, config).run(directory), directory


@pytest.fixture(scope="module")
def by_hand(tiny, known, config):
    """The first batch of FT-L and its twin without the edit, before and after six steps of the text."""
    model, task = tiny("llama"), config.tasks[0]
    lessons = lessons_of(task, model, known)
    edit = mm.edit(model, known[:2], config=config.edits[1])
    read = known.select([*known.ids[:2], *known.control.ids])
    states = {"edited": edit.on(model), "unedited": model}
    found = {}
    for name, state in states.items():
        later = mm.finetune(state, lessons.train, TAUGHT)
        found[name] = tuple(read_kept(one, read, related=known) for one in (state, later.on(state)))
    return found


def test_what_is_read_is_what_edit_and_finetune_give(studied, by_hand):
    study, _ = studied
    retention = study.reading("results/retention").sel(editor="ft_l", task="text")
    for when, moment in enumerate(("before", "after")):
        reading = by_hand["edited"][when].sel(fact=["fact0", "fact1"])
        found = retention.sel(moment=moment, fact=["fact0", "fact1"])
        np.testing.assert_array_equal(found.kept, reading.retained.sel(route="new"))
        np.testing.assert_array_equal(found.said, reading.said)
        np.testing.assert_allclose(found.share, reading.share, atol=1e-6)
    assert retention.steps.sel(fact="fact0") == 6 and retention.batch.values.tolist() == [0, 0, 1, 1, -1, -1, -1, -1]
    unedited = study.reading("results/retention").sel(editor="unedited", task="text", moment="after")
    there = by_hand["unedited"][1]
    np.testing.assert_array_equal(unedited.kept.sel(fact=there.fact), there.retained.sel(route="old"))


def test_the_trace_of_an_edit_is_the_new_value_s_above_its_twin_s(studied, by_hand):
    def standing(reading):
        others = [route for route in reading.route.values if route.startswith("distractor")]
        logprob = reading.logprob.sel(fact=["fact0", "fact1"])
        return logprob.sel(route="new") - logprob.sel(route=others).mean("route")

    fates = studied[0].reading("results/fates").sel(editor="ft_l", task="text", fact=["fact0", "fact1"])
    traces = [
        (standing(with_edit) - standing(without)).values
        for with_edit, without in zip(by_hand["edited"], by_hand["unedited"], strict=True)
    ]
    np.testing.assert_allclose(fates.trace_before, traces[0], atol=1e-4)
    np.testing.assert_allclose(fates.trace_after, traces[1], atol=1e-4)
    np.testing.assert_allclose(fates.normalised, 1 - traces[1] / traces[0], atol=1e-4)


def test_rates_follow_from_what_is_said(studied):
    study, _ = studied
    retention, fates, rates = (study.reading(f"results/{name}") for name in ("retention", "fates", "rates"))
    one, facts = retention.sel(editor="ft", task="text"), ["fact0", "fact1", "fact2", "fact3"]
    took = fates.took.sel(editor="ft", task="text").values
    kept = one.kept.sel(moment="after", fact=facts).values[took]
    share = rates.sel(editor="ft", task="text", quantity="edited")
    np.testing.assert_allclose(share.estimate, kept.mean())
    exact = proportion_interval(int(kept.sum()), len(kept))  # each fact is edited alone, so each is a record of its own
    np.testing.assert_allclose([share.low, share.high], [exact.low, exact.high])
    said = rates.said.sel(editor="ft", task="text")
    assert float(said.sum()) == pytest.approx(1) and float(said.sel(fate="edited")) == pytest.approx(kept.mean())
    of = fates.sel(editor="ft", task="text").isel(fact=np.flatnonzero(took))
    wanted = 1 - float(of.trace_after.sum() / of.trace_before.sum())
    np.testing.assert_allclose(rates.normalised.sel(editor="ft", task="text"), wanted)


def test_a_training_ends_where_its_own_examples_are_predicted(studied):
    study, directory = studied
    steps = study.reading("results/retention").steps.sel(editor="unedited", task="instructions")
    last = int(steps.max())
    assert 0 < last < 6
    losses = {
        int(path.name): float(mm.load_reading(path / "output.nc").held_out_loss)
        for path in (directory / "checkpoints" / "later" / "instructions" / "unedited").iterdir()
    }
    assert max(losses) == last and losses[last] < 5.6 <= min(loss for step, loss in losses.items() if step < last)
    course = study.reading("results/course").sel(editor="unedited", task="instructions")
    assert course.share.sel(step=6).equals(course.share.sel(step=last).assign_coords(step=6))


def test_it_is_taken_up_with_the_same_bytes(studied, tiny, known, config, contents):
    _, directory = studied
    before = contents(directory)
    mm.RetentionStudy(tiny("llama"), known, config).run(directory)
    assert contents(directory) == before
    assert all(row.state == "done" for row in mm.study_status(directory))
    for name in ("retention.csv", "figures/retention.png", "figures/course_text.pdf"):
        assert (directory / name).stat().st_size


def test_killed_again_and_again_it_ends_the_same(
    studied, tiny, known, config, killed_after_every, same_results, tmp_path
):
    study = mm.RetentionStudy(tiny("llama"), known, config)
    assert killed_after_every(11, study, tmp_path / "run") >= 2
    same_results(tmp_path / "run", studied[1])


def test_its_page_shows_all_of_it(studied, shows_everything):
    shows_everything(*studied)


def test_no_example_names_a_fact_that_is_read(tiny, known, config, tmp_path):
    model = tiny("llama")
    names = {name for fact in known for name in (fact.subject, fact.old, fact.new)}
    text = " ".join(f"{name} {WORDS}" for name in names for _ in range(4))
    (tmp_path / "named.txt").write_text(f"{text} {WORDS} {WORDS}", encoding="utf-8")
    task = config.tasks[0].model_copy(update={"source": tmp_path / "named.txt", "n": 6, "n_held_out": 2})
    lessons = lessons_of(task, model, known)
    assert len(lessons.train) == 6 and lessons.held_out == lessons.train[:2]
    assert not any(name in f"{one.prompt} {one.value}".split() for one in lessons.train for name in names)
    with pytest.raises(StudyError, match="speak of no edited or intrinsic fact, and 500 are asked for"):
        lessons_of(task.model_copy(update={"n": 500}), model, known)


def test_facts_to_learn_are_those_that_the_model_does_not_say(taught_tiny, known, tmp_path):
    model, said, unsaid = taught_tiny
    mm.FactSet([*said, *unsaid]).to_jsonl(tmp_path / "pool.jsonl")
    task = mm.LaterTask(kind="facts", source=tmp_path / "pool.jsonl", n=len(unsaid), n_held_out=1)
    lessons = lessons_of(task, model, known)
    assert {one.fact_id for one in lessons.train} == set(unsaid.ids)
    exact = mm.read_examples(model, lessons.train).exact
    assert not exact.any()


@pytest.fixture
def taught_tiny(tiny):
    """A model that says two facts of four."""
    pool = mm.FactSet(
        mm.Fact(subject=f"Qex{i}", prompt=f"The colour of Qex{i} is", old=old, new="mauve", id=f"pool{i}")
        for i, old in enumerate(("white", "black", "pink", "teal"))
    )
    said, unsaid = pool[:2], pool[2:]
    model = tiny("llama")
    lesson = mm.FinetuneConfig(method="full", steps=60, lr=1e-2)
    change = mm.finetune(model, said.install_examples(), lesson, progress=False)
    with change.applied(model):
        yield model, said, unsaid


def test_examples_are_read_as_the_plain_module_has_them(tiny, family):
    import torch

    model = tiny(family)
    examples = [mm.Example(prompt="The sun is", value="red and blue"), mm.Example(prompt="One two", value="three")]
    reading = mm.read_examples(model, examples)
    for number, example in enumerate(examples):
        prompt = model.tokenizer(example.prompt)["input_ids"]
        whole = model.tokenizer(f"{example.prompt} {example.value}")["input_ids"]
        with torch.no_grad():
            logits = model.module(torch.tensor([whole])).logits[0, len(prompt) - 1 : -1].float()
        value = torch.tensor(whole[len(prompt) :])
        nll = torch.nn.functional.cross_entropy(logits, value)
        np.testing.assert_allclose(reading.nll[number], nll, atol=1e-5)
        assert reading.n_tokens[number] == len(value)
        assert bool(reading.exact[number]) == bool((logits.argmax(-1) == value).all())


def test_a_file_describes_it(sources, known, tmp_path):
    known.to_jsonl(tmp_path / "groups.jsonl")
    (tmp_path / "text.txt").write_text(WORDS * 20, encoding="utf-8")
    study = """
        protocol = "retention"
        together = { memit = 5 }
        edits = [{ method = "ft", layer = 0 }]
        tasks = [{ kind = "text", source = "text.txt", n = 4, n_held_out = 2, until = { loss = 3.1 } }]
    """
    file = tmp_path / "study.toml"
    file.write_text(f"[facts]\npath = 'groups.jsonl'\n[study]\n{study}", encoding="utf-8")
    described = study_from_file(file)
    assert isinstance(described, mm.RetentionStudy)
    assert described.config.tasks[0].source == tmp_path / "text.txt"
    settings = {key: value for key, value in tomllib.loads(study).items() if key not in ("protocol", "tasks")}
    assert described.config == mm.RetentionConfig(**settings, tasks=described.config.tasks)


def test_what_cannot_be_studied_is_refused_before_any_work(tiny, known, config, sources, tmp_path):
    model = tiny("llama")
    with pytest.raises(StudyError, match="no task to train on"):
        mm.RetentionStudy(model, known, config.model_copy(update={"tasks": ()}))
    with pytest.raises(StudyError, match="several tasks are called 'text'"):
        mm.RetentionConfig(tasks=(config.tasks[0], config.tasks[0]))
    with pytest.raises(StudyError, match="no edit method 'romme'"):
        mm.RetentionConfig(together={"romme": 3})
    with pytest.raises(StudyError, match="at least 1 contradicted, 2 control"):
        mm.RetentionStudy(model, known.contradicted, config)
    alike = known[0].model_copy(update={"old": "apple", "new": "apply"})
    with pytest.raises(StudyError, match="begin alike"):
        mm.RetentionStudy(model, mm.FactSet([alike, *known[1:]]), config)
    for rule in ({}, {"loss": 1.0, "accuracy": 0.5}):
        with pytest.raises(StudyError, match="by loss or by accuracy"):
            mm.UntilHeldOut(**rule)
    (tmp_path / "broken.json").write_text('[{"instruction": "Say it"}]', encoding="utf-8")
    task = config.tasks[1].model_copy(update={"source": tmp_path / "broken.json"})
    with pytest.raises(FileError, match="no list of records with instruction and output"):
        lessons_of(task, model, known)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 100)
    with pytest.raises(FileError, match=r"latin\.txt is not UTF-8"):
        lessons_of(config.tasks[0].model_copy(update={"source": tmp_path / "latin.txt"}), model, known)
    with pytest.raises(FileError, match=r"Cannot read .*nowhere\.txt"):
        lessons_of(config.tasks[0].model_copy(update={"source": tmp_path / "nowhere.txt"}), model, known)
