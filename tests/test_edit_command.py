"""``mechmask edit``: the library's table from the library's draw of facts; what cannot be is one line and code 2."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import get_args

import pytest

from mechmask.cli import arguments

pytestmark = pytest.mark.usefixtures("all_undrawn")

EDITOR = 'method = "ft_l"\nlayer = 1\nclamp = 1.0\nlr = 2e-2\nsteps = 10\n'
MEMIT = 'method = "memit"\nlayers = [1]\nvalue_steps = 5\nvalue_lr = 0.3\nmoment_tokens = 256\nmoment_weight = 1e-3\n'
OPTIONS = ("--facts", 2, "--no-generation", "--seed", 3)


@pytest.fixture
def edit(mechmask):
    """``edit(*arguments)``: ``mechmask edit``."""
    return partial(mechmask, "edit")


@pytest.fixture(scope="module")
def world():
    import mechmask as mm

    facts = mm.world_facts(relations=["capital"], distractors=3, neighbors=1)[:9]
    return mm.FactSet(fact.model_copy(update={"paraphrases": fact.paraphrases[:1]}) for fact in facts)


@pytest.fixture(scope="module")
def place(tiny, world, tmp_path_factory) -> Path:
    """A directory with a tiny model that knows most of some facts, one that knows none, the facts, and an editor."""
    import mechmask as mm

    root, model = tmp_path_factory.mktemp("place"), tiny("llama")
    world.to_jsonl(root / "facts.jsonl")
    (root / "editor.toml").write_text(EDITOR)
    taught = mm.finetune(model, world.install_examples(), mm.FinetuneConfig(method="full", lr=5e-3, steps=60))
    with taught.applied(model):
        model.module.save_pretrained(root / "knows")
    tiny("llama").module.save_pretrained(root / "ignorant")
    for name in ("knows", "ignorant"):
        model.tokenizer.save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def shown(place):
    """Arguments of a command that works."""
    return [place / "knows", place / "facts.jsonl", "--methods", place / "editor.toml", *OPTIONS]


def test_it_is_the_library_s_table_of_the_library_s_draw_and_is_taken_up_again(edit, shown, place, tmp_path, world):
    import mechmask as mm
    from mechmask.study.editing.facts import drawn_facts

    first = edit(*shown, "--out", tmp_path / "run")
    assert first.code == 0, first.err
    assert "FT-L takes on" in first.out and "Traceback" not in first.err
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "edits").rglob("*.nc")}
    again = edit(*shown, "--out", tmp_path / "run", "--json")
    report = json.loads(again.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "edits").rglob("*.nc")} == written
    model = mm.load_model(place / "knows")
    facts = drawn_facts(model, mm.load_facts(place / "facts.jsonl"), 2, seed=3)
    editor = mm.FTLConfig(layer=1, clamp=1.0, lr=2e-2, steps=10)
    results = mm.EditStudy(model, facts, mm.EditingConfig(edits=(editor,), generation=False, seed=3)).run(
        tmp_path / "by_hand"
    )
    rows = {row["state"]: row for row in report["summary"]}
    assert list(rows) == ["before", "ft_l"]
    for name in ("ES", "PS", "NS", "standing", "trace", "took"):
        assert rows["ft_l"][name] == pytest.approx(results.summary().loc["ft_l", name])
    assert report["conclusion"] == results.conclusion()


def test_the_facts_are_those_that_the_model_knows_drawn_by_the_seed(place, world):
    import mechmask as mm
    from mechmask.study.editing.facts import drawn_facts

    model = mm.load_model(place / "knows")
    known = set(mm.known_facts(model, world).ids)
    drawn = {seed: drawn_facts(model, world, 3, seed=seed) for seed in (0, 0, 1)}
    for facts in drawn.values():
        n = len(facts.contradicted)
        assert 1 <= n <= 3 and {*facts.contradicted.ids, *facts.control.ids} <= known and facts.control
        assert len(facts.never) == n + 12 and {fact.stands_for for fact in facts.never} == set(facts.contradicted.ids)
    assert drawn[0] == drawn_facts(model, world, 3, seed=0) and drawn[0].ids != drawn[1].ids
    bare = mm.FactSet(fact.model_copy(update={"distractors": ()}) for fact in world)
    with pytest.raises(mm.MechmaskError, match="knows 0 of the 0 facts"):
        drawn_facts(model, bare, 3)


def test_an_editor_that_reads_a_file_is_made_again_where_the_file_says_something_else(
    edit, place, world, tmp_path, monkeypatch
):
    monkeypatch.setattr("mechmask.draw.save_figure", lambda _, path: Path(path).touch())
    said = [f"{text} {fact.old}." for fact in world for text in fact.phrasings] * 8
    corpus = _written(tmp_path / "said.txt", "\n".join(said))
    editor = _written(tmp_path / "memit.toml", f"{MEMIT}corpus = '{corpus}'\n")
    command = [place / "knows", place / "facts.jsonl", "--methods", editor, *OPTIONS, "--out", tmp_path / "run"]
    found = []
    for lines in (said, said, said[::-2], said):
        _written(corpus, "\n".join(lines))
        done = edit(*command, "--json")
        assert done.code == 0, done.err
        made = sorted((tmp_path / "run" / "edits").rglob("output.nc"))
        found.append((json.loads(done.out)["summary"][1]["standing"], [path.stat().st_mtime_ns for path in made]))
    assert found[0] == found[1] == found[3] and found[2][0] != found[0][0]


def test_a_sequence_is_read_as_often_as_is_asked(edit, shown, tmp_path):
    import mechmask as mm

    command = [*shown, "--out", tmp_path / "run", "--edited", "sequence", "--read-every", "1"]
    done = edit(*command)
    assert done.code == 0, done.err
    assert mm.open_study(tmp_path / "run").reading("results/sequence").edits.values.tolist() == [0, 1, 2]


def test_fewer_facts_than_are_asked_for_are_said_to_be_fewer(edit, shown, place, tmp_path):
    import mechmask as mm

    many = [*shown, "--facts", 100, "--out", tmp_path / "run"]
    done = edit(*many, "--json")
    n = {row["state"]: row for row in json.loads(done.out)["summary"]}["ft_l"]["n"]
    n_known = len(mm.known_facts(mm.load_model(shown[0]), mm.load_facts(shown[1]), min_margin=0.1))
    assert 1 < n < n_known
    assert f"{n} facts are edited, not 100: {shown[0]} knows {n_known} of facts.jsonl, {n_known - n} of" in done.err


def test_an_interrupt_before_anything_is_kept_promises_nothing(edit, shown, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mechmask.facts.load.load_facts", interrupted)
    done = edit(*shown, "--out", tmp_path / "run")
    assert (done.code, done.out) == (130, "") and done.err.endswith("mechmask: stopped. Nothing was finished yet.\n")


def test_a_method_that_is_named_twice_is_one_editor_and_two_settings_of_it_are_two(place, tmp_path):
    import mechmask as mm
    from mechmask.study.editing.methods import configured

    other = _written(tmp_path / "other.toml", EDITOR.replace("1.0", "2.0"))
    same = _written(tmp_path / "same.toml", f"# of the same settings\n{EDITOR}")
    named = ",".join(map(str, (place / "editor.toml", other, " ", same, place / "editor.toml")))
    edits = configured(mm.load_model(place / "knows"), named, {}).edits
    assert [config.clamp for config in edits] == [1.0, 2.0]


def test_choices_are_those_of_the_library():
    from mechmask.study.editing.config import EditingConfig

    assert get_args(arguments.EditedHow) == get_args(EditingConfig.model_fields["edited"].annotation)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


ERRORS = {
    "unknown method": (lambda p, t: [p / "knows", p / "facts.jsonl", "--methods", "ft_l,rime"], "rime"),
    "no preset at all": (lambda p, t: [p / "knows", p / "facts.jsonl"], "No edit method has a preset"),
    "no preset of this one": (lambda p, t: [p / "knows", p / "facts.jsonl", "--methods", "rome"], "No ROME setting"),
    "no method": (lambda p, t: [p / "knows", p / "facts.jsonl", "--methods", ","], "edits"),
    "editor's file missing": (lambda p, t: [p / "knows", p / "facts.jsonl", "--methods", t / "no.toml"], "Cannot read"),
    "editor's file nonsense": (
        lambda p, t: [
            p / "knows",
            p / "facts.jsonl",
            "--methods",
            _written(t / "e.toml", "method = 'ft_l'\nlayer = 1"),
        ],
        "clamp",
    ),
    "block that is not there": (
        lambda p, t: [
            p / "knows",
            p / "facts.jsonl",
            "--methods",
            _written(t / "e.toml", EDITOR.replace("= 1\n", "= 7\n")),
        ],
        "blocks 0 to 2",
    ),
    "facts not known": (lambda p, t: [p / "ignorant", p / "facts.jsonl", "--methods", p / "editor.toml"], "knows 0 of"),
    "data missing": (lambda p, t: [p / "knows", t / "none.jsonl", "--methods", p / "editor.toml"], "none.jsonl"),
    "format unknown": (lambda p, t: [p / "knows", p / "facts.jsonl", "--format", "counterfct"], "counterfct"),
    "no facts": (lambda p, t: [p / "knows", p / "facts.jsonl", "--facts", 0], "--facts"),
    "edited nohow": (lambda p, t: [p / "knows", p / "facts.jsonl", "--edited", "twice"], "--edited"),
    "text missing": (
        lambda p, t: [p / "knows", p / "facts.jsonl", "--methods", p / "editor.toml", "--text", t / "no.txt", *OPTIONS],
        "no.txt",
    ),
    "model missing": (lambda p, t: [t / "nowhere", p / "facts.jsonl"], "nowhere"),
    "something else is there": (
        lambda p, t: [
            *[p / "knows", p / "facts.jsonl", "--methods", p / "editor.toml", *OPTIONS],
            *["--out", _written(t / "mine.txt", "mine")],
        ],
        "is a file",
    ),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_is_one_line_and_exit_code_two(edit, place, tmp_path, kind):
    made, said = ERRORS[kind]
    arguments = made(place, tmp_path)
    done = edit(*arguments, *(() if "--out" in arguments else ("--out", tmp_path / "run")))
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert (done.code, done.out, len(lines)) == (2, "", 1), done.err
    assert lines[0].startswith("mechmask: ") and said in lines[0]


def test_its_help_loads_nothing_heavy(edit):
    done = edit("--help")
    assert done.code == 0 and "--methods" in done.out and "--edited" in done.out
