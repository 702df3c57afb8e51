"""ParaRel's directory: prompts are patterns that end in the object, neighbors other subjects with their own objects."""

from __future__ import annotations

import json
import re
from collections import defaultdict

import pytest

import mechmask as mm
from mechmask.errors import FactError
from mechmask.facts.pararel import with_pararel

PATTERNS = {
    "P36": [
        "The capital of [X] is [Y] .",
        "[Y] is the capital of [X].",
        "[X]'s capital is [Y]",
        "[X], capital [Y] city.",
    ],
    "P30": ["[X] is located in [Y].", "[X] is a part of the continent of [Y]."],
    "P131": ["[X] is located in [Y] ."],
}
PAIRS = {
    "P36": [
        ("France", "Paris"),
        ("Spain", "Madrid"),
        ("Italy", "Rome"),
        ("Gaul", "Paris"),
        ("Italy", "Turin"),
        ("Peru", "Lima"),
    ],
    "P30": [("France", "Europe"), ("Egypt", "Africa"), ("Egypt", "Asia")],
    "P131": [("France", "Europe"), ("Lyon", "France"), ("Nice", "Provence")],
    "P31": [("France", "country")],
}


def _lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def directory(tmp_path):
    patterns, pairs = tmp_path / "data" / "pattern_data" / "graphs_json", tmp_path / "data" / "trex_lms_vocab"
    patterns.mkdir(parents=True)
    pairs.mkdir()
    for name, texts in PATTERNS.items():
        (patterns / f"{name}.jsonl").write_text(_lines({"pattern": text, "lemma": "x"} for text in texts))
    for name, rows in PAIRS.items():
        (pairs / f"{name}.jsonl").write_text(_lines({"sub_label": s, "obj_label": o, "uuid": "u"} for s, o in rows))
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*were left out")
def test_a_pair_is_a_fact_in_every_pattern_that_ends_in_its_object(directory):
    facts = mm.load_facts(directory)
    france = facts["France/P36"]
    assert (france.subject, france.prompt, france.old) == ("France", "The capital of France is", "Paris")
    assert (france.paraphrases, france.relation) == (("France's capital is",), "P36")
    assert {france.new, *france.distractors} == {"Madrid", "Rome", "Lima"}
    assert france.new == "Rome"
    assert [(n.prompt, n.value) for n in france.neighbors] == [
        ("The capital of Gaul is", "Paris"),  # shares the old value
        ("The capital of Spain is", "Madrid"),
        ("The capital of Peru is", "Lima"),
    ]
    (reverse,) = france.implications
    assert (reverse.prompt, reverse.value, reverse.kind) == (f"{france.new} is the capital of", "France", "reverse")
    assert facts["Egypt/P30"].implications == ()
    assert mm.load_facts(directory / "data") == mm.load_facts(str(directory), "pararel") == facts


def test_what_is_left_out_is_counted(directory):
    with pytest.warns(UserWarning) as caught:
        facts = mm.load_facts(directory)
    (warning,) = caught
    said = str(warning.message)
    assert "an earlier pair of the same subject" in said and "no pattern that ends in its object" in said
    assert "2 because the relation has an earlier pair" in said and "1 because the relation has no pattern" in said
    assert "Turin" not in {facts["Italy/P36"].new, *facts["Italy/P36"].distractors}, "Italy's other capital is true"
    # France is located in, of two relations: the second one has no other pattern, and Egypt no wrong continent but one
    assert "France/P131" not in facts.ids or "France/P30" not in facts.ids
    assert facts["Egypt/P30"].new == "Europe"


@pytest.fixture
def alike(directory):
    """Two relations with a pattern in common, which France and Egypt are in both of."""
    data = directory / "data"
    (data / "pattern_data" / "graphs_json" / "P131.jsonl").write_text(
        _lines({"pattern": text} for text in ("[X] is located in [Y] .", "[X] lies in [Y]."))
    )
    pairs = [*PAIRS["P131"], ("Egypt", "Nile valley")]
    (data / "trex_lms_vocab" / "P131.jsonl").write_text(_lines({"sub_label": s, "obj_label": o} for s, o in pairs))
    return directory


@pytest.mark.filterwarnings("ignore:.*were left out")
def test_relations_that_ask_alike_take_another_pattern(alike):
    facts = mm.load_facts(alike)
    assert facts["France/P30"].prompt == "France is located in"
    assert facts["France/P131"].prompt == "France lies in"
    assert facts["France/P131"].paraphrases == (), "the other phrasing asks for the continent"
    assert facts["Lyon/P131"].phrasings == ("Lyon is located in", "Lyon lies in")


def _answers(facts):
    """Every phrasing and every neighbor's prompt with the values that are right there."""
    answers = defaultdict(set)
    for fact in facts:
        for phrasing in fact.phrasings:
            answers[phrasing].add(fact.old)
        for neighbor in fact.neighbors:
            answers[neighbor.prompt].add(neighbor.value)
    return answers


