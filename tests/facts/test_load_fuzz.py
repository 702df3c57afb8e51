"""Whatever the bytes of a fact file, ``load_facts`` gives facts or one ``MechmaskError`` that can be printed."""

import json
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import mechmask as mm
from mechmask.errors import MechmaskError

_FUZZ = settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
_FACTS = mm.FactSet(
    [
        mm.Fact(
            subject="Łódź",
            prompt="The mass of Łódź is",
            old='4,17 "grams"',
            new="420",
            distractors=("a\nb", "日本"),
            paraphrases=("Łódź weighs",),
            neighbors=(mm.Neighbor(prompt="The mass of Zolm is", value="9"),),
            relation="mass",
            magnitude="mild",
        ),
        mm.Fact(subject="Zolm", prompt="Zolm is", old="1", new="2", role="never"),
    ]
)


def _load(path, content):
    """The facts, or None where one sentence was raised; anything else is what the fuzzing looks for."""
    path.write_bytes(content)
    try:
        facts = mm.load_facts(path)
    except MechmaskError as error:
        str(error).encode("utf-8")
        assert "pydantic" not in str(error)
        assert "https://" not in str(error)
        return None
    assert len(facts) >= 1
    assert facts == mm.FactSet(list(facts))
    return facts


@pytest.fixture(params=["jsonl", "csv"])
def written(request, tmp_path):
    """A file that is sound, to be mutated, and its bytes."""
    path = tmp_path / f"f.{request.param}"
    getattr(_FACTS, f"to_{request.param}")(path)
    return path, path.read_bytes()


@_FUZZ
@given(content=st.binary(max_size=200))
@example(content=b"\xff\xfe\x00\x00")
@example(content=b"\xef\xbb\xbf")
@example(content=b'"\r"\r\r\n,"\n')
@example(content=b'subject\n"')
def test_any_bytes(written, content):
    _load(written[0], content)


@_FUZZ
@given(edits=st.lists(st.tuples(st.integers(0), st.integers(0, 12), st.binary(max_size=6)), min_size=1, max_size=4))
def test_mutated_files(written, edits):
    path, content = written
    for position, length, replacement in edits:
        position %= len(content) + 1
        content = content[:position] + replacement + content[position + length :]
    _load(path, content)


_TEXT = st.text(st.characters(), max_size=8)  # surrogates and control characters included
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXT, inner, max_size=3)),
    max_leaves=6,
)
_FIELD = st.one_of(st.sampled_from([*mm.Fact.model_fields, "colour", "prompts"]), _TEXT)


@_FUZZ
@given(fields=st.dictionaries(_FIELD, _JSON, max_size=6), asciis=st.booleans())
@example(fields={"\ud800": 1}, asciis=True)
@example(fields={"old": "\ud800", "id": "\udfff\0"}, asciis=True)
@example(fields={"neighbors": [{"prompt": "\ud800", "value": 3, "\udfff": 1}]}, asciis=True)
def test_objects_of_any_fields(tmp_path, fields, asciis):
    entry = {**_FACTS[1].model_dump(), **fields}
    with suppress(UnicodeEncodeError):
        _load(tmp_path / "f.jsonl", json.dumps(entry, ensure_ascii=asciis).encode())


@_FUZZ
@given(fields=st.dictionaries(_FIELD, _JSON, max_size=6))
def test_lists_of_any_mappings(fields):
    for entries in ([fields], [{**_FACTS[1].model_dump(), **fields}], [_FACTS[0], fields], list(fields.values())):
        with suppress(MechmaskError):
            mm.FactSet(entries)
