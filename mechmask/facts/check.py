"""What a set of facts must satisfy: each fact is sound, labels and prompts are unique. Every problem is reported."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from mechmask.errors import FactError, one_message
from mechmask.facts.fact import Fact
from mechmask.facts.readers.text import Entries
from mechmask.facts.record import field_problems


def checked(read: Entries, what: str) -> list[Fact]:
    """The facts that a reader has read, if nothing is wrong with any of them.

    Warns, once, of the records of a published data set that no fact can be made of.

    Args:
        read: facts or mappings with a fact's fields, and what kept others from being read.
        what: names where they were read, such as a file.

    Raises:
        FactError: listing every problem of every fact in one message, or if there is no fact.
    """
    facts, problems = _examined(read)
    if not facts and not problems:
        problems.append(_nothing(read, what))
    if problems:
        raise FactError(one_message(what, problems))
    if read.left_out:
        warnings.warn(f"{_left_out(read, what)}.", stacklevel=3)
    return facts


def _examined(read: Entries) -> tuple[list[Fact], list[str]]:
    """The facts that can be parsed, and every problem of all of them, one sentence each."""
    facts: list[Fact] = []
    problems = list(read.problems)
    for position, entry in enumerate(read.entries, 1):
        try:
            facts.append(entry if isinstance(entry, Fact) else Fact.model_validate(entry))
        except ValidationError as error:
            problems += field_problems(f"Fact {position}", Fact, error)
    problems += [problem for fact in facts for problem in fact.problems()]
    problems += _clashes(facts)
    return facts, problems


def _nothing(read: Entries, what: str) -> str:
    if not read.left_out:
        return "The fact set is empty. Give at least one fact."
    return f"The fact set is empty: {_left_out(read, what)}. Give records of which facts can be made."


def _left_out(read: Entries, what: str) -> str:
    reasons = ", ".join(f"{count} because {reason}" for reason, count in Counter(read.left_out).most_common())
    n = len(read.left_out)
    return f"{n} of {n + len(read.entries)} records of {what} {'were' if n > 1 else 'was'} left out: {reasons}"


def _clashes(facts: Sequence[Fact]) -> Iterator[str]:
    for label, count in Counter(fact.id for fact in facts).items():
        if count > 1:
            yield f"{count} facts are called {label!r}. Give each a different id."
    for prompt, count in Counter(fact.prompt for fact in facts).items():
        if count > 1:
            yield f"{count} facts have the prompt {prompt!r}: training could not teach both. Keep one of them."
