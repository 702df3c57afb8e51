"""Fact files: formats by ending or by name, and every kind of bad file in one sentence; facts in any form."""

import json

import pytest

import mechmask as mm
from mechmask.errors import FactError, MechmaskError
from mechmask.facts.load import as_examples, as_fact_set

_GOOD = {"subject": "Uxmon", "prompt": "The mass of Uxmon is", "old": "417 grams", "new": "420 grams"}
_LINE = json.dumps(_GOOD)
_HEADER = "subject,prompt,old,new,distractors\n"
_FORMATS = (
    "jsonl, csv, pararel, counterfact, zsre_counterfactual, zsre_true, known_1000, popqa, hotpotqa, dyknow, "
    "tofu_entities, knowedit"
)


def _other(subject, **changes):
    return json.dumps({**_GOOD, "subject": subject, "prompt": f"The mass of {subject} is", **changes})


# name of the file, its bytes, and the sentence that must be said
_BAD_FILES = {
    "no JSON": (
        "f.jsonl",
        f"{_LINE}\nhello\n".encode(),
        "Line 2 of f.jsonl is not JSON (Expecting value). Write one JSON object per line.",
    ),
    "half a JSON object": ("f.jsonl", b'{"subject": "Ux', "Line 1 of f.jsonl is not JSON ("),
    "a list": (
        "f.jsonl",
        f'{_LINE}\n\n["a", "b"]\n'.encode(),
        "Line 3 of f.jsonl is not a JSON object. Write one object with a fact's fields per line.",
    ),
    "a number": (
        "f.jsonl",
        b"3\n",
        "Line 1 of f.jsonl is not a JSON object. Write one object with a fact's fields per line.",
    ),
    "an empty JSONL": ("f.jsonl", b"", "The fact set is empty. Give at least one fact."),
    "an empty CSV": ("f.csv", b"", "The fact set is empty. Give at least one fact."),
    "a CSV of a header only": ("f.csv", _HEADER.encode(), "The fact set is empty. Give at least one fact."),
    "CSV with extra cells": (
        "f.csv",
        f"{_HEADER}Uxmon,The mass of Uxmon is,417,420,,a,b\n".encode(),
        "Line 2 of f.csv has more cells than the header. Quote cells that hold a comma.",
    ),
    "CSV with a bare list": (
        "f.csv",
        f'{_HEADER}Uxmon,The mass of Uxmon is,417,420,"one, two"\n'.encode(),
        'Line 2 of f.csv: distractors is not a JSON list. Write ["one", "two"].',
    ),
    "CSV with JSON that is no list": (
        "f.csv",
        f"{_HEADER}Uxmon,The mass of Uxmon is,417,420,7\n".encode(),
        'Line 2 of f.csv: distractors is not a JSON list. Write ["one", "two"].',
    ),
    "CSV with a missing cell": (
        "f.csv",
        f"{_HEADER}Uxmon,The mass of Uxmon is,417\n".encode(),
        "Fact 1: the field 'new' is missing. Give it as text.",
    ),
    "CSV with an unknown column": (
        "f.csv",
        b"subject,prompt,old,new,colour\nUxmon,The mass of Uxmon is,417,420,red\n",
        "Fact 1: the field 'colour' is not known.",
    ),
    "JSONL that is not UTF-8": (
        "f.jsonl",
        b'{"subject": "\xe9"}',
        "f.jsonl is not UTF-8 text (byte 13). Save it as UTF-8.",
    ),
    "CSV that is not UTF-8": ("f.csv", b"subject\n\xff\xfe", "f.csv is not UTF-8 text (byte 8). Save it as UTF-8."),
    "unknown ending": (
        "f.xlsx",
        b"",
        "The format of f.xlsx is not known: it ends in .xlsx. Give a file that ends in .jsonl or .csv or .json, the "
        f"directory of ParaRel, or say which format it has: {_FORMATS}.",
    ),
    "no ending": (
        "facts",
        b"",
        "The format of facts is not known: it has no ending. Give a file that ends in .jsonl or .csv or .json, the "
        f"directory of ParaRel, or say which format it has: {_FORMATS}.",
    ),
}


@pytest.mark.parametrize(("name", "content", "sentence"), _BAD_FILES.values(), ids=_BAD_FILES.keys())
def test_bad_files_are_refused_in_one_sentence(name, content, sentence, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FactError) as caught:
        mm.load_facts(tmp_path / name)
    assert isinstance(caught.value, MechmaskError)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).count(sentence) == 1


@pytest.mark.parametrize("name", ["nowhere.jsonl", "nowhere.csv"])
def test_a_missing_file_is_refused(name, tmp_path):
    with pytest.raises(FactError) as caught:
        mm.load_facts(tmp_path / name)
    assert str(caught.value) == f"Cannot read {tmp_path / name}: No such file or directory. Check the path."


