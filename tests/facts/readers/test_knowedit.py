"""KnowEdit and EasyEdit's own files: ground truth against target, locality beside it, portability behind it."""

from __future__ import annotations

import json
import zlib

import pytest

import mechmask as mm
from mechmask.errors import FactError

RECORD = {
    "subject": "Leo Arons",
    "prompt": "The place of death of Leo Arons is",
    "target_new": "Berlin",
    "ground_truth": ["Munich", "München"],
    "portability": {
        "Logical_Generalization": [
            {"prompt": "Is Leo Arons still alive?", "ground_truth": [["no", "incorrect"], ["No"]]}
        ],
        "Reasoning": [
            {"prompt": "The river of the place where Leo Arons died is the", "ground_truth": "Spree"},
            {"prompt": "Nothing follows", "ground_truth": []},
        ],
        "Subject_Aliasing": None,
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "The name of Leo Arons's father is", "ground_truth": [["Barthold"]]}]
    },
}
OTHER = {
    "case_id": 7,
    "subject": "Manon",
    "prompt": "The place of death of Manon is",
    "target_new": ["Paris"],
    "ground_truth": "Louisiana",
    "rephrase_prompt": "Manon died in ",
    "locality_prompt": "nq question: who sings",
    "locality_ground_truth": "Nobody",
}


def test_a_record_is_a_fact(tmp_path):
    (tmp_path / "k.json").write_text(json.dumps([RECORD, OTHER]))
    facts = mm.load_facts(tmp_path / "k.json")
    leo, manon = facts
    assert leo.id == f"Leo Arons/{zlib.crc32(RECORD['prompt'].encode()):08x}", "the record has no number"
    assert (leo.subject, leo.prompt) == ("Leo Arons", RECORD["prompt"])
    assert (leo.old, leo.new) == ("Munich", "Berlin")
    assert [(n.prompt, n.value) for n in leo.neighbors] == [("The name of Leo Arons's father is", "Barthold")]
    assert [(i.kind, i.prompt, i.value) for i in leo.implications] == [
        ("logical_generalization", "Is Leo Arons still alive?", "no"),
        ("reasoning", "The river of the place where Leo Arons died is the", "Spree"),
    ]
    assert (manon.id, manon.old, manon.new) == ("Manon/7", "Louisiana", "Paris")
    assert manon.paraphrases == ("Manon died in",)
    assert [(n.prompt, n.value) for n in manon.neighbors] == [("nq question: who sings", "Nobody")]
    assert set(leo.distractors) == {"Louisiana", "Paris"}
    assert mm.FactSet([RECORD, OTHER]) == mm.load_facts([RECORD, OTHER], "knowedit") == facts


def test_what_says_nothing_of_what_was_held_is_left_out():
    recent = {key: value for key, value in RECORD.items() if key != "ground_truth"}
    with pytest.warns(UserWarning, match="1 because the record says nothing of what was held before"):
        assert mm.FactSet([OTHER, recent]).ids == ("Manon/7",)
    with pytest.raises(FactError, match=r"^The fact set is empty: 1 of 1 records of .* was left out"):
        mm.FactSet([recent])


@pytest.mark.parametrize(
    "spoil",
    [{"ground_truth": 3}, {"portability": ["a"]}, {"locality": {"a": [{"prompt": "x"}]}}, {"target_new": {"str": "a"}}],
    ids=str,
)
def test_damaged_records_are_named(spoil):
    with pytest.raises(FactError, match=r"^Record 2 is not one of KnowEdit \("):
        mm.FactSet([OTHER, {**RECORD, **spoil}])


def test_no_alias_of_an_answer_stands_against_it():
    nested = {**RECORD, "ground_truth": [["Munich", "München"], ["Minga"]], "target_new": [["Berlin", "Spree-Athen"]]}
    aliases = ["München", "Minga", "Spree-Athen"]
    others = [
        {**OTHER, "case_id": i, "prompt": f"{i}. Manon died in", "ground_truth": a} for i, a in enumerate(aliases)
    ]
    leo, *_ = mm.FactSet([nested, OTHER, *others])
    assert (leo.old, leo.new) == ("Munich", "Berlin")
    assert set(leo.distractors) == {"Louisiana", "Paris"}


@pytest.mark.parametrize(
    "same",
    [{"ground_truth": [["Munich", "berlin"]]}, {"target_new": ["Berlin", "Munich"]}],
    ids=["the target is an alias of the truth", "the truth is an alias of the target"],
)
def test_a_target_that_is_true_by_another_name_is_left_out(same):
    with pytest.warns(UserWarning, match="1 because the new value is a true one"):
        assert mm.FactSet([OTHER, {**RECORD, **same}]).ids == ("Manon/7",)
