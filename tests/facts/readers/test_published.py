"""Files of published data sets: recognised by their records, and whatever is in them gives facts or one sentence."""

from __future__ import annotations

import copy
import gc
import json
import re
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mechmask as mm
from mechmask.errors import FactError, MechmaskError
from mechmask.facts.load import FORMATS
from mechmask.facts.readers.published import DATA_SETS, formats_of

_DATED = ["Ada |S: +1999-05-18T00:00:00Z |E: +2006-05-15T00:00:00Z", "Bob |S: +2006-05-15T00:00:00Z"]
_REWRITE = {"prompt": "{} is in", "relation_id": "P17", "subject": "Lyon"}

# two records of each data set
SAMPLES = {
    "counterfact": [
        {
            "case_id": case,
            "requested_rewrite": {
                **_REWRITE,
                "subject": subject,
                "target_true": {"str": "France", "id": "Q1"},
                "target_new": {"str": "Spain", "id": "Q2"},
            },
            "paraphrase_prompts": [f"{subject} lies in"],
            "neighborhood_prompts": ["Nice is in"],
        }
        for case, subject in enumerate(["Lyon", "Paris"])
    ],
    "zsre_true": [
        {"subject": name, "src": f"What is {name}?", "rephrase": f"{name} is?", "alt": "wine", "answers": ["beer"]}
        for name in ("Acme", "Gallus")
    ],
    "known_1000": [
        {"known_id": i, "subject": name, "attribute": value, "prompt": f"{name} is in", "relation_id": "P17"}
        for i, (name, value) in enumerate([("Lyon", "France"), ("Bonn", "Germany")])
    ],
    "popqa": [
        {
            "id": i,
            "question": f"Who wrote {name}?",
            "metadata": {"subj": name, "prop": "author", "obj": value},
            "golden_answers": [value],
        }
        for i, (name, value) in enumerate([("Emma", "Austen"), ("Faust", "Goethe")])
    ],
    "hotpotqa": [
        {"question": f"Who wrote {name}?", "answer": value, "type": "bridge", "supporting_facts": [[name, 0]]}
        for name, value in [("Emma", "Austen"), ("Faust", "Goethe")]
    ],
    "dyknow": [
        {"questions": {"generic": f"The head of {name} is"}, "answers": _DATED, "domain": "d", "element": name}
        for name in ("Italy", "Spain")
    ],
    "tofu_entities": [
        {"idx": i, "question": f"Who is {name}?", "prefix": "A good", "entity": value}
        for i, (name, value) in enumerate([("Ada Bell", "writer"), ("Bo Chan", "singer")])
    ],
    "knowedit": [
        {
            "subject": name,
            "prompt": f"{name} is in",
            "target_new": "Peru",
            "ground_truth": ["France"],
            "locality": {"a": [{"prompt": "x", "ground_truth": [["y"]]}]},
            "portability": {"b": [{"prompt": "x", "ground_truth": "y"}]},
        }
        for name in ("Lyon", "Nice")
    ],
}
SAMPLES["zsre_counterfactual"] = SAMPLES["zsre_true"]

_FUZZ = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def test_every_data_set_has_a_sample():
    assert SAMPLES.keys() == DATA_SETS.keys() and {"jsonl", "csv", "pararel", *DATA_SETS} == set(FORMATS)


@pytest.mark.parametrize("name", SAMPLES)
def test_records_are_known_by_their_keys_in_every_kind_of_file(name, tmp_path):
    records = SAMPLES[name]
    (tmp_path / "f.json").write_text(json.dumps(records, indent=1))
    (tmp_path / "f.jsonl").write_text("\n\n".join(map(json.dumps, records)))
    (tmp_path / "f.txt").write_text(json.dumps(records))
    facts = mm.load_facts(tmp_path / "f.json", name)
    assert len(facts) == 2 and all(fact.old != fact.new for fact in facts)
    assert mm.load_facts(tmp_path / "f.txt", name) == mm.load_facts(tmp_path / "f.jsonl", name) == facts
    assert mm.load_facts(records, name) == facts
    if name.startswith("zsre"):
        assert formats_of(records[0]) == ["zsre_counterfactual", "zsre_true"]
    else:
        assert formats_of(records[0]) == [name]
        assert mm.load_facts(tmp_path / "f.json") == mm.load_facts(tmp_path / "f.jsonl") == mm.FactSet(records) == facts


@pytest.mark.parametrize("name", SAMPLES)
def test_a_fact_has_one_id_in_every_order_of_the_records(name):
    ids = {fact.prompt: fact.id for fact in mm.load_facts(SAMPLES[name], name)}
    assert {fact.prompt: fact.id for fact in mm.load_facts(SAMPLES[name][::-1], name)} == ids


@pytest.mark.parametrize("name", SAMPLES)
def test_records_of_another_data_set_are_all_named(name, tmp_path):
    other = SAMPLES["counterfact" if name != "counterfact" else "popqa"]
    (tmp_path / "f.json").write_text(json.dumps([*SAMPLES[name], *other]))
    with pytest.raises(FactError) as caught:
        mm.load_facts(tmp_path / "f.json", name)
    message = str(caught.value)
    assert message.startswith("2 problems in f.json:")
    assert "Record 3 of f.json is not one of " in message and "Record 4 of f.json is not one of " in message


