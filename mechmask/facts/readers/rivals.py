"""What could stand in a value's place: other values of the same relation in the data set, those of most records first.

CounterFact brings a new value and no distractors; other data sets bring neither. Of two values that begin alike only
one is taken: as tokens they could not be told apart. A value that the prompt names, perhaps within its subject, is no
rival either: "Lower Austria shares border with" is not answered with Austria.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from mechmask.facts.readers.records import Draft, folded, named
from mechmask.facts.readers.text import Entries

_DISTRACTORS = 8
NO_RIVAL = "no other value of its kind is there to contradict it with"

Groups = Callable[[Draft], Sequence[str]]


def relation_of(draft: Draft) -> tuple[str, ...]:
    """Values compete with those of their relation."""
    return (draft["relation"],)


def with_rivals(drafts: Sequence[Draft], read: Entries, groups: Groups = relation_of) -> Entries:
    """Complete the drafts, and add them to what was read.

    A draft that has its new value gets distractors. One that has none gets the most frequent values of its group, of
    which one is its new value: which one depends on its id alone, so that a group's facts are not all contradicted with
    one and the same value, and a second reading gives the same facts.

    Args:
        drafts: with ``old``; perhaps with ``new``, which stays as the data set has it, with ``distractors``, which come
            before those of the groups, and with ``also_true``, values that never are rivals.
        read: what was read before; it is added to.
        groups: names the groups whose values a draft competes with, the closest one first.
    """
    grouped = [tuple(groups(draft)) for draft in drafts]
    pools = _pools(drafts, grouped)
    known: dict[tuple[tuple[str, ...], ...], list[str]] = {}  # facts that have all this in common share their rivals
    for draft, names in zip(drafts, grouped, strict=True):
        own = _values(draft)
        preferred, barred = tuple(draft.get("distractors", ())), tuple(draft.get("also_true", ()))
        competing = [preferred, *(pools[name] for name in names)]
        key = (names, own, preferred, barred)
        if key not in known:
            known[key] = _rivals(own, barred, competing)
        rivals = known[key]
        if any(named(value, draft["prompt"]) for value in rivals):
            rivals = _rivals(own, barred, competing, draft["prompt"])
        if "new" not in draft and not rivals:
            read.left_out.append(NO_RIVAL)
            continue
        new = draft["new"] if "new" in draft else rivals[_number(draft["id"]) % len(rivals)]
        entry = {**draft, "new": new, "distractors": [value for value in rivals if value != new]}
        entry.pop("also_true", None)
        read.entries.append(entry)
    return read


def _values(draft: Draft) -> tuple[str, ...]:
    return (draft["old"], draft["new"]) if "new" in draft else (draft["old"],)


def _pools(drafts: Sequence[Draft], grouped: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """The values of each group, the most frequent first."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for draft, names in zip(drafts, grouped, strict=True):
        for name in names:
            counts[name].update(_values(draft))
    return {name: sorted(of, key=lambda value: (-of[value], value)) for name, of in counts.items()}


def _rivals(own: Sequence[str], barred: Iterable[str], pools: Iterable[Iterable[str]], prompt: str = "") -> list[str]:
    """Values of the pools, in order: none begins as another or as an own one, is barred or named in the prompt."""
    never = set(map(folded, barred))
    rivals: list[str] = []
    begun = list(map(folded, own))
    for value in (value for pool in pools for value in pool):
        if len(begun) == _DISTRACTORS + 2:
            break
        bare = folded(value)
        alike = any(bare.startswith(one) or one.startswith(bare) for one in begun)
        if not alike and bare not in never and not named(value, prompt):
            rivals.append(value)
            begun.append(bare)
    return rivals


def _number(label: str) -> int:
    return zlib.crc32(label.encode("utf-8", "replace"))
