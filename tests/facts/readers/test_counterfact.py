"""CounterFact's own file: every field where it belongs, distractors by hand, and each bad record by its number."""

from __future__ import annotations

import json
from collections import Counter

import pytest

import mechmask as mm
from mechmask.errors import FactError


def record(case, subject, true, new, relation="P103", prompt="The mother tongue of {} is"):
    return {
        "case_id": case,
        "requested_rewrite": {
            "prompt": prompt,
            "relation_id": relation,
            "target_new": {"str": new, "id": "Q0"},
            "target_true": {"str": true, "id": "Q1"},
            "subject": subject,
        },
        "paraphrase_prompts": [f"It rained. {subject}, a native ", f"{subject} spoke the language"],
        "neighborhood_prompts": ["The mother tongue of Montesquieu is"],
        "attribute_prompts": ["George Orwell spoke the language "],
        "generation_prompts": [f"{subject} was born in", f"{subject} was born in"],
    }


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "counterfact.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


RECORDS = [
    record(0, "Danielle Darrieux", "French", "English"),
    record(1, "Anatole", "French", "Russian"),
    record(2, "Astrid", "Swedish", "Russian"),
    record(3, "Lena", "Rus", "Dutch"),  # begins another target
    record(4, "Ajax", "football", "chess", "P641", "{} plays"),
]


def test_a_record_is_a_fact(file):
    facts = mm.load_facts(file(RECORDS))
    fact = facts[0]
    assert (fact.subject, fact.prompt) == ("Danielle Darrieux", "The mother tongue of Danielle Darrieux is")
    assert (fact.old, fact.new, fact.relation, fact.role) == ("French", "English", "P103", "contradicted")
    assert fact.paraphrases == (
        "It rained. Danielle Darrieux, a native",
        "Danielle Darrieux spoke the language",
    )
    (neighbor,) = fact.neighbors
    assert (neighbor.prompt, neighbor.value) == ("The mother tongue of Montesquieu is", "French")
    assert fact.attribute_prompts == ("George Orwell spoke the language",)
    assert fact.generation_prompts == ("Danielle Darrieux was born in",) * 2  # as often as the data set asks it
    assert facts[4].prompt == "Ajax plays" and facts[4].distractors == ()
    assert mm.load_facts(file(RECORDS), format="counterfact") == facts


def test_distractors_are_the_most_frequent_targets_that_can_be_told_apart(file):
    facts = mm.load_facts(file(RECORDS))
    counts = Counter(value for fact in facts[:4] for value in (fact.old, fact.new))
    assert facts[0].distractors == ("Russian", "Dutch", "Swedish")  # Rus begins Russian, which is more frequent
    assert counts["Russian"] == 2
    assert facts[3].distractors == ("French", "English", "Swedish")  # beside Rus there is no Russian
    many = [record(i, f"S{i}", f"value {chr(97 + i)}", f"other {chr(97 + i)}") for i in range(20)]
    assert {len(fact.distractors) for fact in mm.load_facts(file(many))} == {8}


def test_every_bad_record_is_named(file):
    broken = record(5, "Ewa", "Polish", "Dutch")
    del broken["requested_rewrite"]["target_true"]
    no_text = [record(6, "Eva", true, "Dutch") for true in (None, 3, ["Paris"])]
    with pytest.raises(FactError) as caught:
        mm.load_facts(file([*RECORDS, broken, ["no record"], "text", {"case_id": 1}, *no_text]))
    message = str(caught.value)
    missing = {6: "'target_true' is missing", 9: "'requested_rewrite' is missing"}
    for number in range(6, 13):
        word = missing.get(number, "your own facts")
        assert f"Record {number} of counterfact.json is not one of CounterFact" in message and word in message


def test_what_no_fact_can_be_made_of_is_left_out_and_counted(file):
    odd = [
        record(5, "Lena", "Dutch", "Dutch"),
        record(6, "Anatole", "French", "Finnish"),
        record(7, "Ewa", "Polish", "Dutch", prompt="The mother tongue is"),
        record(8, "Eva", "Polish", " "),
    ]
    with pytest.warns(UserWarning) as caught:
        facts = mm.load_facts(file([*RECORDS, *odd]))
    (warning,) = caught
    assert str(warning.message) == (
        "4 of 9 records of counterfact.json were left out: 1 because the new value is a true one, 1 because an earlier "
        "record has the same prompt, 1 because the prompt does not name the subject, 1 because a value is empty."
    )
    assert warning.filename == __file__
    assert facts.ids == mm.load_facts(file(RECORDS)).ids
    with pytest.raises(FactError, match=r"^The fact set is empty: 1 of 1 records of counterfact.json was left out: 1 "):
        mm.load_facts(file(odd[:1]))


@pytest.mark.parametrize(("content", "word"), [("{", "not JSON"), ('{"a": 1}', "a list of records"), ("[]", "empty")])
def test_what_is_no_counterfact_file_is_refused(file, content, word):
    with pytest.raises(FactError, match=word):
        mm.load_facts(file(content))


def test_the_published_records_are_read_whole(shared_data):
    path = shared_data / "counterfact" / "counterfact.json"
    raw, facts = json.loads(path.read_text(encoding="utf-8")), mm.load_facts(path)
    assert len(facts) == len(raw)
    for one, fact in zip(raw, facts, strict=True):
        rewrite = one["requested_rewrite"]
        assert fact.prompt == rewrite["prompt"].format(rewrite["subject"])
        assert [n.prompt for n in fact.neighbors] == [text.strip() for text in one["neighborhood_prompts"]]
        assert list(fact.generation_prompts) == [text.strip() for text in one["generation_prompts"]]
        assert list(fact.attribute_prompts) == [text.strip() for text in one["attribute_prompts"]]
        assert not {fact.old, fact.new} & set(fact.distractors)
    assert sum(len(fact.distractors) == 8 for fact in facts) > 0.8 * len(facts)


def test_a_small_model_holds_some_of_it_and_a_study_draws_from_those(shared_data, smol, tmp_path):
    from mechmask.study.fact_tables import WorldTable

    table = WorldTable(
        path=shared_data / "counterfact" / "counterfact.json", asked=60, n_contradicted=4, n_control=2, n_never=4
    )
    facts, other = table.facts(smol, 0), table.facts(smol, 1)
    assert (len(facts.contradicted), len(facts.control), len(facts.never)) == (4, 2, 4)
    assert facts.contradicted.ids != other.contradicted.ids and table.facts(smol, 0) == facts
    reading = mm.read_logits(smol, facts.contradicted)
    rivals = reading.logprob.drop_sel(route="old").max("route")
    assert (reading.logprob.sel(route="old") > rivals).all()
    with pytest.raises(FactError, match="has P101, P103"):
        table.model_copy(update={"relations": ("P999",)}).facts(smol, 0)
