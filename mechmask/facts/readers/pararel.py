"""ParaRel (Elazar et al. 2021): a directory with patterns of 39 relations and the (subject, object) pairs of T-REx.

Of the patterns those are used that end in the object, but for a full stop: the object follows the prompt. The first one
is the prompt, the others are paraphrases; the object is the old value. New value and distractors are other objects of
the relation, the most frequent first, none of which the relation has for that subject too. Neighbors are other subjects
in their own prompts with their own objects, those that share the old value first; none has the new value among its
objects.

Patterns that end in the subject ask in reverse ("Rome is the capital of"): they are implications of kind ``reverse``,
with the new value in the object's place and the subject as answer. Only relations have them that are nearly one to one
(an object has fewer than two subjects on average, and few subjects have a second object), such as capitals: of others
the answer would be one of many.

A subject with several objects is one fact, about the first of them. Where two relations ask alike ("Paris is located
in"), the text belongs to the earlier one that has the subject: the later fact has the other patterns only.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

from mechmask.errors import FactError
from mechmask.facts.readers.jsonl import json_lines
from mechmask.facts.readers.records import NO_VALUE, SAME_PROMPT, Draft, folded, text
from mechmask.facts.readers.rivals import with_rivals
from mechmask.facts.readers.text import Entries

PATTERNS = ("pattern_data/graphs_json", "graphs_json")
PAIRS = ("trex_lms_vocab",)
N_NEIGHBORS = 10
SAME_SUBJECT = "the relation has an earlier pair of the same subject"
NO_PATTERN = "the relation has no pattern that ends in its object"
_ENDS_IN_OBJECT = re.compile(r"(?P<before>.*\[X\].*\S)\s*\[Y\]\s*\.?\s*")
_ENDS_IN_SUBJECT = re.compile(r"(?P<before>.*\[Y\].*\S)\s*\[X\]\s*\.?\s*")


class Relation:
    """A relation with its prompts and its pairs.

    Args:
        name: such as ``P19``.
        patterns: with ``[X]`` for the subject and ``[Y]`` for the object, the first one first.
        pairs: subjects with their objects, each in the order of the data set.
        owners: to whom a prompt belongs, as relation and subject; what is not in it belongs to all. Takes this
            relation's prompts that are not in it yet.
    """

    def __init__(
        self, name: str, patterns: Sequence[str], pairs: Mapping[str, Sequence[str]], owners: dict[str, tuple[str, str]]
    ) -> None:
        self.name, self.pairs, self._owners = name, pairs, owners
        self.templates = _before_the_end(patterns, _ENDS_IN_OBJECT)
        self._reversed = _before_the_end(patterns, _ENDS_IN_SUBJECT)
        for subject in pairs:
            for template in self.templates:
                owners.setdefault(template.replace("[X]", subject), (name, subject))

    def prompts(self, subject: str) -> list[str]:
        """Every prompt about a subject that belongs to no other fact, the first template's first."""
        prompts = (template.replace("[X]", subject) for template in self.templates)
        own = (self.name, subject)
        return [prompt for prompt in prompts if self._owners.get(prompt, own) == own]

    def neighbors(self, subject: str, old: str, new: str, without: Container[str] = ()) -> Iterator[dict[str, str]]:
        """Prompts about other subjects with their own objects, those with the old value first.

        They are the ones that come after the subject in the data set, so that not all facts have the same.

        Args:
            subject: whom they are not about.
            old: the object that comes first.
            new: a value that is true of none of them.
            without: other subjects that they are not about.
        """
        of_new = self._having.get(folded(new), ())
        alike = self._of_value[old].after(subject) if old in self._of_value else ()
        unlike = (other for other in self._all.after(subject) if self.pairs[other][0] != old)
        for other in chain(alike, unlike):
            if other not in without and other not in of_new:
                yield {"prompt": self._asked[other], "value": self.pairs[other][0]}

    def is_true(self, subject: str, value: str) -> bool:
        """Whether the relation has the value for the subject."""
        return subject in self._having.get(folded(value), ())

    def implications(self, subject: str, new: str) -> list[dict[str, str]]:
        """The first pattern that ends in the subject, asked of a new value; none where the answer is one of many."""
        if not self._reversed or not self._is_one_to_one:
            return []
        return [{"prompt": self._reversed[0].replace("[Y]", new), "value": subject, "kind": "reverse"}]

    @cached_property
    def _is_one_to_one(self) -> bool:
        n_pairs, n_subjects = sum(map(len, self.pairs.values())), len(self.pairs)
        return n_subjects < 2 * len(self._of_value) and n_pairs < 1.25 * n_subjects

    @cached_property
    def _asked(self) -> dict[str, str]:
        """The first prompt about each subject that has one."""
        prompts = ((subject, self.prompts(subject)) for subject in self.pairs)
        return {subject: found[0] for subject, found in prompts if found}

    @cached_property
    def _all(self) -> _Ring:
        return _Ring(self._asked)

    @cached_property
    def _of_value(self) -> dict[str, _Ring]:
        found: dict[str, list[str]] = defaultdict(list)
        for subject in self._asked:
            found[self.pairs[subject][0]].append(subject)
        return {value: _Ring(subjects) for value, subjects in found.items()}

    @cached_property
    def _having(self) -> dict[str, set[str]]:
        """The subjects that have a value among their objects, in whatever case."""
        found: dict[str, set[str]] = defaultdict(set)
        for subject, objects in self.pairs.items():
            for value in objects:
                found[folded(value)].add(subject)
        return dict(found)


