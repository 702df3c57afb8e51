"""Synthetic facts against what their docstrings promise; number words are parsed here independently."""

import re
from collections import Counter, defaultdict

import pytest

import mechmask as mm
from mechmask.errors import FactError, MechmaskError

_BELOW_TWENTY = {
    **{"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10},
    **{"eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17},
    **{"eighteen": 18, "nineteen": 19},
}
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}


def _number_of(words: str) -> int:
    """The number that English words such as ``four hundred seventeen`` say; KeyError where they are none."""
    found = re.fullmatch(r"(\w+) hundred(?: (\w+))?(?: (\w+))?", words)
    assert found, words
    hundreds, second, third = found.groups()
    assert _BELOW_TWENTY[hundreds] < 10
    if third:
        assert _BELOW_TWENTY[third] < 10
        return 100 * _BELOW_TWENTY[hundreds] + _TENS[second] + _BELOW_TWENTY[third]
    return 100 * _BELOW_TWENTY[hundreds] + ({**_BELOW_TWENTY, **_TENS}[second] if second else 0)


def _amount(value: str) -> int:
    text, _, _ = value.rpartition(" ")
    return int(text) if text.isdigit() else _number_of(text)


def _by_relation(facts):
    groups = defaultdict(list)
    for fact in facts:
        groups[fact.relation].append(fact)
    return groups


@pytest.fixture(scope="module")
def thousands():
    return mm.synthetic_facts(3000, seed=1)


def test_the_seed_decides():
    assert mm.synthetic_facts(seed=5) == mm.synthetic_facts(seed=5)
    first, other = mm.synthetic_facts(seed=5), mm.synthetic_facts(seed=6)
    assert not {f.subject for f in first} & {f.subject for f in other}
    assert [f.old for f in first] != [f.old for f in other]


def test_drawing_leaves_the_global_generator_alone():
    import random

    random.seed(0)
    state = random.getstate()
    mm.synthetic_facts(12)
    assert random.getstate() == state


@pytest.mark.parametrize(
    ("asked", "counts"),
    [
        ({"n": 24}, (12, 12, 12)),
        ({"n": 7}, (3, 4, 12)),
        ({"n": 1}, (0, 1, 12)),
        ({"n": 100}, (50, 50, 50)),
        ({"n": 24, "n_contradicted": 20}, (20, 4, 12)),
        ({"n": 24, "n_control": 20}, (4, 20, 20)),
        ({"n": 24, "n_contradicted": 24, "n_control": 0}, (24, 0, 12)),
        ({"n": 24, "n_never": 0}, (12, 12, 0)),
        ({"n": 24, "n_never": 31}, (12, 12, 31)),
    ],
)
def test_roles_come_in_their_numbers_and_order(asked, counts):
    roles = [fact.role for fact in mm.synthetic_facts(**asked)]
    contradicted, control, never = counts
    assert roles == ["contradicted"] * contradicted + ["control"] * control + ["never"] * never


_BAD_COUNTS = {
    "none": {"n": 0},
    "fewer than none": {"n": -3},
    "too many": {"n": 24, "n_contradicted": 12, "n_control": 13},
    "too few": {"n": 24, "n_contradicted": 1, "n_control": 1},
    "more contradicted than all": {"n": 24, "n_contradicted": 25},
    "more controls than all": {"n": 24, "n_control": 25},
    "negative never": {"n": 24, "n_never": -1},
    "negative control": {"n": 24, "n_contradicted": 25, "n_control": -1},
}


@pytest.mark.parametrize("asked", _BAD_COUNTS.values(), ids=_BAD_COUNTS.keys())
def test_bad_counts_are_refused(asked):
    with pytest.raises(FactError) as caught:
        mm.synthetic_facts(**asked)
    assert isinstance(caught.value, MechmaskError)
    assert isinstance(caught.value, ValueError)
    assert f"do not make n={asked['n']} taught facts" in str(caught.value)
    assert str(caught.value).endswith("Give counts of zero or more of which the first two add up to n.")


@pytest.mark.parametrize(("magnitudes", "shown"), [(["mild", "huge"], "['mild', 'huge']"), ([], "[]"), ([""], "['']")])
def test_unknown_magnitudes_are_refused(magnitudes, shown):
    with pytest.raises(FactError) as caught:
        mm.synthetic_facts(magnitudes=magnitudes)
    assert str(caught.value) == f"Magnitudes {shown} are not usable. Give one or more of mild, strong, format."


@pytest.mark.parametrize("distractors", [-1, 101])
def test_a_bad_number_of_distractors_is_refused(distractors):
    with pytest.raises(FactError) as caught:
        mm.synthetic_facts(distractors=distractors)
    assert str(caught.value) == f"{distractors} distractors per fact cannot be drawn. Give a number from 0 to 100."


@pytest.mark.parametrize("distractors", [0, 1, 8, 100])
def test_each_fact_gets_the_distractors_that_were_asked(distractors):
    assert {len(f.distractors) for f in mm.synthetic_facts(24, distractors=distractors)} == {distractors}


def test_three_thousand_facts_have_names_of_their_own(thousands):
    assert len(thousands) == 4500
    names = [fact.subject.lower() for fact in thousands]
    everything = "\n".join(names)
    assert all(everything.count(name) == 1 for name in names)


@pytest.mark.parametrize("seed", range(5))
def test_magnitudes_are_as_documented(seed):
    seen = Counter()
    for fact in mm.synthetic_facts(120, seed=seed):
        old, new = _amount(fact.old), _amount(fact.new)
        seen[fact.magnitude] += 1
        if fact.magnitude == "mild":
            assert 0 < abs(new - old) <= old / 10
        elif fact.magnitude == "strong":
            assert new >= 2 * old or new <= old / 2
        else:
            assert fact.magnitude == "format"
            assert new != old
            assert not re.search(r"\d", fact.new)
        assert (fact.magnitude == "format") == (not re.fullmatch(r"\d{3} \w+", fact.new))
    assert max(seen.values()) == min(seen.values())


def test_magnitudes_hold_where_numbers_are_shared(thousands):
    for fact in thousands:
        old, new = _amount(fact.old), _amount(fact.new)
        assert {"mild": 0 < abs(new - old) <= old / 10, "strong": max(new / old, old / new) >= 2, "format": new != old}[
            fact.magnitude
        ]


def test_magnitudes_come_in_turn_and_can_be_chosen():
    assert [f.magnitude for f in mm.synthetic_facts(24)[:6]] == ["mild", "strong", "format"] * 2
    assert {f.magnitude for f in mm.synthetic_facts(24, magnitudes=["strong"])} == {"strong"}


def test_format_reaches_every_kind_of_number_word(thousands):
    """The parser above raises on a word that it does not know, so all of English to 999 is checked on the way."""
    amounts = {_amount(f.new) for f in thousands if f.magnitude == "format"}
    assert len(amounts) > 500
    assert {amount % 100 for amount in amounts} == set(range(100))


def test_all_values_of_a_property_are_three_digits_and_one_unit(thousands):
    for relation, facts in _by_relation(thousands).items():
        digits = [v for f in facts for v in (f.old, *f.distractors)] + [f.new for f in facts if f.magnitude != "format"]
        assert all(re.fullmatch(r"[1-9]\d\d \w+", value) for value in digits), relation
        units = {value.rpartition(" ")[2] for f in facts for value in f.values.values()}
        assert len(units) == 1, relation


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [24, 200])
def test_no_distractor_is_taught_and_no_value_of_a_never_fact_is(n, seed):
    facts = mm.synthetic_facts(n, seed=seed)
    for group in _by_relation(facts).values():
        taught = {_amount(v) for f in group if f.role != "never" for v in (f.old, f.new)}
        never = {_amount(v) for f in group if f.role == "never" for v in (f.old, f.new)}
        distractors = {_amount(v) for f in group for v in f.distractors}
        assert not distractors & taught
        assert not distractors & never
        assert not never & taught


