"""zsRE in MEND's form: which of its two answers is new is said by name, everything else is the same in both."""

from __future__ import annotations

import json
import zlib

import pytest

import mechmask as mm
from mechmask.errors import FactError


def record(subject, answers, alt, src="What is the product made by {}?", **more):
    return {
        "subject": subject,
        "src": src.format(subject),
        "pred": "uniform",
        "rephrase": f"What will be the product of {subject}?",
        "alt": alt,
        "answers": answers,
        "loc": "nq question: who voiced gaston",
        "loc_ans": "Richard White",
        "cond": "uniform >> drone",
        **more,
    }


RECORDS = [
    record("UniFirst", ["uniform", "clothing"], " unmanned aircraft"),
    record("Acme", ["anvil"], "uniform"),
    record("Gallus", ["clothing"], "wine"),
    record("WEFS", ["1987"], "1997", "When was {} established?"),
]


@pytest.fixture
def file(tmp_path):
    def write(records):
        path = tmp_path / "zsre.json"
        path.write_text(json.dumps(records))
        return path

    return write


def test_the_true_and_the_counterfactual_answer_change_places(file):
    path = file(RECORDS)
    false, true = mm.load_facts(path, "zsre_counterfactual"), mm.load_facts(path, "zsre_true")
    assert [(f.old, f.new) for f in false] == [
        ("uniform", "unmanned aircraft"),
        ("anvil", "uniform"),
        ("clothing", "wine"),
        ("1987", "1997"),
    ]
    assert [(f.new, f.old) for f in true] == [(f.old, f.new) for f in false]
    for fact in (false[0], true[0]):
        assert (fact.id, fact.subject, fact.prompt) == (
            f"UniFirst/{zlib.crc32(b'What is the product made by UniFirst?'):08x}",
            "UniFirst",
            "What is the product made by UniFirst?",
        )
        assert fact.paraphrases == ("What will be the product of UniFirst?",)
        assert [(n.prompt, n.value) for n in fact.neighbors] == [("nq question: who voiced gaston?", "Richard White")]
        assert fact.distractors == ("anvil", "wine")  # clothing is true too, and a year is no product
    assert not mm.load_facts(path, "zsre_true")[3].distractors


def test_which_one_is_meant_is_never_guessed(file):
    for take in (lambda: mm.load_facts(file(RECORDS)), lambda: mm.FactSet(RECORDS)):
        with pytest.raises(FactError) as caught:
            take()
        assert "zsre_counterfactual or as zsre_true" in str(caught.value) and "format=" in str(caught.value)
    assert mm.load_facts(RECORDS, "zsre_true") == mm.load_facts(file(RECORDS), "zsre_true")


def test_what_follows_from_the_counterfactual_is_an_implication_of_it_alone(file):
    follows = {"Recalled Relation": "(drone, x)", "New Question": "Who regulates it?", "New Answer": "the FAA"}
    path = file([record("UniFirst", ["uniform"], "drone", portability=follows), *RECORDS[1:]])
    (implied,) = mm.load_facts(path, "zsre_counterfactual")[0].implications
    assert (implied.prompt, implied.value, implied.kind) == ("Who regulates it?", "the FAA", "portability")
    assert mm.load_facts(path, "zsre_true")[0].implications == ()


@pytest.mark.parametrize("name", ["zsre_true", "zsre_counterfactual"])
def test_an_alternative_that_is_no_other_value_leaves_both_the_same_facts(file, name):
    odd = [record("Naples", ["Naples"], "Naples"), record("Van", ["a", "b"], "b"), record("Eve", ["a"], "")]
    odd += [record("Nile", ["a", "River Nile"], "river nile"), record("Van", ["ROME"], "Rome")]
    odd += [record("Schlei", ["schlei"], "Schlei River"), record("Eider", ["Eider River"], "Eider")]
    with pytest.warns(
        UserWarning, match=r"^7 of 11 records of zsre.json were left out: 4 because the new value is a t"
    ):
        assert mm.load_facts(file([*RECORDS, *odd]), name).ids == mm.load_facts(file(RECORDS), name).ids


def test_damaged_records_are_named(file):
    bad = [{**RECORDS[0], "answers": "uniform"}, {**RECORDS[0], "answers": []}, {"subject": "a"}, 3]
    with pytest.raises(FactError) as caught:
        mm.load_facts(file([*RECORDS, *bad]), "zsre_true")
    message = str(caught.value)
    assert message.startswith("4 problems in zsre.json")
    for number, reason in [(5, "'answers' is not a list"), (7, "'answers'"), (8, "it is not an object")]:
        assert f"Record {number} of zsre.json is not one of zsRE (" in message and reason in message


@pytest.mark.filterwarnings("ignore:12 of 500 records")
def test_the_published_records(shared_data):
    path = shared_data / "zsre" / "zsre_mend.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    false, true = mm.load_facts(path, "zsre_counterfactual"), mm.load_facts(path, "zsre_true")
    kept = [one for one in raw if one["alt"] and one["alt"].strip() not in one["answers"]]
    assert len(kept) == 490
    alike = [("suicide by hanging", "suicide"), ("Schlei", "Schlei River")]
    kept = [one for one in kept if (one["answers"][0], one["alt"].strip()) not in alike]
    assert len(kept) == len(false) == len(true) == 488
    for one, wrong, right in zip(kept, false, true, strict=True):
        assert (wrong.old, wrong.new) == (right.new, right.old) == (one["answers"][0], one["alt"].strip())
        assert (wrong.prompt, wrong.paraphrases) == (one["src"], (one["rephrase"],))
        assert wrong.neighbors[0].prompt == one["loc"] + "?" and wrong.neighbors[0].value == one["loc_ans"]
        assert not set(one["answers"]) & {*wrong.distractors, *right.distractors}
    assert all(len(fact.distractors) == 8 for fact in false)
