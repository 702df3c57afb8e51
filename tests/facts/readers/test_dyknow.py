"""DyKnow: the current holder against the last one before, by the dates; other former holders as distractors."""

from __future__ import annotations

import json
import re

import pytest

import mechmask as mm
from mechmask.errors import FactError

ITALY = {
    "questions": {
        "generic": "The head of state in Italy is",
        "contextualized": "The President of the Republic is",
        "rephrased_1": "The name of the current President of Italy is",
        "rephrased_2": "The position of the President of Italy is currently held by",
    },
    "answers": [
        "Carlo Ciampi |S: +1999-05-18T00:00:00Z |E: +2006-05-15T00:00:00Z",
        "Sergio Mattarella |S: +2015-02-03T00:00:00Z",
        "Giorgio Napolitano |S: +2006-05-15T00:00:00Z |E: +2015-01-14T00:00:00Z",
        "Oscar Scalfaro |E: +1999-05-15T00:00:00Z",
        "Carlo Ciampi |S: +1992-05-28T00:00:00Z |E: +1992-06-15T00:00:00Z",
    ],
}
RONALDO = {
    "questions": {"contextualized": "The club of him is", "generic": "The current team of Ronaldo is"},
    "answers": [
        "Portugal |S: +2003-00-00T00:00:00Z |P: +2021-06-27T00:00:00Z",
        "Al-Nassr |S: +2023-01-00T00:00:00Z",
        "Juventus |S: +2018-00-00T00:00:00Z |E: +2021-08-26T00:00:00Z",
        "Porto |S: +2001-00-00T00:00:00Z |E: +2002-08-26T00:00:00Z",
    ],
}
TREE = {
    "countries": {"Italy": {"President of Italy": ITALY}},
    "athletes": {"Ronaldo": RONALDO},
}


@pytest.fixture
def file(tmp_path):
    def write(value):
        path = tmp_path / "dyknow.json"
        path.write_text(json.dumps(value))
        return path

    return write


def test_the_current_holder_contradicts_the_last_one_before(file):
    facts = mm.load_facts(file(TREE))
    italy, ronaldo = facts["Italy/President of Italy"], facts["Ronaldo/athletes"]
    assert (italy.old, italy.new) == ("Giorgio Napolitano", "Sergio Mattarella")
    assert italy.distractors == ("Carlo Ciampi", "Oscar Scalfaro"), "the latest first, each once"
    assert (italy.subject, italy.prompt, italy.relation) == ("Italy", "The head of state in Italy is", "countries")
    assert italy.paraphrases == tuple(list(ITALY["questions"].values())[1:])
    assert (ronaldo.old, ronaldo.new, ronaldo.distractors) == ("Juventus", "Al-Nassr", ("Porto",)), "he plays for both"
    assert ronaldo.prompt == "The current team of Ronaldo is", "the first phrasing that names him"
    assert mm.load_facts(file(TREE), "dyknow") == facts


def test_an_outdated_answer_to_edit_says_its_own_prompt_and_target(file):
    edit = {
        "prompt": "The position of the President of Italy is currently held by",
        "target": "Sergio Mattarella",
        "subject": "President of Italy",
        "domain": "countries",
        "element": "Italy",
        "attribute": "President of Italy",
        "prompt_type": "rephrased_2",
        **ITALY,
    }
    (fact,) = mm.load_facts(file([edit]))
    assert (fact.subject, fact.prompt) == ("President of Italy", edit["prompt"])
    assert (fact.old, fact.new) == ("Giorgio Napolitano", "Sergio Mattarella")
    assert set(fact.phrasings) == set(ITALY["questions"].values()) and len(fact.paraphrases) == 3


def test_who_never_changed_is_left_out(file):
    alone = {**ITALY, "answers": ["Sergio Mattarella |S: +2015-02-03T00:00:00Z"]}
    gone = {**ITALY, "answers": ITALY["answers"][:1]}
    with pytest.warns(UserWarning, match="1 because nobody held it before, 1 because nobody holds it now"):
        facts = mm.load_facts(file({**TREE, "companies": {"Acme": alone, "Italy": gone}}))
    assert len(facts) == 2


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ({"answers": ["Sergio Mattarella"]}, "the answer 'Sergio Mattarella' has no date"),
        ({"answers": "Sergio"}, "'answers' is not a list"),
        ({"questions": ["a"]}, ""),
        ({"questions": {}}, ""),
        ({"questions": {"generic": 3}}, "'generic' is not text"),
    ],
)
def test_damaged_records_are_named(file, spoil, reason):
    with pytest.raises(FactError) as caught:
        mm.load_facts(file({**TREE, "other": {"Italy": {**ITALY, **spoil}, "Rome": 3}}))
    message = str(caught.value)
    assert f"Record 3 of dyknow.json is not one of DyKnow ({reason}" in message
    assert "Record 4 of dyknow.json is not one of DyKnow (it is not an object)" in message


def _terms(answers):
    for answer in answers:
        found = dict(re.findall(r"\|([SE]): \+(\d+-\d+-\d+)", answer))
        yield answer.split(" |")[0], found.get("S", ""), found.get("E")


@pytest.mark.filterwarnings("ignore:11 of 130 records")
def test_the_published_tree(shared_data):
    path = shared_data / "dyknow" / "grc_generated.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    facts = mm.load_facts(path)
    assert len(facts) == 119
    for fact in facts:
        element, attribute = fact.id.split("/", 1)
        found = raw[fact.relation][element]
        one = found if "questions" in found else found[attribute]
        assert set(fact.phrasings) == set(one["questions"].values()) and element == fact.subject
        terms = list(_terms(one["answers"]))
        now = {holder: start for holder, start, end in terms if end is None}
        assert now[fact.new] == max(now.values())
        assert max(end for holder, _, end in terms if end and holder not in now) in {
            end for holder, _, end in terms if holder == fact.old
        }
        assert not now.keys() & {fact.old, *fact.distractors}


def test_the_published_outdated_answers(shared_data):
    path = shared_data / "dyknow" / "llama2-7b_editing_dataset.json"
    raw, facts = json.loads(path.read_text(encoding="utf-8")), mm.load_facts(path)
    assert len(facts) == len(raw) == 54
    for one, fact in zip(raw, facts, strict=True):
        assert (fact.prompt, fact.subject, fact.new) == (one["prompt"], one["subject"], one["target"])
        assert set(fact.phrasings) == set(one["questions"].values())
        assert fact.old in {holder for holder, _, end in _terms(one["answers"]) if end}
