"""Records complain in sentences, show no internals, and carry no text that a file or tokenizer cannot."""

import pickle

import pytest
from pydantic import BaseModel

import mechmask as mm
from mechmask.errors import FactError

_FIELDS = {"subject": "Uxmon", "prompt": "The mass of Uxmon is", "old": "417", "new": "420"}
_ASKED = {"prompt": "Zolm, as heavy as Uxmon, weighs", "value": "420"}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: mm.Fact(**_FIELDS, colour="red"), "Fact: the field 'colour' is not known. Known are subject, "),
        (lambda: mm.Fact(**_FIELDS, distractor=("9",)), "not known. Did you mean 'distractors'? Known are subject, "),
        (lambda: mm.Fact(subject="a", prompt="a is", old="b"), "Fact: the field 'new' is missing. Give it as text."),
        (lambda: mm.Fact(**_FIELDS, role="nevr"), "Fact: the field 'role' cannot be 'nevr'. Give one of 'contr"),
        (lambda: mm.Neighbor(prompt="a", value=3), "Neighbor: the field 'value' is of type int, not text. Give "),
        (lambda: mm.Implication(prompt="a", value="b", kind=""), "Implication: the field 'kind' is blank. Give text"),
        (lambda: mm.Fact(**_FIELDS, implications=[{**_ASKED, "kind": " "}]), "field 'implications.0.kind' is blank. "),
        (lambda: mm.Example(prompt="a"), "Example: the field 'value' is missing. Give it as text."),
        (lambda: mm.Fact(**_FIELDS, relation="x" * 10**6, role="y" * 10**6), "Fact: the field 'role' cannot be 'yyy"),
    ],
)  # fmt: skip
def test_a_constructor_raises_one_sentence(make, sentence):
    with pytest.raises(FactError) as caught:
        make()
    assert sentence in str(caught.value)
    assert "https://" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_all_fields_that_are_wrong_are_named_together():
    with pytest.raises(FactError) as caught:
        mm.Fact(subject=3, prompt="a is", old="b", colour="red")
    assert str(caught.value).splitlines()[0] == "3 problems in this Fact:"


def test_a_record_shows_its_fields_and_methods_and_nothing_of_pydantic():
    fact = mm.Fact(**_FIELDS)
    shown = set(dir(fact))
    assert {*mm.Fact.model_fields, "values", "phrasings", "problems", "model_copy"} <= shown
    assert {name for name in shown & set(dir(BaseModel)) if not name.startswith("model_")} == set()
    assert not [name for name in shown if name.startswith("_")]
    assert all(hasattr(fact, name) for name in shown)


def test_a_record_is_pickled_and_copied():
    fact = mm.Fact(**_FIELDS)
    assert pickle.loads(pickle.dumps(fact)) == fact
    assert fact.model_copy(update={"role": "never"}).role == "never"
    assert mm.Fact.model_validate_json(fact.model_dump_json()) == fact


def _spoiled(character):
    """Every text of a fact with the character in it, by the name that the sentence gives it."""
    bad = f"a{character}b"
    neighbor = {"prompt": "Zolm is", "value": "9"}
    yield "id", {"id": bad}
    yield "subject", {"subject": bad, "prompt": f"{bad} is"}
    yield "relation", {"relation": bad, "id": "x"}
    yield "prompt", {"prompt": f"Uxmon {bad}"}
    yield "old", {"old": bad}
    yield "new", {"new": bad}
    yield "distractor_1", {"distractors": ("9", bad)}
    yield "paraphrase", {"paraphrases": (bad,)}
    yield "neighbor's prompt", {"neighbors": ({**neighbor, "prompt": bad},)}
    yield "neighbor's value", {"neighbors": ({**neighbor, "value": bad},)}
    yield "generation prompt", {"generation_prompts": (bad,)}
    yield "attribute prompt", {"attribute_prompts": (bad,)}
    for part in ("prompt", "value", "kind"):
        yield f"implication's {part}", {"implications": ({**neighbor, part: bad},)}


@pytest.mark.parametrize(
    ("character", "kind"),
    [("\0", "a NUL character"), ("\ud800", r"half of a surrogate pair ('\ud800')"), ("\udfff", "half of a surrogate")],
    ids=["NUL", "high surrogate", "low surrogate"],
)
def test_no_text_of_a_fact_may_hold_what_files_and_tokenizers_cannot_carry(character, kind):
    for name, changes in _spoiled(character):
        with pytest.raises(FactError) as caught:
            mm.FactSet([{**_FIELDS, **changes}])
        message = str(caught.value)
        assert f"The {name} of fact " in message
        assert f" holds {kind}" in message
        assert "which is not text. Remove it." in message
        message.encode("utf-8")


def test_whole_characters_beyond_the_basic_plane_are_text():
    assert mm.FactSet([{**_FIELDS, "old": "🜁 \U0010ffff \ud7ff \ue000"}])[0].old.startswith("🜁")
