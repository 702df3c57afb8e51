"""Rules of thumb on questions: the names in them, and which answers are of a kind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechmask.facts.readers.questions import answer_groups, name_in, names_in, opposite


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Who portrayed Corliss Archer in the film Kiss and Tell?", ["Corliss Archer", "Kiss", "Tell"]),
        ("Were Scott Derrickson and Ed Wood of the same nationality?", ["Scott Derrickson", "Ed Wood"]),
        ("What is P.L. Travers's third book, The Wizard of Oz?", ["P.L. Travers", "The Wizard of Oz"]),
        ('Is "Émile Zola" or Hsiao Yun-Hwa\u2019s father French?', ["Émile Zola", "Hsiao Yun-Hwa", "French"]),
        ("Paris, Texas (the film)", ["Paris", "Texas"]),
        ("500 Years Later was shot in 2005", ["500 Years Later"]),
        ("who was that in 1987?", []),
        ("What?", []),
        ("", []),
        ("日本 ... -- ''", []),
    ],
)
def test_names_as_they_are_written(text, names):
    assert names_in(text) == names
    assert name_in(text) == (max(names, key=len) if names else None)


@given(st.text(st.sampled_from("aB1 ,.'-\"\u2019\u00e9"), max_size=30))
def test_a_name_stands_in_its_text_whatever_that_is(text):
    assert all(name in text and name.strip() == name for name in names_in(text))


def test_answers_of_a_kind():
    assert answer_groups("In which year was she born?", "1815") == ("which year: a year", "a year")
    assert answer_groups("Who wrote it?", "Jane Austen") == ("who: a name", "a name")
    assert answer_groups("How many are there?", "2,591 people") == ("how many: a number", "a number")
    assert answer_groups("It was called?", "'Dune'")[1] == "a title"
    assert answer_groups("Is it so?", "No") == (": yes or no", "yes or no")
    assert answer_groups("What?", "") == ("what: words", "words")
    assert [opposite(answer) for answer in ("yes", "No", "maybe")] == ["no", "Yes", None]