@pytest.mark.parametrize(
    "own",
    [
        {"question": "Who wrote Emma?", "answer": "Austen", "type": "easy"},
        {"question": "Who wrote Emma?", "answer": "Austen", "type": ["bridge"]},
        {"questions": ["Who wrote Emma?"], "answers": ["Austen"]},
    ],
)
def test_a_table_of_ones_own_with_common_words_as_keys_is_of_no_data_set(own):
    assert formats_of(own) == []
    with pytest.raises(FactError, match=r"Fact 1: the field 'questions?' is not known"):
        mm.FactSet([own])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('[{"subject": "Lyon", "pro', "f.json is not JSON (Unterminated string starting at). Give the file as it is"),
        ("", "f.json is not JSON (Expecting value). Give the file as it is published."),
        ("3", "f.json does not hold a list of records. Give the file as it is published."),
        ("{}", "f.json does not hold a list of records. Give the file as it is published."),
        ('{"a": {"b": {}}}', "f.json does not hold a list of records. Give the file as it is published."),
        ('{"a": {"b": {"c": 3}}}', "f.json does not hold a list of records. Give the file as it is published."),
        ("[]", "The fact set is empty. Give at least one fact."),
        ("[3]", "f.json holds records of no known data set. Say which with format=...: counterfact, zsre"),
        ('[{"colour": 1}]', "f.json holds records of no known data set. Say which with format=...: counterfact, zsre"),
        ('[{"a": 1, "a": 2}]', "f.json is not JSON (the key 'a' occurs twice). Give the file as it is published."),
        ("[" * 200_000, "f.json is not JSON (it is nested too deeply). Give the file as it is published."),
    ],
    ids=["cut", "empty", "number", "object", "tree of nothing", "tree of numbers", "no record", "list of numbers",
         "other keys", "a key twice", "deep"],
)  # fmt: skip
def test_nonsense_is_refused_in_one_sentence(content, sentence, tmp_path):
    (tmp_path / "f.json").write_text(content)
    with pytest.raises(FactError) as caught:
        mm.load_facts(tmp_path / "f.json")
    assert str(caught.value).startswith(sentence) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_file_that_cannot_be_read_is_refused(name, tmp_path):
    with pytest.raises(FactError, match=r"^Cannot read .*nowhere\.json: No such file or directory\. Check the path\.$"):
        mm.load_facts(tmp_path / "nowhere.json", name)
    (tmp_path / "f.json").write_bytes(b"\xff\xfe")
    with pytest.raises(FactError, match="is not UTF-8 text"):
        mm.load_facts(tmp_path / "f.json", name)


def _places(value, path=()):
    """The path of everything in a record, itself included."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from _places(one, (*path, key))


_TEXT = st.text(st.characters(), max_size=6)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXT, inner, max_size=3)),
    max_leaves=4,
)


@pytest.mark.parametrize("name", SAMPLES)
@_FUZZ
@given(data=st.data())
def test_a_record_that_is_altered_anywhere_gives_facts_or_one_sentence(name, tmp_path, data):
    records = copy.deepcopy(SAMPLES[name])
    path = data.draw(st.sampled_from(list(_places(records))))
    if not path:
        records = data.draw(_JSON)
    else:
        holder = records
        for key in path[:-1]:
            holder = holder[key]
        if data.draw(st.booleans()):
            holder[path[-1]] = data.draw(_JSON)
        else:
            del holder[path[-1]]
    for kind, form in (("json", name), ("json", "auto"), ("jsonl", name), ("jsonl", "auto")):
        text = (
            json.dumps(records)
            if kind == "json" or not isinstance(records, list)
            else "\n".join(map(json.dumps, records))
        )
        (tmp_path / f"f.{kind}").write_text(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                facts = mm.load_facts(tmp_path / f"f.{kind}", form)
            except MechmaskError as error:
                assert "pydantic" not in str(error)
                str(error).encode("utf-8")
                continue
        assert len(facts) >= 1 and facts == mm.FactSet(list(facts))


PUBLISHED = {
    "counterfact": "counterfact/counterfact.json",
    "zsre_true": "zsre/zsre_mend.json",
    "zsre_counterfactual": "zsre/zsre_mend.json",
    "known_1000": "known_1000/known_1000.json",
    "popqa": "popqa/popqa.jsonl",
    "hotpotqa": "hotpotqa/hotpotqa_dev_simplified_2000.json",
    "dyknow": "dyknow/grc_generated.json",
    "tofu_entities": "uds_tofu/forget10_filtered.json",
    "pararel": "pararel",
}
_BRING_THEIR_NEW = {"counterfact", "zsre_true", "zsre_counterfactual", "dyknow"}


@pytest.mark.filterwarnings("ignore:.* left out")
@pytest.mark.parametrize("name", PUBLISHED)
def test_no_rival_that_was_drawn_stands_in_the_prompt_or_differs_in_case_alone(name, shared_data):
    for fact in mm.load_facts(shared_data / PUBLISHED[name], name):
        drawn = fact.distractors if name in _BRING_THEIR_NEW else (fact.new, *fact.distractors)
        said = _words(fact.prompt)
        assert not [value for value in drawn if _words(value) in said], fact.id
        assert len({value.lower() for value in fact.values.values()}) == len(fact.values)


def _words(text):
    return " ".join(["", *re.findall(r"[^\W_]+", text.lower()), ""])


@pytest.mark.parametrize("collecting", [True, False])
def test_the_garbage_collector_is_left_as_it_was(collecting, tmp_path):
    (tmp_path / "f.json").write_text(json.dumps(SAMPLES["known_1000"]))
    try:
        (gc.enable if collecting else gc.disable)()
        mm.load_facts(tmp_path / "f.json")
        assert gc.isenabled() == collecting
        with pytest.raises(FactError):
            mm.load_facts(tmp_path / "nowhere.json")
        assert gc.isenabled() == collecting
    finally:
        gc.enable()
