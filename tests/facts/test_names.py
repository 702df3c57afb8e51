"""Pseudo-names: from a seed alone, capitalised, none within another."""

import random

import pytest

from mechmask.facts.names import pseudo_names


def test_the_same_state_gives_the_same_names():
    first, second, other = (pseudo_names(50, random.Random(seed)) for seed in (3, 3, 4))
    assert first == second
    assert not set(first) & set(other)


@pytest.mark.parametrize("seed", range(3))
def test_no_name_stands_in_another(seed):
    names = [name.lower() for name in pseudo_names(4000, random.Random(seed))]
    everything = "\n".join(names)
    assert all(everything.count(name) == 1 for name in names)


def test_names_are_capitalised_words_of_six_letters_or_more():
    names = pseudo_names(500, random.Random(0))
    assert all(name.isalpha() and name.isascii() and len(name) >= 6 for name in names)
    assert all(name[0].isupper() and name[1:].islower() for name in names)


def test_names_in_use_are_not_given_again():
    wanted = pseudo_names(20, random.Random(5))
    taken = [*(name.upper() for name in wanted[:7]), f"New {wanted[7]} City"]
    names = pseudo_names(200, random.Random(5), taken=taken)
    assert not {name.lower() for name in names} & {name.lower() for name in wanted[:8]}
    assert not any(name.lower() in text.lower() for name in names for text in taken)
    assert set(wanted[8:]) <= set(names), "the others come in their turn"


def test_no_names_are_no_names():
    assert pseudo_names(0, random.Random(0)) == []