def test_a_directory_is_refused(tmp_path):
    (tmp_path / "d.jsonl").mkdir()
    with pytest.raises(FactError, match=r"Cannot read .*d\.jsonl: Is a directory\. Check the path\."):
        mm.load_facts(tmp_path / "d.jsonl")


def test_an_unknown_format_name_is_refused(tmp_path):
    (tmp_path / "f.jsonl").write_text(_LINE)
    with pytest.raises(FactError) as caught:
        mm.load_facts(tmp_path / "f.jsonl", format="parquet")
    assert str(caught.value) == f"No format of fact files is called 'parquet'. Known are auto, {_FORMATS}."


def test_all_bad_lines_of_a_jsonl_are_named_with_their_numbers(tmp_path):
    (tmp_path / "f.jsonl").write_text(f"nope\n{_LINE}\n[]\n\nnope\n")
    with pytest.raises(FactError) as caught:
        mm.load_facts(tmp_path / "f.jsonl")
    message = str(caught.value)
    assert message.startswith("3 problems in f.jsonl:\n")
    for part in (
        "Line 1 of f.jsonl is not JSON",
        "Line 3 of f.jsonl is not a JSON object",
        "Line 5 of f.jsonl is not JSON",
    ):
        assert message.count(part) == 1


def test_all_bad_lines_of_a_csv_are_named_with_their_numbers(tmp_path):
    (tmp_path / "f.csv").write_text(f"{_HEADER}a,a is,b,c,x\nd,d is,e,f,,,\ng,g is,h,i,y\n")
    with pytest.raises(FactError) as caught:
        mm.load_facts(tmp_path / "f.csv")
    message = str(caught.value)
    assert message.startswith("3 problems in f.csv:\n")
    for part in (
        "Line 2 of f.csv: distractors is not",
        "Line 3 of f.csv has more cells",
        "Line 4 of f.csv: distractors is not",
    ):
        assert message.count(part) == 1


