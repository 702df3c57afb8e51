"""DyKnow: the current holder against the last one before, by the dates; other former holders as distractors."""

from __future__ import annotations

import json

import datasets
import pandas as pd
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


CAPPED_LATER = {
    "questions": {"generic": "The current team of Salah is"},
    "answers": [
        "Liverpool F.C. |S: +2017-00-00T00:00:00Z",
        "Egypt national football team |S: +2019-00-00T00:00:00Z",
        "A.S. Roma |S: +2015-00-00T00:00:00Z |E: +2017-00-00T00:00:00Z",
        "Egypt Olympic football team |S: +2012-00-00T00:00:00Z |E: +2018-00-00T00:00:00Z",
    ],
}
DURANT = {
    "questions": {"generic": "The current team of Durant is"},
    "answers": [
        "Golden State Warriors |S: +2016-00-00T00:00:00Z |E: +2019-00-00T00:00:00Z",
        "Brooklyn Nets |S: +2019-00-00T00:00:00Z |E: +2019-00-00T00:00:00Z",
        "Phoenix Suns |S: +2023-00-00T00:00:00Z",
    ],
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


def test_an_athletes_team_is_the_club_whenever_the_country_called(file):
    salah = mm.load_facts(file({**TREE, "footballers": {"Salah": CAPPED_LATER}}))["Salah/footballers"]
    assert (salah.old, salah.new) == ("A.S. Roma", "Liverpool F.C.")
    assert salah.distractors == ("Egypt Olympic football team",), "he plays for Egypt"


def test_of_two_terms_that_ended_together_the_one_that_began_later_is_the_last(file):
    durant = mm.load_facts(file({**TREE, "athletes": {"Durant": DURANT}}))["Durant/athletes"]
    assert (durant.old, durant.new, durant.distractors[0]) == ("Brooklyn Nets", "Phoenix Suns", "Golden State Warriors")


def test_phrasings_have_one_order_whatever_holds_them(file):
    facts = mm.load_facts(file(TREE))
    for order in (sorted, lambda names: sorted(names, reverse=True)):
        questions = {name: ITALY["questions"][name] for name in order(ITALY["questions"])}
        other = mm.load_facts(
            file({**TREE, "countries": {"Italy": {"President of Italy": {**ITALY, "questions": questions}}}})
        )
        assert other["Italy/President of Italy"].phrasings == tuple(ITALY["questions"].values())
    assert facts["Italy/President of Italy"].phrasings == tuple(ITALY["questions"].values())


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


def _held(answers):
    """The current holder, the outdated one and the other former ones, from the dates as they are written."""
    terms = []
    for answer in answers:
        holder, *dates = answer.split(" |")
        date = {one[0]: one[3:] for one in dates}
        is_club = "national" not in holder and "Olympic" not in holder
        terms.append((is_club, date.get("E"), date.get("S", ""), holder))
    now = [(is_club, start, holder) for is_club, end, start, holder in terms if end is None]
    holders = [holder for _, _, holder in now]
    past = [term for term in terms if term[1] and term[3] not in holders]
    past.sort(key=lambda term: term[:3], reverse=True)
    former = list(dict.fromkeys(holder for *_, holder in past))
    return max(now)[2], former[0], former[1:]


def _apart(values, others):
    """The values, but of those that begin alike the first one."""
    taken = list(others)
    for value in values:
        if not any(value.startswith(one) or one.startswith(value) for one in taken):
            taken.append(value)
    return taken[len(others) :]


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
        assert fact.phrasings == tuple(one["questions"].values()) and element == fact.subject
        new, old, former = _held(one["answers"])
        assert (fact.new, fact.old) == (new, old)
        former = _apart(former, (old, new))[:8]
        assert list(fact.distractors[: len(former)]) == former and len(fact.distractors) == 8


def test_the_published_outdated_answers(shared_data):
    path = shared_data / "dyknow" / "llama2-7b_editing_dataset.json"
    raw, facts = json.loads(path.read_text(encoding="utf-8")), mm.load_facts(path)
    assert len(facts) == len(raw) == 54
    for one, fact in zip(raw, facts, strict=True):
        assert (fact.prompt, fact.subject, fact.new) == (one["prompt"], one["subject"], one["target"])
        assert fact.paraphrases == tuple(text for text in one["questions"].values() if text != one["prompt"])
        new, old, former = _held(one["answers"])
        assert (fact.new, fact.old) == (new, old)
        former = _apart(former, (old, new))[:8]
        assert list(fact.distractors[: len(former)]) == former
    table = datasets.Dataset.from_list(raw)
    assert mm.FactSet(table) == mm.FactSet(pd.DataFrame(raw)) == facts, "a table's columns have an order of their own"
