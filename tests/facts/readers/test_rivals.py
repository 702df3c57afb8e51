"""Rivals of a value, by hand: of its groups, the most frequent first, none that begins as another or is true too."""

from __future__ import annotations

from mechmask.facts.readers.rivals import NO_RIVAL, with_rivals
from mechmask.facts.readers.text import Entries


def drafts(*values, relation="r"):
    return [
        {"id": f"{relation}/{i}", "relation": relation, "prompt": f"It {relation}", "old": value}
        for i, value in enumerate(values)
    ]


def rivals(entry):
    return {entry["new"], *entry["distractors"]}


def test_of_the_relation_the_most_frequent_first():
    values = ["a", *(letter for letter in "bcdefghijkl" for _ in range(ord("m") - ord(letter)))]
    entries = with_rivals([*drafts(*values), *drafts("z", "y", relation="s")], Entries()).entries
    assert rivals(entries[0]) == set("bcdefghij"), "nine: one is new and eight are distractors"
    assert [v for v in entries[0]["distractors"]] == [v for v in "bcdefghij" if v != entries[0]["new"]]
    assert rivals(entries[-1]) == {"z"}


def test_none_begins_as_another_or_is_true_too():
    made = drafts("Rome", "Romeo", "New York", "New York City", "Oslo", "Bonn")
    made[0]["also_true"] = ["OSLO"]
    (entry, *_) = with_rivals(made, Entries()).entries
    assert rivals(entry) == {"New York", "Bonn"} and "also_true" not in entry


def test_values_that_differ_in_case_alone_are_one():
    (entry, *_) = with_rivals(drafts("rome", "Rome", "ROMEO", "Oslo", "OSLO", "Oslo"), Entries()).entries
    assert rivals(entry) == {"Oslo"}, "of two spellings the more frequent one"


def test_none_stands_in_the_prompt_as_a_word():
    made = drafts("Rome", "Oslo", "Bonn", "oslo fjord", "Roma")
    made[0]["prompt"] = "The sister city of OSLO (see Oslo Fjords, Bonner and Rom) is"
    entries = with_rivals(made, Entries()).entries
    assert rivals(entries[0]) == {"Bonn", "oslo fjord", "Roma"}
    assert rivals(entries[2]) == {"Rome", "Oslo", "Roma"}, "of its own prompt, not of another fact's"
    alone = drafts("Rome", "Oslo")
    alone[0]["prompt"] = alone[1]["prompt"] = "From Rome to Oslo by"
    assert with_rivals(alone, Entries()).left_out == [NO_RIVAL] * 2


def test_the_closer_group_and_own_distractors_come_first():
    made = [{**draft, "groups": (f"near {i % 2}", "far")} for i, draft in enumerate(drafts(*"abcdefghijklmnop"))]
    entries = with_rivals(made, Entries(), lambda draft: draft.pop("groups")).entries
    assert rivals(entries[0]) == {*"cegikmo", "b", "d"}
    given = {**drafts("a")[0], "new": "b", "distractors": ["z", "bb", "y", "z"]}
    (entry, *_) = with_rivals([given, *drafts("c")], Entries()).entries
    assert (entry["new"], entry["distractors"]) == ("b", ["z", "y", "c"])


def test_a_value_without_rival_is_left_out_and_one_with_a_new_value_is_not():
    read = with_rivals([*drafts("a"), {**drafts("a", relation="s")[0], "new": "b"}], Entries())
    assert read.left_out == [NO_RIVAL] and [entry["distractors"] for entry in read.entries] == [[]]


def test_what_was_read_before_stays():
    read = with_rivals(drafts("a", "b"), Entries(problems=["p"], left_out=["q"]))
    assert (read.problems, read.left_out, len(read.entries)) == (["p"], ["q"], 2)