@pytest.mark.filterwarnings("ignore:.*were left out")
def test_no_text_is_asked_of_two_relations(alike):
    facts = mm.load_facts(alike)
    asked = [(n.prompt, n.value) for n in facts["Lyon/P131"].neighbors]
    assert ("Egypt lies in", "Nile valley") in asked
    assert all(len(values) == 1 for values in _answers(facts).values())


@pytest.mark.filterwarnings("ignore:.*were left out")
def test_of_no_neighbor_the_new_value_is_true(directory):
    facts = mm.load_facts(directory)
    others = {
        fact.id: [value for value in ("Paris", "Madrid", "Rome", "Lima") if value not in (fact.old, fact.new)]
        for fact in facts
        if fact.relation == "P36"
    }
    assert others.keys() == {f"{name}/P36" for name in ("France", "Spain", "Italy", "Gaul", "Peru")}
    for label, values in others.items():
        assert {n.value for n in facts[label].neighbors} - {facts[label].old} == set(values)


def test_what_is_wrong_in_the_files_is_said_at_once(directory):
    (directory / "data" / "pattern_data" / "graphs_json" / "P36.jsonl").write_text('{"pattern": 3}\n{nope\n')
    (directory / "data" / "trex_lms_vocab" / "P36.jsonl").write_text('{"sub_label": "France"}\n[]\n')
    with pytest.raises(FactError) as caught:
        mm.load_facts(directory)
    message = str(caught.value)
    assert message.startswith(f"4 problems in {directory.name}:")
    assert "Line 1 of P36.jsonl is not one of ParaRel ('pattern' is not text)" in message
    assert "Line 1 of P36.jsonl is not one of ParaRel ('obj_label' is missing)" in message
    with pytest.raises(FactError, match="4 problems"):
        with_pararel(mm.FactSet([_capital()]), directory)


def test_another_directory_is_refused(tmp_path):
    with pytest.raises(FactError, match="is not a directory of ParaRel: it lacks"):
        mm.load_facts(tmp_path, "pararel")
    with pytest.raises(FactError, match=r"The format of .* is not known: it has no ending\..*directory of ParaRel"):
        mm.load_facts(tmp_path)


def _capital(**changes):
    return mm.Fact(
        **{
            "subject": "France",
            "prompt": "France's capital is",
            "old": "Paris",
            "new": "Bonn",
            "relation": "P36",
            **changes,
        }
    )


def test_facts_of_any_origin_get_paraphrases_and_neighbors(directory):
    own = mm.Neighbor(prompt="The capital of Spain is", value="Madrid")
    other = _capital(subject="Uxmon", prompt="The mass of Uxmon is", relation="mass")
    rome = _capital(subject="Italy", prompt="Italy's capital is", old="Rome")
    facts = mm.FactSet([_capital(paraphrases=("France has its capital in",), neighbors=(own,)), other, rome])
    more = with_pararel(facts, directory, neighbors=2)
    assert more[0].paraphrases == ("France has its capital in", "The capital of France is")
    assert [n.prompt for n in more[0].neighbors] == ["The capital of Spain is", "The capital of Gaul is"]
    assert [i.prompt for i in more[0].implications] == ["Bonn is the capital of"]
    assert with_pararel(more, directory, neighbors=2) == more
    assert more[1] == other
    assert "Italy" not in " ".join(n.prompt for n in with_pararel(facts, directory)[0].neighbors), "it is contested too"
    bare = {"paraphrases": (), "neighbors": (), "implications": ()}
    assert [one.model_copy(update=bare) for one in more] == [one.model_copy(update=bare) for one in facts]
    with pytest.raises(FactError, match=r"No fact is of a relation of ParaRel\..*Known are P30, P36, P131"):
        with_pararel(mm.FactSet([other]), directory)


def test_of_no_neighbor_that_is_added_the_new_value_is_true(directory):
    turin = with_pararel(mm.FactSet([_capital(new="Turin")]), directory)[0]
    assert [n.value for n in turin.neighbors] == ["Paris", "Madrid", "Lima"], "Turin is Italy's other capital"
    rome = with_pararel(mm.FactSet([_capital(new="ROME")]), directory)[0]
    assert "Rome" not in [n.value for n in rome.neighbors]


def test_what_is_true_of_the_subject_stands_against_nothing(directory):
    italy = _capital(subject="Italy", prompt="Italy's capital is", old="Rome", distractors=("turin", "Oslo"))
    never = {"prompt": "Zolm's capital is", "old": "Rome", "new": "Turin", "role": "never"}
    true = [
        italy.model_copy(update={"id": "true", "prompt": "Italy has its capital in", "new": "Turin"}),
        _capital(subject="Zolm", stands_for="true", **never),
    ]
    facts = mm.FactSet([italy, *true])
    with pytest.warns(UserWarning) as caught:
        more = with_pararel(facts, directory)
    (warning,) = caught
    assert str(warning.message) == (
        "1 of 3 facts was left out, and 1 that stands for it: ParaRel has the new value as a true one of the subject "
        "('true')."
    )
    assert warning.filename == __file__
    assert more.ids == (italy.id,) and more[0].distractors == ("Oslo",)
    with pytest.raises(FactError, match="Of every fact the new value is true"):
        with_pararel(mm.FactSet(true), directory)


