"""known_1000: the attribute after the record's own prompt; what contradicts it is another attribute of its relation."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import pytest

import mechmask as mm
from mechmask.errors import FactError


def record(number, subject, attribute, relation="P36", prompt="The capital of {} is"):
    return {
        "known_id": number,
        "subject": subject,
        "attribute": attribute,
        "template": prompt,
        "prediction": f" {attribute}, which",
        "prompt": prompt.format(subject),
        "relation_id": relation,
    }


RECORDS = [
    record(0, "France", "Paris"),
    record(1, "Spain", "Madrid"),
    record(2, "Beats Music", "Apple", "P127", "{} is owned by"),
    record(3, "Italy", "Rome"),
    record(4, "Siri", "Apple Inc", "P127", "{} is owned by"),
    record(5, "Bing", "Microsoft", "P127", "{} is owned by"),
]


def test_a_record_is_a_fact(tmp_path):
    (tmp_path / "k.json").write_text(json.dumps(RECORDS))
    facts = mm.load_facts(tmp_path / "k.json")
    france = facts[0]
    assert (france.id, france.subject, france.prompt) == ("France/P36/0", "France", "The capital of France is")
    assert (france.old, france.relation) == ("Paris", "P36")
    assert {france.new, *france.distractors} == {"Madrid", "Rome"}
    assert {f.new for f in facts if f.relation == "P127"} == {"Apple", "Microsoft"}
    assert facts[2].new == "Microsoft" and facts[2].distractors == ()  # Apple Inc begins as Apple
    assert mm.load_facts(tmp_path / "k.json", "known_1000") == mm.FactSet(RECORDS) == facts


def test_a_new_value_depends_on_the_fact_and_not_on_its_place():
    many = [record(i, f"S{i}", f"{chr(65 + i % 9)} town") for i in range(90)]
    facts, turned = mm.FactSet(many), mm.FactSet(many[::-1])
    assert {f.id: f.new for f in facts} == {f.id: f.new for f in turned}
    assert len({f.new for f in facts}) > 5, "a relation is not contradicted with one value"
    assert all(len(f.distractors) == 7 for f in facts)


def test_an_attribute_without_rival_is_left_out():
    with pytest.warns(UserWarning, match="because no other value of its kind is there to contradict it with"):
        facts = mm.FactSet([*RECORDS, record(9, "Lyon", "Turin", "P190", "{} is a twin city of")])
    assert len(facts) == len(RECORDS)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ({"attribute": 3}, "'attribute' is not text"),
        ({"prompt": None}, "'prompt' is not text"),
        ({"relation_id": ["P36"]}, "'relation_id' is not text"),
    ],
)
def test_damaged_records_are_named(spoil, reason):
    with pytest.raises(FactError) as caught:
        mm.FactSet([*RECORDS, {**RECORDS[0], **spoil}])
    assert str(caught.value) == (
        f"Record 7 is not one of known_1000 ({reason}). Give it as it is published; a file of your own facts ends in "
        ".jsonl or .csv."
    )


@pytest.mark.filterwarnings("ignore:2 of 1209 records")
def test_the_published_records(shared_data):
    path = shared_data / "known_1000" / "known_1000.json"
    raw = {one["known_id"]: one for one in json.loads(path.read_text(encoding="utf-8"))}
    facts = mm.load_facts(path)
    assert len(facts) == 1207
    attributes = defaultdict(Counter)
    for one in raw.values():
        attributes[one["relation_id"]][one["attribute"]] += 1
    for fact in facts:
        one = raw[int(fact.id.rsplit("/", 1)[1])]
        assert (fact.subject, fact.prompt, fact.old) == (one["subject"], one["prompt"], one["attribute"])
        assert {fact.new, *fact.distractors} <= attributes[one["relation_id"]].keys() - {fact.old}
