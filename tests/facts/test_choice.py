"""Multiple choice: every option once at every letter, after every other one equally often."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from mechmask import Fact, FactSet
from mechmask.facts.choice import by_letter, by_text, orders, questions

PARIS = Fact(
    subject="France",
    prompt="The capital of France is",
    old="Paris",
    new="Rome",
    distractors=("Berlin", "Madrid", "Oslo"),
)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_orders_are_a_latin_square(n):
    square = orders(n)
    assert all(sorted(line) == list(range(n)) for line in [*square, *map(list, zip(*square, strict=True))])


@pytest.mark.parametrize("n", [2, 4])
def test_of_an_even_number_every_option_follows_every_other_one_once(n):
    followed = Counter(pair for order in orders(n) for pair in pairwise(order))
    assert set(followed.values()) == {1} and len(followed) == n * (n - 1)


def test_a_question_reads_as_a_person_writes_it():
    second = questions(PARIS)[1]
    assert second.prompt == "The capital of France is\nA. Rome\nB. Berlin\nC. Paris\nD. Madrid\nAnswer:"
    assert second.letters == {"new": "A", "distractor_0": "B", "old": "C", "distractor_1": "D"}


def test_old_and_new_have_every_letter_once():
    for route in ("old", "new", "distractor_0", "distractor_1"):
        assert sorted(question.letters[route] for question in questions(PARIS)) == list("ABCD")
    assert all("Oslo" not in question.prompt for question in questions(PARIS))


def test_facts_with_fewer_distractors_have_fewer_options(facts):
    bare = PARIS.model_copy(update={"distractors": ()})
    assert [question.letters for question in questions(bare)] == [{"old": "A", "new": "B"}, {"new": "A", "old": "B"}]


def test_questions_are_facts_whose_values_are_letters_or_texts(facts):
    lettered = FactSet(question for fact in facts for question in by_letter(fact))
    assert len(lettered) == sum(len(questions(fact)) for fact in facts)
    assert by_letter(PARIS)[1].values == {"old": "C", "new": "A", "distractor_0": "B", "distractor_1": "D"}
    worded = by_text(PARIS)
    assert worded.phrasings == tuple(question.prompt for question in questions(PARIS))
    assert list(worded.values.values()) == ["Paris", "Rome", "Berlin", "Madrid"]
    FactSet(map(by_text, facts))
