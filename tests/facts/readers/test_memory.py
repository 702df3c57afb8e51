"""Facts in memory: data sets of Hugging Face's library, tables and lists, with a fact's fields or as published."""

from __future__ import annotations

import json
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pytest

import mechmask as mm
from mechmask.errors import FactError
from mechmask.facts.load import as_examples, as_fact_set


def record(case, subject, true, new):
    return {
        "case_id": case,
        "pararel_idx": 1,
        "requested_rewrite": {
            "prompt": "The mother tongue of {} is",
            "relation_id": "P103",
            "target_new": {"id": "Q0", "str": new},
            "target_true": {"id": "Q1", "str": true},
            "subject": subject,
        },
        "paraphrase_prompts": [f"{subject}, a native"],
        "neighborhood_prompts": ["The mother tongue of Montesquieu is", "Zola, a native"],
        "attribute_prompts": [],
        "generation_prompts": [f"{subject} was born in"],
    }


RECORDS = [record(0, "Danielle", "French", "English"), record(1, "Anatole", "French", "Russian")]
ZSRE = [
    {"subject": "Acme", "src": "What does Acme make?", "alt": "wine", "answers": ["anvils"], "rephrase": "Acme makes?"}
]


@pytest.fixture
def published(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(RECORDS))
    return mm.load_facts(tmp_path / "c.json")


@pytest.mark.parametrize(
    "form",
    [
        list,
        tuple,
        iter,
        pd.DataFrame,
        datasets.Dataset.from_list,
        lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
        lambda rows: datasets.Dataset.from_list(rows).with_format("numpy"),
        lambda rows: datasets.Dataset.from_list(rows).to_pandas(),
    ],
)
def test_records_of_a_data_set_are_its_facts_in_any_form(form, published):
    assert mm.FactSet(form(RECORDS)) == mm.load_facts(form(RECORDS)) == as_fact_set(form(RECORDS)) == published
    assert mm.load_facts(form(RECORDS), "counterfact") == published
    assert as_examples(form(RECORDS)) == published.contradiction_examples()


@pytest.mark.parametrize("form", [list, pd.DataFrame, datasets.Dataset.from_list])
def test_what_can_be_read_in_two_ways_is_said_how(form):
    with pytest.raises(FactError, match=r"can be read as zsre_counterfactual or as zsre_true.*format="):
        mm.FactSet(form(ZSRE))
    assert mm.load_facts(form(ZSRE), "zsre_true")[0].new == mm.load_facts(form(ZSRE), "zsre_counterfactual")[0].old


def test_rows_with_a_facts_fields():
    facts = mm.assign_roles(mm.world_facts(), n_contradicted=3, n_control=2, n_never=2) + mm.synthetic_facts(2)
    rows = [fact.model_dump() for fact in facts]
    data = datasets.Dataset.from_list(rows)
    assert mm.FactSet(data) == as_fact_set(data) == facts
    assert mm.FactSet(datasets.Dataset.from_pandas(facts.to_dataframe())) == facts
    few = [{"subject": "a", "prompt": "a is", "old": "1", "new": "2", "relation": None}, {**rows[0], "id": None}]
    assert mm.FactSet(datasets.Dataset.from_list(few)).ids == ("a", facts[0].id)
    with pytest.raises(FactError, match="Fact 1: the field 'colour' is not known"):
        mm.FactSet(datasets.Dataset.from_list([{**rows[0], "colour": "red"}]))


def test_a_split_has_to_be_chosen():
    data = datasets.Dataset.from_list(RECORDS)
    with pytest.raises(FactError, match=r"^The data set has the splits 'train', 'test'\. Give one.*dataset\['train'\]"):
        mm.FactSet(datasets.DatasetDict(train=data, test=data))


@pytest.mark.parametrize(
    "empty", [[], pd.DataFrame(), datasets.Dataset.from_list([])], ids=["list", "table", "dataset"]
)
def test_what_is_empty_is_said_to_be(empty):
    with pytest.raises(FactError, match=r"^The fact set is empty\. Give at least one fact\.$"):
        mm.load_facts(empty)


def test_records_of_several_data_sets_are_refused():
    with pytest.raises(FactError, match=r"^Record 3 is not one of CounterFact \('requested_rewrite' is missing\)"):
        mm.FactSet([*RECORDS, *ZSRE])
    with pytest.raises(FactError, match="Fact 2: the field 'case_id' is not known"):
        mm.FactSet([mm.world_facts()[0], RECORDS[0]])


def test_records_that_are_left_out_are_said_where_they_are_given():
    for take in (lambda rows: mm.FactSet(rows), lambda rows: mm.load_facts(rows)):
        with pytest.warns(UserWarning, match=r"^1 of 3 records of the fact set was left out: 1 because") as caught:
            take([*RECORDS, record(2, "Danielle", "French", "Dutch")])
        assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("format", ["jsonl", "csv", "pararel"])
def test_formats_of_files_are_none_of_records(format):
    with pytest.raises(FactError, match=r"^Records in memory have no format"):
        mm.load_facts(RECORDS, format)


def test_cells_of_published_tables_may_hold_arrays():
    table = pd.DataFrame(RECORDS)
    table["paraphrase_prompts"] = [np.array(cell, dtype=object) for cell in table.paraphrase_prompts]
    assert mm.FactSet(table) == mm.FactSet(RECORDS)


def test_neither_pandas_nor_datasets_is_imported():
    code = (
        "import sys; from mechmask.facts.load import load_facts; load_facts([dict(subject='a', prompt='a is', old='1', "
        "new='2')]); assert not {'pandas', 'datasets', 'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("content", [{}, {"Dataset": "a path"}, {"Dataset": list, "IterableDataset": SimpleNamespace}])
def test_a_module_of_ones_own_may_be_called_datasets(content, monkeypatch):
    own = ModuleType("datasets")
    vars(own).update(content)
    monkeypatch.setitem(sys.modules, "datasets", own)
    assert [fact.subject for fact in mm.FactSet(RECORDS)] == ["Danielle", "Anatole"]
    assert mm.FactSet(pd.DataFrame(RECORDS)) == mm.FactSet(RECORDS)
    with pytest.raises(FactError, match="cannot be made of an object of type SimpleNamespace"):
        mm.FactSet(SimpleNamespace())  # type: ignore[arg-type]
