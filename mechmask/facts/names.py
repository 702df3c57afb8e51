"""Pronounceable names of things that do not exist, drawn from a seed.

About a subject that no text mentions, a model knows what training teaches and nothing else (paper 2F, protocol); in a
real prompt it is a subject that was never known.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

_ONSETS = "b br d dr f fl g gl gr k kl kr l m n p pl pr qu r s sk sl st t tr v vr w x z zh".split()
_VOWELS = "a e i o u ai au ei io ou ua".split()
_MIDDLES = "bd ck dr gn ks lb ld lk lm lv mb mn mp nd nk nt pt rb rd rk rl rm rn rv sk sp st vl xm zd".split()
_ENDS = ["", "k", "l", "lt", "m", "n", "nd", "r", "rn", "s", "th", "v", "x"]

_MIN_LENGTH = 6  # shorter ones meet real words and names too often


def pseudo_names(n: int, rng: random.Random, taken: Iterable[str] = ()) -> list[str]:
    """``n`` capitalised names, none contained in another or in a name of ``taken``, whatever the case.

    Args:
        n: how many names.
        rng: the source of randomness; the same state gives the same names.
        taken: names that are already in use.
    """
    used = {name.lower() for name in taken}
    fragments = {part for name in used for part in _parts(name)}
    names: list[str] = []
    while len(names) < n:
        name = "".join(map(rng.choice, (_ONSETS, _VOWELS, _MIDDLES, _VOWELS, _ENDS)))
        if len(name) < _MIN_LENGTH or name in fragments or not used.isdisjoint(_parts(name)):
            continue
        names.append(name.capitalize())
        used.add(name)
        fragments |= _parts(name)
    return names


def _parts(name: str) -> set[str]:
    size = len(name)
    return {name[i:j] for i in range(size) for j in range(i + _MIN_LENGTH, size + 1)} | {name}