def test_no_text_is_added_that_another_fact_asks(alike):
    continent = _capital(prompt="In terms of continents France is in", old="Europe", new="Asia", relation="P30")
    region = _capital(prompt="France is located in", old="Europe", new="Provence", relation="P131")
    egypt = _capital(subject="Egypt", prompt="Egypt is located in", old="Nile valley", new="Provence", relation="P131")
    more = with_pararel(mm.FactSet([continent, region, egypt]), alike)
    assert more[0].paraphrases == ("France is a part of the continent of",), "the other one is the prompt of a fact"
    assert more[1].paraphrases == ("France lies in",)
    assert all(neighbor.prompt != "Egypt is located in" for fact in more for neighbor in fact.neighbors)
    unknown = [
        _capital(subject="Zolm", prompt=f"{i}: Zolm is", new="a", relation=r) for i, r in enumerate(("P30", "P131"))
    ]
    first, second = with_pararel(mm.FactSet(unknown), alike)
    assert "Zolm is located in" in first.paraphrases and second.paraphrases == ("Zolm lies in",)


@pytest.fixture(scope="module")
def published(shared_data):
    path = shared_data / "pararel"
    with pytest.warns(UserWarning, match="3608 of 29411 records of pararel were left out"):
        return path / "data", mm.load_facts(path)


def test_the_published_facts(published):
    path, facts = published
    assert len(facts) == 25_803 and len({fact.relation for fact in facts}) == 39
    true = defaultdict(set)
    for file in (path / "trex_lms_vocab").iterdir():
        for one in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            true[file.stem, one["sub_label"]].add(one["obj_label"])
    patterns = {
        file.stem: {json.loads(line)["pattern"] for line in file.read_text(encoding="utf-8").splitlines()}
        for file in (path / "pattern_data" / "graphs_json").iterdir()
    }
    asked: dict[str, tuple[str, str]] = {}
    for relation, subject in sorted(true, key=lambda key: int(key[0][1:])):
        for text in _spelled(patterns.get(relation, ()), subject):
            asked.setdefault(text, (relation, subject))
    assert all(len(values) == 1 for values in _answers(facts).values())
    reverse = {fact.relation: fact.implications[0].prompt for fact in facts if fact.implications}
    assert reverse.keys() == {"P36", "P1376"}, "capitals: of others, such as borders, many answers are right"
    for fact in list(facts)[::50]:
        assert all(i.value == fact.subject and fact.new in i.prompt for i in fact.implications)
        answers = true[fact.relation, fact.subject]
        assert fact.old in answers and not answers & {fact.new, *fact.distractors}
        own = (fact.relation, fact.subject)
        assert set(fact.phrasings) == {one for one in _spelled(patterns[own[0]], own[1]) if asked[one] == own}
        assert len(fact.neighbors) == 10 or fact.relation == "P264"
        for neighbor in fact.neighbors:
            relation, about = asked[neighbor.prompt]
            assert relation == fact.relation and about != fact.subject
            assert neighbor.value in true[relation, about] and fact.new not in true[relation, about]


def _spelled(patterns, subject):
    """What stands before the object in the patterns that end in it."""
    spelled = (re.sub(r"[\s.]+$", "", one.replace("[X]", subject)) for one in patterns)
    return {one.removesuffix(" [Y]") for one in spelled if one.endswith(" [Y]")}


def test_published_facts_of_counterfact_are_enriched(published, shared_data):
    facts = mm.load_facts(shared_data / "counterfact" / "counterfact.json")
    more = with_pararel(facts, published[0], neighbors=12)
    relations = {fact.relation for fact in published[1]}
    known = [fact for fact in more if fact.relation in relations]
    assert len(known) > 600
    assert all(len(fact.neighbors) == 12 for fact in known)
    assert more.ids == facts.ids
    assert not [fact.id for fact in known for added in fact.neighbors[10:] if added.value == fact.new]
    true = {(fact.relation, fact.subject): fact.old for fact in published[1]}
    assert not [fact for fact in known if true.get((fact.relation, fact.subject)) in (fact.new, *fact.distractors)]
    phrasings = [phrasing for fact in more for phrasing in fact.phrasings]
    assert len(phrasings) == len(set(phrasings)), "no text is asked of two facts"


@pytest.mark.filterwarnings("ignore:2 of 1209 records")
def test_published_facts_whose_new_value_is_true_are_left_out(published, shared_data):
    facts = mm.load_facts(shared_data / "known_1000" / "known_1000.json")
    with pytest.warns(UserWarning, match="left out: ParaRel has the new value as a true one of the subject .*Galileo"):
        more = with_pararel(facts, published[0])
    gone = set(facts.ids) - set(more.ids)
    assert {label.split("/")[0] for label in gone} >= {"Galileo Galilei"} and len(gone) < 5
    assert sum(len(fact.paraphrases) for fact in more) > sum(len(fact.paraphrases) for fact in facts) + 1000
