"""What a question tells of its answer and of its subject, where a data set names neither relation nor subject.

Answers compete with answers to questions of the same words and of the same shape; the subject is the name that the
question is about. Both are rules of thumb on the surface of English text.
"""

from __future__ import annotations

import re

_ASKED = re.compile(
    r"\b(how many|how much|how long|how old|who|whom|whose|when|where|why|how|(?:which|what)(?: \w+)?)\b", re.IGNORECASE
)
_OPENERS = frozenset(
    "a after an and are as at can could did do does during for from had has have how if in is of on or since the this "
    "to was were what when where which while who whom whose why will with would".split()
)
_LINKS = frozenset("a de der di du la le of the to van von".split())
_WORD = re.compile("[^\\W_][\\w.&/+'\u2019-]*")
_TAIL = re.compile("(?:['\u2019]s?|[-&/+_]|(?<![A-Z])[.])+$")


def answer_groups(question: str, answer: str) -> tuple[str, str]:
    """The groups of answers that an answer competes with, the closer one first: asked alike, and of the same shape.

    Examples:
        >>> answer_groups("In which year was Ada Lovelace born?", "1815")
        ('which year: a year', 'a year')
        >>> answer_groups("Who wrote Emma?", "Jane Austen")
        ('who: a name', 'a name')
    """
    asked = _ASKED.search(question)
    shape = _shape(answer)
    return (f"{asked[0].lower() if asked else ''}: {shape}", shape)


def opposite(answer: str) -> str | None:
    """The other answer to a question that is answered by yes or no; of other answers none."""
    other = {"yes": "no", "no": "yes", "Yes": "No", "No": "Yes"}
    return other.get(answer)


def name_in(text: str) -> str | None:
    """The longest name in a text: words with a capital or a digit, linked by words such as "of"; none if it has none.

    Examples:
        >>> name_in("Who portrayed Corliss Archer in the film Kiss and Tell?")
        'Corliss Archer'
        >>> name_in("who was that?") is None
        True
    """
    return max(names_in(text), key=len, default=None)


def names_in(text: str) -> list[str]:
    """Every name in a text, as it is written there, in order; a genitive's ending is no part of it."""
    names: list[str] = []
    start = end = last = 0  # where the name that is being read begins and ends, and where the last word ended
    for number, word in enumerate(_WORD.finditer(text)):
        bare = _TAIL.sub("", word[0])
        named = (bare[0].isupper() or bare[0].isdigit()) and not (number == 0 and bare.lower() in _OPENERS)
        goes_on = text[last : word.start()].isspace() and (named or bare in _LINKS)
        if start < end and not goes_on:
            names.append(text[start:end])
            start = end = 0
        last = word.start() + len(bare)
        if named:
            start, end = (start if start < end else word.start()), last
    names += [text[start:end]] * (start < end)
    return [name for name in names if any(map(str.isupper, name))]


def _shape(answer: str) -> str:
    if answer.lower() in ("yes", "no"):
        return "yes or no"
    if re.fullmatch(r"\d{4}", answer):
        return "a year"
    if any(character.isdigit() for character in answer):
        return "a number"
    if answer.startswith(('"', "'", "\u2018", "\u201c")):
        return "a title"
    return "a name" if answer[:1].isupper() else "words"