def test_no_value_is_shared_while_enough_numbers_are_left():
    for group in _by_relation(mm.synthetic_facts(200)).values():
        amounts = [_amount(v) for f in group for v in (f.old, f.new)]
        assert len(set(amounts)) == len(amounts)


def test_values_of_a_fact_are_different_amounts(thousands):
    for fact in thousands:
        amounts = [_amount(value) for value in fact.values.values()]
        assert len(set(amounts)) == len(amounts)


def test_properties_are_even_and_phrasings_name_the_subject():
    facts = mm.synthetic_facts(100)
    counts = Counter(f.relation for f in facts)
    assert len(counts) == 10
    assert max(counts.values()) - min(counts.values()) <= 1
    assert all(len(f.phrasings) == 4 and all(p.count(f.subject) == 1 for p in f.phrasings) for f in facts)
    assert all(f.prompt == f"The {f.relation} of {f.subject} is" for f in facts)


def test_draws_stay_what_they_were():
    """Published numbers hang on these draws: SHA-256 of the facts, of the first three as version 0.1.0 drew them."""
    mild = mm.synthetic_facts(40, seed=3, magnitudes=("mild",))
    roles = mm.assign_roles(mm.world_facts(seed=2), n_contradicted=10, n_control=5, seed=4)
    assert [facts.fingerprint()[:16] for facts in (mm.synthetic_facts(24), mild, mm.world_facts(), roles)] == [
        "85404fb3327679d7",
        "20e91509ca4ba907",
        "dbe29dc6bb109d1b",
        "a3e8299d6360a0ef",
    ]
