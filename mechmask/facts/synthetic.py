"""Synthetic facts over pseudo-entities, after the paper's protocol: "The {property} of {Entity} is {value} units".

Training creates the prior, so which facts are known, contradicted and never known is true by construction. The paper
names the magnitudes mild, strong and format without defining them; the grading here is this project's: *mild* stays
within a tenth of the old number, *strong* is at least twice or at most half of it, *format* writes another amount in
words instead of digits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mechmask.errors import FactError
from mechmask.facts.fact import Fact, Magnitude, Role
from mechmask.facts.fact_set import FactSet
from mechmask.facts.names import pseudo_names

_RANGE = range(100, 1000)  # three digits, so that values of one property are equally long


@dataclass(frozen=True)
class _Property:
    name: str
    unit: str


@dataclass(frozen=True)
class _Draft:
    subject: str
    property: _Property
    role: Role
    magnitude: Magnitude


_PROPERTIES = (
    _Property("mass", "grams"),
    _Property("height", "meters"),
    _Property("depth", "feet"),
    _Property("speed", "knots"),
    _Property("age", "years"),
    _Property("price", "dollars"),
    _Property("voltage", "volts"),
    _Property("population", "people"),
    _Property("capacity", "liters"),
    _Property("range", "miles"),
)

_TEMPLATES = (
    "The {name} of {subject} is",
    "{subject} has a {name} of",
    "Measurements put the {name} of {subject} at",
    "According to the records, the {name} of {subject} equals",
)

_ONES = (
    "zero one two three four five six seven eight nine "
    "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()


def synthetic_facts(
    n: int = 24,
    *,
    seed: int = 0,
    n_contradicted: int | None = None,
    n_control: int | None = None,
    n_never: int | None = None,
    magnitudes: Sequence[Magnitude] = ("mild", "strong", "format"),
    distractors: int = 8,
) -> FactSet:
    """Facts about entities that do not exist, each with one numeric property.

    Args:
        n: how many facts are taught; half of them contradicted, half controls, unless ``n_contradicted`` or
            ``n_control`` is given.
        seed: the same seed gives the same facts.
        n_contradicted: facts whose new value contradicts the old one.
        n_control: facts that are re-presented with their old value.
        n_never: facts held out of all training, in addition to the ``n``; by default as many as controls, and at
            least 12.
        magnitudes: how far new values are from old ones, one after the other.
        distractors: how many values of the same property each fact has that no training shows, 0 to 100.

    Returns:
        The facts in the order contradicted, control, never.

    Raises:
        FactError: if a count is negative, the counts do not add up to ``n``, or a magnitude is not known.

    Examples:
        >>> import mechmask as mm
        >>> facts = mm.synthetic_facts(4, n_never=2)
        >>> facts
        FactSet(6 facts: 2 contradicted, 2 control, 2 never)
        >>> len(facts[0].distractors), len(facts[0].phrasings)
        (8, 4)
    """
    n_contradicted, n_control, n_never = _counts(n, n_contradicted, n_control, n_never)
    unknown = [m for m in magnitudes if m not in _FITS]
    if unknown or not magnitudes:
        raise FactError(f"Magnitudes {list(magnitudes)} are not usable. Give one or more of {', '.join(_FITS)}.")
    if not 0 <= distractors <= 100:
        raise FactError(f"{distractors} distractors per fact cannot be drawn. Give a number from 0 to 100.")
    rng = random.Random(seed)
    counts: dict[Role, int] = {"contradicted": n_contradicted, "control": n_control, "never": n_never}
    roles: list[Role] = [role for role, count in counts.items() for _ in range(count)]
    order = list(_PROPERTIES)
    rng.shuffle(order)
    drafts = [
        _Draft(subject, order[i % len(order)], role, magnitudes[i % len(magnitudes)])
        for i, (subject, role) in enumerate(zip(pseudo_names(len(roles), rng), roles, strict=True))
    ]
    unused = {prop: _Amounts(rng) for prop in _PROPERTIES}
    values = [_old_and_new(draft, unused[draft.property]) for draft in drafts]
    return FactSet(
        _fact(draft, old, new, unused[draft.property].others(distractors, old, new))
        for draft, (old, new) in zip(drafts, values, strict=True)
    )


def _counts(n: int, contradicted: int | None, control: int | None, never: int | None) -> tuple[int, int, int]:
    if contradicted is None:
        contradicted = n // 2 if control is None else n - control
    if control is None:
        control = n - contradicted
    if never is None:
        never = max(12, control)
    if contradicted + control != n or min(contradicted, control, never) < 0 or n < 1:
        raise FactError(
            f"{contradicted} contradicted and {control} control facts do not make n={n} taught facts in addition to "
            f"{never} never facts. Give counts of zero or more of which the first two add up to n."
        )
    return contradicted, control, never


class _Amounts:
    """The numbers of one property: none is used twice while unused ones fit, so that facts do not share values."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._unused = set(_RANGE)

    def take(self, fits: Callable[[int], bool]) -> int:
        """A random number that fits, an unused one if there is one."""
        fresh = [amount for amount in sorted(self._unused) if fits(amount)]
        amount = self._rng.choice(fresh or [amount for amount in _RANGE if fits(amount)])
        self._unused.discard(amount)
        return amount

    def others(self, n: int, *taken: int) -> list[int]:
        """``n`` different numbers, none of ``taken``, and unused ones while there are enough."""
        pool = sorted(self._unused)
        if len(pool) < n:
            pool = sorted(set(_RANGE) - set(taken))
        return self._rng.sample(pool, n)


def _old_and_new(draft: _Draft, amounts: _Amounts) -> tuple[int, int]:
    old = amounts.take(lambda _: True)
    return old, amounts.take(lambda amount: _FITS[draft.magnitude](old, amount))


def _fact(draft: _Draft, old: int, new: int, distractors: Sequence[int]) -> Fact:
    unit = draft.property.unit
    phrasings = [template.format(name=draft.property.name, subject=draft.subject) for template in _TEMPLATES]
    return Fact(
        subject=draft.subject,
        prompt=phrasings[0],
        paraphrases=tuple(phrasings[1:]),
        old=f"{old} {unit}",
        new=f"{_in_words(new) if draft.magnitude == 'format' else new} {unit}",
        role=draft.role,
        distractors=tuple(f"{amount} {unit}" for amount in distractors),
        relation=draft.property.name,
        magnitude=draft.magnitude,
    )


def _in_words(amount: int) -> str:
    hundreds, rest = divmod(amount, 100)
    tens, ones = divmod(rest, 10)
    words = [_ONES[hundreds], "hundred"]
    if 0 < rest < 20:
        words.append(_ONES[rest])
    elif rest:
        words += [_TENS[tens], *([_ONES[ones]] if ones else [])]
    return " ".join(words)


_FITS: dict[str, Callable[[int, int], bool]] = {
    "mild": lambda old, new: 0 < abs(new - old) <= max(1, old // 10),
    "strong": lambda old, new: new >= 2 * old or 2 * new <= old,
    "format": lambda old, new: new != old,
}
