"""Multiple choice: a fact's old and new value among its distractors, each once at every letter.

A model may prefer a letter whatever stands there. The orders form a Latin square, so that over all of them every value
has had every letter once and a preference cancels; with an even number of options every value also follows every other
one equally often (Williams 1949).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mechmask.facts.fact import Fact

LETTERS = "ABCD"


class Question(NamedTuple):
    """A fact as a multiple-choice question in one order.

    Attributes:
        prompt: ends just before the letter, without a trailing space.
        letters: the letter of each route, such as ``{"new": "A", "old": "B"}``, in the order of the options.
    """

    prompt: str
    letters: dict[str, str]


def questions(fact: Fact) -> tuple[Question, ...]:
    r"""The questions of a fact, one for each order of its options.

    Args:
        fact: any fact; the first two distractors are options beside old and new, as far as it has them.

    Returns:
        As many questions as options.

    Examples:
        >>> from mechmask import Fact
        >>> paris = Fact(subject="France", prompt="The capital of France is", old="Paris", new="Rome")
        >>> for question in questions(paris):
        ...     print(question.prompt.replace("\n", " / "))
        The capital of France is / A. Paris / B. Rome / Answer:
        The capital of France is / A. Rome / B. Paris / Answer:
    """
    routes = list(fact.values)[: len(LETTERS)]
    return tuple(_question(fact, [routes[i] for i in order]) for order in orders(len(routes)))


def by_letter(fact: Fact) -> tuple[Fact, ...]:
    """The fact once for each of its questions, with letters as values; ids end in the number of the order."""
    return tuple(_lettered(fact, question, i) for i, question in enumerate(questions(fact)))


def by_text(fact: Fact) -> Fact:
    """The fact with its questions as phrasings, and no value that is no option."""
    prompts = [question.prompt for question in questions(fact)]
    distractors = fact.distractors[: len(LETTERS) - 2]
    return fact.asked(prompts[0], tuple(prompts[1:]), distractors=distractors, joiner=" ")


def orders(n: int) -> list[list[int]]:
    """A Latin square: ``n`` orders of ``n`` options, balanced for what stands before an option where ``n`` is even.

    Args:
        n: how many options.

    Examples:
        >>> orders(4)
        [[0, 1, 3, 2], [1, 2, 0, 3], [2, 3, 1, 0], [3, 0, 2, 1]]
    """
    first = [0, *((i + 1) // 2 if i % 2 else n - i // 2 for i in range(1, n))]
    return [[(place + shift) % n for place in first] for shift in range(n)]


def _question(fact: Fact, order: list[str]) -> Question:
    letters = dict(zip(order, LETTERS, strict=False))
    options = [f"{letter}. {fact.values[route]}" for route, letter in letters.items()]
    return Question("\n".join([fact.prompt, *options, "Answer:"]), letters)


def _lettered(fact: Fact, question: Question, number: int) -> Fact:
    letters = [question.letters[route] for route in list(fact.values)[: len(LETTERS)]]
    values: dict[str, Any] = {"old": letters[0], "new": letters[1], "distractors": tuple(letters[2:])}
    spelled = {"old_aliases": (), "new_aliases": (), "joiner": " "}
    label = {"id": f"{fact.id} [order {number}]", "stands_for": ""}
    return fact.asked(question.prompt).model_copy(update={**values, **spelled, **label})
