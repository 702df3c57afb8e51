"""HotpotQA, with paragraphs and without: the subject is what the question names, the rivals answer alike questions."""

from __future__ import annotations

import json

import pytest

import mechmask as mm
from mechmask.errors import FactError

RECORDS = [
    {"question": "Were Scott Derrickson and Ed Wood of the same nationality?", "answer": "yes", "type": "comparison"},
    {"question": "Who portrayed Corliss Archer in Kiss and Tell?", "answer": "Shirley Temple", "type": "bridge"},
    {"question": "Who directed Manon?", "answer": "Jean Aurel", "type": "bridge"},
    {"question": "In what year was Ada Lovelace born?", "answer": "1815", "type": "bridge"},
    {"question": "In what year did Jane Austen die?", "answer": "1817", "type": "bridge"},
]


def test_a_question_is_a_fact():
    facts = mm.FactSet(RECORDS)
    yes, who = facts[0], facts[1]
    assert (yes.subject, yes.old, yes.new, yes.distractors) == ("Scott Derrickson", "yes", "no", ())
    assert who.prompt == "Question: Who portrayed Corliss Archer in Kiss and Tell?\nAnswer:"
    assert (who.subject, who.old, who.new, who.relation) == ("Corliss Archer", "Shirley Temple", "Jean Aurel", "bridge")
    assert (facts[3].new, facts[4].new) == ("1817", "1815"), "a year stands against a year"
    assert len(set(facts.ids)) == 5
    assert [example.value for example in facts.install_examples()] == [one["answer"] for one in RECORDS]


def test_a_supporting_title_in_the_question_is_the_subject():
    title = {"_id": "5a", "supporting_facts": [["The Film", 0], ["Kiss and Tell", 1]], **RECORDS[1]}
    hub = {"id": "5b", "supporting_facts": {"title": ["Manon"], "sent_id": [0]}, **RECORDS[2]}
    facts = mm.load_facts([title, hub], "hotpotqa")
    assert (facts[0].subject, facts[0].id) == ("Kiss and Tell", "Kiss and Tell/5a")
    assert (facts[1].subject, facts[1].id) == ("Manon", "Manon/5b")


@pytest.mark.parametrize(
    ("question", "answer", "subject"),
    [
        ("Who is older, Annie Morton or Terry Richardson?", "Terry Richardson", "Annie Morton"),
        ("Who is older, Annie Morton or Terry Richardson?", "Annie Morton", "Terry Richardson"),
        ("Which novelist, J. G. Farrell or Aragon, wrote it?", "Farrell", "Aragon"),
        ("Which plant is larger, the Pterocarya or the Cotula?", "The pterocarya", "Cotula"),
    ],
)
def test_the_subject_is_never_the_answer(question, answer, subject):
    record = {"question": question, "answer": answer, "type": "comparison"}
    assert mm.FactSet([record, *RECORDS])[0].subject == subject
    titled = {**record, "supporting_facts": [[answer, 0], [subject, 1]]}
    assert mm.FactSet([titled, *RECORDS])[0].subject == subject


def test_a_question_that_names_nothing_but_its_answer_is_left_out():
    record = {"question": "Who produced a film by Spike Jonze?", "answer": "Spike Jonze", "type": "bridge"}
    with pytest.warns(UserWarning, match="1 because the question names nothing but its answer"):
        assert len(mm.FactSet([*RECORDS, record])) == 5


def test_a_question_that_names_nothing_is_left_out():
    with pytest.warns(UserWarning, match="1 because the prompt does not name the subject"):
        assert len(mm.FactSet([*RECORDS, {"question": "who was it?", "answer": "Bob", "type": "bridge"}])) == 5


def test_damaged_records_are_named():
    spoiled = [{**RECORDS[0], "answer": 3}, {**RECORDS[0], "supporting_facts": [["a"]]}, {**RECORDS[0], "type": None}]
    with pytest.raises(FactError) as caught:
        mm.FactSet([*RECORDS, *spoiled])
    for number, reason in [(6, "'answer' is not text"), (7, ""), (8, "'type' is not text")]:
        assert f"Record {number} is not one of HotpotQA ({reason}" in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize(
    ("name", "n"), [("hotpotqa_with_context_100.json", 99), ("hotpotqa_dev_simplified_2000.json", 1968)]
)
def test_the_published_records(shared_data, name, n):
    raw = {one["question"].strip(): one for one in json.loads((shared_data / "hotpotqa" / name).read_text("utf-8"))}
    facts = mm.load_facts(shared_data / "hotpotqa" / name)
    assert len(facts) == n
    answers = {one["answer"] for one in raw.values()} | {"yes", "no"}
    for fact in facts:
        question = fact.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
        assert (fact.old, fact.relation) == (raw[question]["answer"], raw[question]["type"])
        assert {fact.new, *fact.distractors} <= answers - {fact.old}
        assert fact.subject.lower() != fact.old.lower()
        assert (fact.old in ("yes", "no")) == (fact.new in ("yes", "no"))
