"""JSON and text that a parser chokes on: refused in a sentence, by file and line, in every format that reads JSON."""

import json
import os

import pytest

import mechmask as mm
from mechmask.errors import FactError

_FIELDS = {"subject": "Uxmon", "prompt": "The mass of Uxmon is", "old": "417 grams", "new": "420 grams"}
_LINE = json.dumps(_FIELDS)

# a JSON value in place of a list of distractors, and the reason that is given
_VALUES = {
    "nested deeply": ("[" * 200_000 + "]" * 200_000, "it is nested too deeply"),
    "5,000 digits": ("[" + "7" * 5000 + "]", "a number has too many digits"),
    "a key twice": ('[{"a": 1, "a": 2}]', "the key 'a' occurs twice"),
    "not closed": ("[1", "Expecting ',' delimiter"),
}


@pytest.mark.parametrize(("value", "reason"), _VALUES.values(), ids=_VALUES.keys())
def test_json_that_python_does_not_parse_is_refused_with_the_reason(value, reason, tmp_path):
    (tmp_path / "f.jsonl").write_text(f'{_LINE}\n{{"distractors": {value}}}\n')
    with pytest.raises(FactError) as caught:
        mm.load_facts(tmp_path / "f.jsonl")
    assert str(caught.value) == f"Line 2 of f.jsonl is not JSON ({reason}). Write one JSON object per line."

    cell = value.replace('"', '""')
    (tmp_path / "f.csv").write_text(f'subject,prompt,old,new,distractors\nUxmon,Uxmon is,1,2,"{cell}"\n')
    with pytest.raises(FactError) as caught:
        mm.load_facts(tmp_path / "f.csv")
    assert str(caught.value).startswith("Line 2 of f.csv: distractors is not a JSON list")


@pytest.mark.parametrize("depth", [100, 900])
def test_json_that_is_nested_below_pythons_limit_is_a_field_of_the_wrong_type(depth, tmp_path):
    (tmp_path / "f.jsonl").write_text(json.dumps(_FIELDS)[:-1] + f', "relation": {"[" * depth}{"]" * depth}}}')
    with pytest.raises(
        FactError, match=r"^Fact 1: the field 'relation' is of type list, not text\. Give it as text\.$"
    ):
        mm.load_facts(tmp_path / "f.jsonl")


def test_a_repeated_key_does_not_win_silently(tmp_path):
    (tmp_path / "f.jsonl").write_text(_LINE[:-1] + ', "old": "500 grams"}')
    with pytest.raises(FactError, match="the key 'old' occurs twice"):
        mm.load_facts(tmp_path / "f.jsonl")


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "\ud800"], ids=["too long", "NUL", "surrogate"])
def test_a_name_that_no_file_can_have_is_refused_printably(ending, name, tmp_path):
    with pytest.raises(FactError, match=r"^Cannot read .*\. Check the path\.$") as caught:
        mm.load_facts(tmp_path / f"{name}.{ending}")
    str(caught.value).encode("utf-8")


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_a_name_of_other_bytes_than_utf8_is_printable(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.jsonl")
    try:
        path.write_text("nope")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    with pytest.raises(FactError, match=r"Line 1 of \\udcff\.jsonl is not JSON") as caught:
        mm.load_facts(path)
    str(caught.value).encode("utf-8")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(tmp_path):
    (tmp_path / "f.jsonl").write_text(_LINE)
    (tmp_path / "f.jsonl").chmod(0)
    with pytest.raises(FactError, match=r"Permission denied\. Check the path\."):
        mm.load_facts(tmp_path / "f.jsonl")
