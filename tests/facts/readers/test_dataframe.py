"""Tables of pandas as facts: there and back, through files that pandas writes, with cells that are missing."""

import numpy as np
import pandas as pd
import pytest

import mechmask as mm
from mechmask.errors import FactError


@pytest.fixture(scope="module")
def facts():
    drawn = mm.assign_roles(mm.world_facts(), n_contradicted=3, n_control=2, n_never=2)
    return drawn + mm.synthetic_facts(2, n_never=1)


def test_a_table_gives_back_its_facts(facts):
    table = facts.to_dataframe()
    assert mm.FactSet(table) == facts
    assert mm.FactSet(table.reset_index()) == facts, "the id as column"
    assert mm.FactSet(table.rename_axis(None)) == facts, "an index of texts without a name"
    assert mm.FactSet(table[["subject", *(c for c in reversed(table.columns) if c != "subject")]]) == facts


def test_rows_are_selected_and_changed_with_pandas(facts):
    table = facts.to_dataframe()
    assert mm.FactSet(table[table.role == "control"]) == facts.control
    assert mm.FactSet(table.assign(role="never")).never.ids == facts.ids
    assert mm.FactSet(pd.concat([table[:2], table[2:]])) == facts


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
def test_missing_cells_are_left_out(missing):
    table = pd.DataFrame(
        {
            "subject": ["Uxmon", "Zolm"],
            "prompt": ["Uxmon is", "Zolm is"],
            "old": ["1", "2"],
            "new": ["3", "4"],
            "relation": pd.Series(["mass", missing], dtype=object),
            "distractors": pd.Series([missing, ["8", "9"]], dtype=object),
            "neighbors": pd.Series([missing, missing], dtype=object),
        }
    )
    uxmon, zolm = mm.FactSet(table)
    assert (uxmon.id, uxmon.relation, uxmon.distractors) == ("Uxmon/mass", "mass", ())
    assert (zolm.id, zolm.relation, zolm.distractors, zolm.neighbors) == ("Zolm", "", ("8", "9"), ())


def test_an_index_of_numbers_is_no_label():
    table = pd.DataFrame({"subject": ["Uxmon"], "prompt": ["Uxmon is"], "old": ["1"], "new": ["3"]}, index=[7])
    assert mm.FactSet(table).ids == ("Uxmon",)
    assert mm.FactSet(table.set_axis(["row 1"])).ids == ("row 1",)
    assert mm.FactSet(table.assign(id="mine").set_axis(["row 1"])).ids == ("mine",), "a column named id is the label"


def test_what_pandas_reads_of_a_written_file(facts, tmp_path):
    facts.to_csv(tmp_path / "f.csv")
    facts.to_jsonl(tmp_path / "f.jsonl")
    assert mm.FactSet(pd.read_csv(tmp_path / "f.csv", dtype=str)) == facts
    assert mm.FactSet(pd.read_csv(tmp_path / "f.csv", dtype=str, index_col="id")) == facts
    assert mm.FactSet(pd.read_json(tmp_path / "f.jsonl", lines=True, dtype=False)) == facts


def test_arrays_in_cells_are_lists(facts):
    table = facts.to_dataframe()
    table["distractors"] = [np.array(cell, dtype=object) for cell in table.distractors]
    assert mm.FactSet(table) == facts


def test_the_tables_problems_are_named(facts):
    table = facts.to_dataframe()
    with pytest.raises(FactError, match=r"^The fact set is empty\. Give at least one fact\.$"):
        mm.FactSet(table[:0])
    with pytest.raises(FactError, match=r"Fact 1: the field 'colour' is not known\. .*Known are subject, prompt"):
        mm.FactSet(table[:1].assign(colour="red"))
    with pytest.raises(FactError, match=r"^Fact 1: the field 'old' is of type int, not text\. Give it as text\.$"):
        mm.FactSet(table[:1].assign(old=417))
    with pytest.raises(FactError, match=r"^The table has 'id' twice\. Keep one of the columns\.$"):
        mm.FactSet(table.assign(id="a"))
    with pytest.raises(FactError, match=r"Fact 1: distractors is not a list"):
        mm.FactSet(table[:1].assign(distractors="one, two"))
    with pytest.raises(FactError, match=f"2 facts are called '{facts[0].id}'"):
        mm.FactSet(pd.concat([table[:1], table[:1]]))