@pytest.mark.parametrize(
    ("name", "content", "sentences"),
    [
        (
            "f.jsonl",
            f"nope\n{_other('Zolm', old='')}\n",
            ["Line 1 of f.jsonl is not JSON", "The value 'old' of fact 'Zolm' is empty."],
        ),
        (
            "f.csv",
            f"{_HEADER}Uxmon,Uxmon is,1,2,x\nZolm,Zolm is,3,3,\n",
            ["Line 2 of f.csv: distractors is not a JSON list.", "Old and new value of fact 'Zolm' are both '3'."],
        ),
    ],
    ids=["jsonl", "csv"],
)
def test_bad_lines_and_bad_facts_are_named_together(name, content, sentences, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(FactError) as caught:
        mm.load_facts(tmp_path / name)
    for sentence in sentences:
        assert str(caught.value).count(sentence) == 1


def test_a_csv_problem_names_its_line_after_a_cell_of_several_lines(tmp_path):
    (tmp_path / "f.csv").write_text(f'{_HEADER}Uxmon,Uxmon is,"1\n2\n3",4,\nZolm,Zolm is,5,6,x\n')
    with pytest.raises(FactError, match=r"Line 5 of f\.csv: distractors"):
        mm.load_facts(tmp_path / "f.csv")


def test_the_ending_is_read_in_any_case_and_the_format_overrules_it(tmp_path):
    (tmp_path / "f.JSONL").write_text(_LINE)
    (tmp_path / "f.txt").write_text(_LINE)
    assert (
        mm.load_facts(tmp_path / "f.JSONL")
        == mm.load_facts(str(tmp_path / "f.txt"), format="jsonl")
        == mm.FactSet([_GOOD])
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_files_of_other_systems_are_read(encoding, newline, tmp_path):
    cells = ",".join(_GOOD)
    rows = {"f.jsonl": f"{_LINE}{newline}", "f.csv": f"{cells}{newline}{','.join(_GOOD.values())}{newline}"}
    for name, text in rows.items():
        (tmp_path / name).write_bytes(text.encode(encoding))
        assert mm.load_facts(tmp_path / name) == mm.FactSet([_GOOD])


def test_csv_fields_may_come_in_any_order_and_be_left_empty(tmp_path):
    (tmp_path / "f.csv").write_text(
        'new,role,old,distractors,subject,prompt,id\n420,,417,"[""9"", ""8""]",Uxmon,Uxmon is,\n'
    )
    (fact,) = mm.load_facts(tmp_path / "f.csv")
    assert (fact.old, fact.new, fact.distractors, fact.role, fact.id) == (
        "417",
        "420",
        ("9", "8"),
        "contradicted",
        "Uxmon",
    )


def test_blank_lines_are_passed_over(tmp_path):
    (tmp_path / "f.jsonl").write_text(f"\n  \n{_LINE}\n\n")
    assert len(mm.load_facts(tmp_path / "f.jsonl")) == 1


# facts and examples in any form


@pytest.fixture
def facts():
    return mm.synthetic_facts(4, n_never=2)


def test_facts_in_any_form_are_the_same_fact_set(facts, tmp_path):
    facts.to_csv(tmp_path / "f.csv")
    assert as_fact_set(facts) is facts
    assert as_fact_set(list(facts)) == facts
    assert as_fact_set(tuple(facts)) == facts
    assert as_fact_set(iter(facts)) == facts
    assert as_fact_set([fact.model_dump() for fact in facts]) == facts
    assert as_fact_set([facts[0].model_dump(), *facts[1:]]) == facts
    assert as_fact_set(facts.to_dataframe()) == facts
    assert as_fact_set(tmp_path / "f.csv") == facts
    assert as_fact_set(str(tmp_path / "f.csv")) == facts
    assert as_fact_set(facts.never) is not facts
    assert as_fact_set(facts[2]) == facts[2:3]


_WRONG_LISTS = {  # how a list is spoiled, and what the sentence says
    "one id": (lambda fact: {"id": "Uxmon", "subject": "Zolm", "prompt": "Zolm is"}, "2 facts are called 'Uxmon'"),
    "one prompt": (lambda fact: {"id": "b"}, "2 facts have the prompt 'Uxmon is'"),
    "an empty value": (lambda fact: {"id": "b", "subject": "b", "prompt": "b is", "old": ""}, "The value 'old' of"),
    "a NUL": (lambda fact: {"id": "b", "subject": "b", "prompt": "b is", "old": "\0"}, "holds a NUL character"),
    "one value": (lambda fact: {"id": "b", "subject": "b", "prompt": "b is", "old": "2"}, "Old and new value of"),
}


@pytest.mark.parametrize(("spoil", "sentence"), _WRONG_LISTS.values(), ids=_WRONG_LISTS.keys())
@pytest.mark.parametrize("form", [list, tuple, lambda facts: [fact.model_dump() for fact in facts]])
def test_a_list_passes_every_check_of_a_fact_set(form, spoil, sentence):
    fact = mm.Fact(subject="Uxmon", prompt="Uxmon is", old="1", new="2")
    facts = form([fact, fact.model_copy(update=spoil(fact))])
    for take in (as_fact_set, as_examples):
        with pytest.raises(FactError, match=sentence):
            take(facts)


@pytest.mark.parametrize("thing", [None, 3, b"f.jsonl", {"subject": "a"}, [3], [None], ["f.jsonl"], [[]]], ids=repr)
def test_what_holds_no_facts_is_refused(thing):
    for take in (as_fact_set, as_examples):
        with pytest.raises(FactError):
            take(thing)


def test_a_reading_of_no_facts_is_refused(facts, tmp_path):
    with pytest.raises(FactError, match="The fact set is empty"):
        as_fact_set([])
    with pytest.raises(FactError, match="no fact has the role or label that was selected"):
        as_fact_set(facts.never.control)
    with pytest.raises(FactError, match=r"Cannot read .*nowhere"):
        as_fact_set(str(tmp_path / "nowhere.jsonl"))


def test_examples_stay_what_they_are(facts):
    examples = facts.install_examples(2)
    assert as_examples(examples) == as_examples(iter(examples)) == examples
    assert as_examples([example.model_dump() for example in examples]) == examples
    assert as_examples([{"prompt": "a", "value": "b"}, examples[0]]) == [mm.Example(prompt="a", value="b"), examples[0]]
    assert as_examples([]) == []


def test_facts_stand_for_what_contradicts_them(facts, tmp_path):
    facts.to_jsonl(tmp_path / "f.jsonl")
    table = facts.to_dataframe()
    entries = [fact.model_dump() for fact in facts]
    for given in (facts, list(facts), entries, table, tmp_path / "f.jsonl", str(tmp_path / "f.jsonl")):
        assert as_examples(given) == facts.contradiction_examples()
    assert as_examples(facts[0]) == facts[:1].contradiction_examples()
    assert as_examples(facts.never) == []


def test_bad_examples_are_named_in_one_message(facts):
    with pytest.raises(FactError) as caught:
        as_examples(
            [
                {"prompt": "a", "value": "b"},
                {"prompt": "a", "value": 3},
                {"prompt": "a", "value": "b", "fact": "x"},
                {"prompt": "a\0", "value": "b"},
                {"prompt": "a"},
            ]
        )
    message = str(caught.value)
    assert message.startswith("4 problems in the training examples:\n")
    for part in (
        "Example 2: the field 'value' is of type int, not text. Give it as text.",
        "Example 3: the field 'fact' is not known. Did you mean 'fact_id'? Known are prompt, value, fact_id, joiner, "
        "messages.",
        "The prompt of example 4 holds a NUL character at position 1",
        "Example 5: the field 'value' is missing",
    ):
        assert part in message
    with pytest.raises(FactError, match=r"^1 of 2 examples are facts\. Give facts or examples, not both;"):
        as_examples([facts[0], mm.Example(prompt="a", value="b")])
