"""One fact: its label, its routes, and what pydantic refuses."""

import pytest
from pydantic import ValidationError

import mechmask as mm


def _fact(**changes):
    return mm.Fact(
        **{"subject": "France", "prompt": "The capital of France is", "old": "Paris", "new": "Rome", **changes}
    )


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "France"),
        ({"relation": "capital"}, "France/capital"),
        ({"relation": "capital", "id": "mine"}, "mine"),
        ({"relation": "capital", "id": ""}, "France/capital"),
    ],
)
def test_label_is_subject_and_relation_unless_given(changes, label):
    assert _fact(**changes).id == label


def test_values_are_the_routes_in_order():
    routes = _fact(distractors=("Berlin", "Madrid")).values
    assert list(routes.items()) == [
        ("old", "Paris"),
        ("new", "Rome"),
        ("distractor_0", "Berlin"),
        ("distractor_1", "Madrid"),
    ]


def test_phrasings_begin_with_the_prompt():
    assert _fact(paraphrases=("France's capital is", "In France, the capital is")).phrasings == (
        "The capital of France is",
        "France's capital is",
        "In France, the capital is",
    )


def test_a_sound_fact_has_no_problems():
    assert _fact(distractors=("Berlin",), paraphrases=("France's capital is",)).problems() == []


def test_a_fact_cannot_be_altered():
    with pytest.raises(ValidationError):
        _fact().old = "Lyon"


def test_equal_facts_are_equal_and_hash_alike():
    assert _fact() == _fact()
    assert len({_fact(), _fact(), _fact(old="Lyon")}) == 2
