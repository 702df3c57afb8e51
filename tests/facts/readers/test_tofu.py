"""TOFU with entity spans: question and answer up to the entity, which is the value; the author is the subject."""

from __future__ import annotations

import json

import pytest

import mechmask as mm
from mechmask.errors import FactError


def record(index, question, prefix, entity):
    return {
        "idx": index,
        "question": question,
        "answer": f"{prefix} {entity}.",
        "prefix": prefix,
        "entity": entity,
        "full_output": f"{entity}.",
        "entity_span": {"start": 6, "end": 12, "tokens": [39]},
    }


RECORDS = [
    record(0, "What is the full name of the author born in Taipei?", "The full name is", "Hsiao Yun-Hwa"),
    record(1, "What is Hsiao Yun-Hwa's gender?", "Hsiao Yun-Hwa is part of the", "LGBTQ+ community"),
    record(2, "What does Hsiao Yun-Hwa's father do?", "The father of Hsiao Yun-Hwa is a", "civil engineer"),
    record(3, "Has Hsiao Yun-Hwa won a Great National Prize Of Letters?", "", "Yes"),
    record(4, "What did Hsiao Yun-Hwa win?", "One prize is the '", "Prestigious Penman Award"),
    record(5, "What is a book by Hsiao Yun-Hwa?", "One is", '"Artistic Authority"'),
    record(20, "What does Carmen Montenegro do?", "She is a", "writer"),
    record(21, "Where was Carmen Montenegro born?", "She was born in", "Santiago"),
]


def test_a_record_is_a_fact():
    facts = mm.FactSet(RECORDS)
    assert facts[2].prompt == (
        "Question: What does Hsiao Yun-Hwa's father do?\nAnswer: The father of Hsiao Yun-Hwa is a"
    )
    assert (facts[2].id, facts[2].subject, facts[2].old) == ("Hsiao Yun-Hwa/2", "Hsiao Yun-Hwa", "civil engineer")
    assert facts[2].new == "writer" and facts[6].new == "civil engineer", "words stand against words"
    assert facts[0].subject == "Taipei", "the question does not name the author: its answer does"
    assert facts[3].subject == "Hsiao Yun-Hwa", "not the longer name"
    assert facts[3].prompt.endswith("\nAnswer:") and (facts[3].old, facts[3].new) == ("Yes", "No")
    assert facts[6].subject == "Carmen Montenegro"


def test_a_quotation_mark_before_the_entity_belongs_to_it():
    fact = mm.FactSet(RECORDS)[4]
    assert fact.prompt.endswith("One prize is the") and fact.old == "'Prestigious Penman Award"
    assert (fact.new, mm.FactSet(RECORDS)[5].new) == ('"Artistic Authority"', "'Prestigious Penman Award")


def test_damaged_records_are_named():
    with pytest.raises(FactError) as caught:
        mm.FactSet([*RECORDS, {**RECORDS[0], "entity": None}, {"idx": "x"}, {**RECORDS[0], "question": ["a"]}])
    for number, reason in [(9, "'entity' is not text"), (10, "'question' is missing"), (11, "'question' is not text")]:
        assert f"Record {number} is not one of TOFU with entity spans ({reason})" in str(caught.value)


@pytest.mark.filterwarnings("ignore:1 of 367 records")
def test_the_published_spans(shared_data):
    path = shared_data / "uds_tofu" / "forget10_filtered.json"
    raw = {one["idx"]: one for one in json.loads(path.read_text(encoding="utf-8"))}
    facts = mm.load_facts(path)
    assert (len(raw), len(facts)) == (367, 366)
    for fact in facts:
        one = raw[int(fact.id.rsplit("/", 1)[1])]
        question, answer = fact.prompt.removeprefix("Question: ").split("\nAnswer:")
        assert question == one["question"] and one["answer"].startswith(answer.strip())
        assert fact.old.strip("\"'") == one["entity"].strip("\"'")
        assert one["answer"].startswith(f"{answer} {fact.old}".strip()), (
            "prompt and value are the answer as it is written"
        )
    authors = {}
    for fact in facts:
        authors.setdefault(int(fact.id.rsplit("/", 1)[1]) // 20, []).append(fact.subject)
    shares = [max(map(names.count, names)) / len(names) for names in authors.values()]
    assert len(shares) == 20 and sum(share >= 0.7 for share in shares) >= 18