class _Ring:
    """Subjects in order, the first one after the last."""

    def __init__(self, subjects: Iterable[str]) -> None:
        self._subjects = list(subjects)
        self._places = {subject: place for place, subject in enumerate(self._subjects)}

    def after(self, subject: str) -> Iterator[str]:
        """The others from a subject on; all from the first one if it is not there."""
        start, size = self._places.get(subject, -1) + 1, len(self._subjects)
        others = (self._subjects[(start + step) % size] for step in range(size))
        return (one for one in others if one != subject)


def is_pararel(path: Path) -> bool:
    """Whether a directory holds ParaRel."""
    return _below(path, PATTERNS) is not None and _below(path, PAIRS) is not None


def read_pararel(path: Path) -> Entries:
    """The facts of all relations that have patterns.

    Raises:
        FactError: if the directory or one of its files cannot be read.
    """
    read = Entries()
    drafts: list[Draft] = []
    known = {relation.name: relation for relation in relations(path, read)}
    for relation in known.values():
        for subject, objects in relation.pairs.items():
            prompts = relation.prompts(subject)
            if prompts:
                drafts.append(_draft(relation.name, subject, objects, prompts))
            else:
                read.left_out.append(SAME_PROMPT if relation.templates else NO_PATTERN)
    with_rivals(drafts, read)
    for entry in read.entries:
        relation, subject, new = known[entry["relation"]], entry["subject"], entry["new"]
        entry["neighbors"] = list(islice(relation.neighbors(subject, entry["old"], new), N_NEIGHBORS))
        entry["implications"] = relation.implications(subject, new)
    return read


def relations(path: Path, read: Entries) -> Iterator[Relation]:
    """Every relation of which there are pairs, by number; some have no templates.

    Args:
        path: the directory, ``data`` of the published repository or the one above it.
        read: takes what is wrong in the files, and pairs that are left out.

    Raises:
        FactError: if the directory or one of its files cannot be read.
    """
    patterns, pairs = _below(path, PATTERNS), _below(path, PAIRS)
    if patterns is None or pairs is None:
        raise FactError(
            f"{path} is not a directory of ParaRel: it lacks {PATTERNS[0]} or {PAIRS[0]}. Give the directory named "
            "data of the published repository."
        )
    owners: dict[str, tuple[str, str]] = {}
    for file in sorted(pairs.glob("*.jsonl"), key=lambda file: (len(file.stem), file.stem)):
        spelled = patterns / file.name
        texts = [pattern for (pattern,) in _rows(spelled, read, "pattern")] if spelled.is_file() else []
        yield Relation(file.stem, texts, _pairs(file, read), owners)


def _below(path: Path, names: Sequence[str]) -> Path | None:
    places = (path / top / name for top in ("", "data") for name in names)
    return next((place for place in places if os.path.isdir(place)), None)  # noqa: PTH112  (never raises)


def _before_the_end(patterns: Iterable[str], ending: re.Pattern[str]) -> tuple[str, ...]:
    """What stands before the last slot of the patterns that end in it, each once."""
    found = (ending.fullmatch(pattern) for pattern in patterns if pattern.count("[X]") == pattern.count("[Y]") == 1)
    return tuple(dict.fromkeys(match["before"] for match in found if match))


def _pairs(file: Path, read: Entries) -> dict[str, list[str]]:
    pairs: dict[str, list[str]] = {}
    for subject, value in _rows(file, read, "sub_label", "obj_label"):
        if not subject or not value:
            read.left_out.append(NO_VALUE)
        elif subject in pairs:
            read.left_out.append(SAME_SUBJECT)
            pairs[subject].append(value)
        else:
            pairs[subject] = [value]
    return pairs


def _rows(file: Path, read: Entries, *keys: str) -> list[tuple[str, ...]]:
    lines = json_lines(file)
    read.problems.extend(lines.problems)
    rows = []
    for record, number in zip(lines.records, lines.numbers, strict=True):
        try:
            rows.append(tuple(text(record, key) for key in keys))
        except (KeyError, TypeError) as error:
            reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            read.problems.append(
                f"Line {number} of {file.name} is not one of ParaRel ({reason}). Give the directory as it is published."
            )
    return rows


def _draft(relation: str, subject: str, objects: Sequence[str], prompts: Sequence[str]) -> Draft:
    return {
        "id": f"{subject}/{relation}",
        "subject": subject,
        "prompt": prompts[0],
        "old": objects[0],
        "also_true": tuple(objects[1:]),
        "paraphrases": list(prompts[1:]),
        "relation": relation,
    }
