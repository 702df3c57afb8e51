"""PopQA in both published forms: the same fact, asked as its authors ask, and no alias of the answer against it."""

from __future__ import annotations

import json

import pytest

import mechmask as mm
from mechmask.errors import FactError


def flat(number, subject, value, aliases=(), relation="composer"):
    return {
        "id": number,
        "subj": subject,
        "prop": relation,
        "obj": value,
        "subj_id": 1,
        "prop_id": 639,
        "obj_id": 2,
        "s_pop": 1381,
        "o_pop": 922,
        "question": f"Who was the {relation} of {subject}?",
        "possible_answers": json.dumps([value, *aliases]),
    }


def nested(one):
    inner = {key: value for key, value in one.items() if key not in ("id", "question", "possible_answers")}
    answers = json.loads(one["possible_answers"])
    return {"id": f"test_{one['id']}", "question": one["question"], "metadata": inner, "golden_answers": answers}


RECORDS = [
    flat(7, "Easy Living", "Ralph Rainger", ["Ralph Reichenthal"]),
    flat(8, "Manon", "Jules Massenet"),
    flat(9, "Faust", "Charles Gounod"),
    flat(10, "Blossom", "ralph reichenthal"),
]


def test_both_forms_are_the_same_facts(tmp_path):
    (tmp_path / "popqa.jsonl").write_text("\n".join(json.dumps(nested(one)) for one in RECORDS) + "\n")
    facts, others = mm.load_facts(tmp_path / "popqa.jsonl"), mm.FactSet(RECORDS)
    living = facts[0]
    assert (living.id, living.relation) == ("Easy Living/composer/test_7", "composer")
    assert (living.subject, living.old) == ("Easy Living", "Ralph Rainger")
    assert living.prompt == "Q: Who was the composer of Easy Living? A:"
    assert {living.new, *living.distractors} == {"Jules Massenet", "Charles Gounod"}, "an alias is true, in any case"
    assert others[0].id == "Easy Living/composer/7"
    assert [(f.prompt, f.old) for f in others] == [(f.prompt, f.old) for f in facts]


def test_lines_that_are_damaged_are_named_by_their_number(tmp_path):
    lines = [nested(RECORDS[0]), nested(RECORDS[1]), {**nested(RECORDS[2]), "metadata": {"subj": "Faust"}}]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(one) for one in lines) + "\n\n{nope\n[]\n")
    with pytest.raises(FactError) as caught:
        mm.load_facts(tmp_path / "p.jsonl")
    message = str(caught.value)
    assert message.startswith("3 problems in p.jsonl")
    assert "Line 3 of p.jsonl is not one of PopQA ('prop' is missing)" in message
    assert "Line 5 of p.jsonl is not JSON" in message and "Line 6 of p.jsonl is not a JSON object" in message


@pytest.mark.filterwarnings("ignore:1 of 500 records")
def test_the_published_records(shared_data):
    path = shared_data / "popqa" / "popqa.jsonl"
    raw = {one["id"]: one for one in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    facts = mm.load_facts(path)
    assert len(raw) == 500 and len(facts) == 499  # two films are called The Entity
    objects = {}
    for one in raw.values():
        objects.setdefault(one["metadata"]["prop"], set()).add(one["metadata"]["obj"])
    for fact in facts:
        one = raw[fact.id.rsplit("/", 1)[1]]
        assert fact.prompt == f"Q: {one['question']} A:"
        assert (fact.subject, fact.old) == (one["metadata"]["subj"], one["metadata"]["obj"])
        rivals = {fact.new, *fact.distractors}
        assert rivals <= objects[one["metadata"]["prop"]] and not rivals & set(one["golden_answers"])
