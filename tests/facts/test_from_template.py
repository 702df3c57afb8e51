"""Facts from a template and a table, in every form that a table has."""

from __future__ import annotations

import pandas as pd
import pytest

from mechmask.errors import FactError
from mechmask.facts.fact_set import FactSet
from mechmask.facts.from_template import facts_from_template

ROWS = [("France", "Paris", "Rome"), ("Spain", "Madrid", "Oslo"), ("Italy", "Rome", "Bern")]
TEMPLATE = "The capital of {subject} is"


def mappings():
    return [dict(zip(("subject", "old", "new"), row, strict=True)) for row in ROWS]


def test_every_form_of_a_table_gives_the_same_facts():
    datasets = pytest.importorskip("datasets")
    forms = [ROWS, [list(row) for row in ROWS], mappings(), pd.DataFrame(mappings())]
    forms += [datasets.Dataset.from_list(mappings()), iter(ROWS)]
    made = [facts_from_template(TEMPLATE, form, relation="capital") for form in forms]
    assert all(facts == made[0] for facts in made)
    assert [(f.id, f.prompt, f.old, f.new) for f in made[0]] == [
        (f"{subject}/capital", f"The capital of {subject} is", old, new) for subject, old, new in ROWS
    ]


def test_a_template_may_name_any_column_and_a_column_that_none_names_is_refused():
    rows = [{**row, "where": "Europe"} for row in mappings()]
    facts = facts_from_template("In {where}, {{as we know}}, the capital of {subject} is", rows)
    assert facts[0].prompt == "In Europe, {as we know}, the capital of France is"
    with pytest.raises(FactError, match="the field 'where' is not known"):
        facts_from_template(TEMPLATE, rows)


def test_paraphrases_are_templates_and_a_row_keeps_its_own():
    rows = [{**mappings()[0], "paraphrases": ["France is ruled from"]}]
    (fact,) = facts_from_template(TEMPLATE, rows, paraphrases=["{subject}'s capital is"])
    assert fact.paraphrases == ("France's capital is", "France is ruled from")


def test_distractors_are_other_old_values_and_none_of_the_facts_own():
    rows = [{**row, "old_aliases": ["Madrid"]} if row["subject"] == "France" else row for row in mappings()]
    (france,) = facts_from_template(TEMPLATE, [*rows, ("Peru", "Lima", "Quito")], n_distractors=1)[:1]
    assert france.distractors == ("Lima",)  # Rome is its new value, Madrid called another spelling of its old one
    with pytest.raises(FactError, match="Fact 'France' can be given 1 other values"):
        facts_from_template(TEMPLATE, [*rows, ("Peru", "Lima", "Quito")], n_distractors=2)


def test_a_seed_gives_the_same_distractors_whatever_the_order_of_the_other_facts():
    many = [(f"Land{i}", f"City{i}", f"Town{i}") for i in range(12)]
    first = facts_from_template(TEMPLATE, many, n_distractors=4, seed=1)
    assert first == facts_from_template(TEMPLATE, many, n_distractors=4, seed=1)
    assert first != facts_from_template(TEMPLATE, many, n_distractors=4, seed=2)


@pytest.mark.parametrize(
    ("template", "part"),
    [
        ("The capital is", "has no {subject}"),
        ("{subject.__class__} of {subject} is", "more than a column's name"),
        ("{subject!r} is", "more than a column's name"),
        ("{0} of {subject} is", "more than a column's name"),
        ("{subject is", "cannot be read"),
    ],
)
def test_a_template_that_says_nothing_of_the_subject_or_more_than_columns_is_refused(template, part):
    with pytest.raises(FactError, match=part):
        facts_from_template(template, ROWS)


def test_every_bad_row_is_named_in_one_message():
    rows = [ROWS[0], {"old": "Madrid", "new": "Oslo"}, 5, ("Italy", "Rome"), {"subject": "Peru", "old": "Lima"}]
    with pytest.raises(FactError) as caught:
        facts_from_template(TEMPLATE, rows)
    message = str(caught.value)
    for part in ("Row 2 lacks 'subject'", "Row 3 is of type int", "Row 4 is of type tuple", "'new' is missing"):
        assert part in message


def test_tuples_make_a_fact_set():
    made = FactSet([("France", "The capital of France is", "Paris", "Rome")])
    assert made == FactSet([{"subject": "France", "prompt": "The capital of France is", "old": "Paris", "new": "Rome"}])
    with pytest.raises(FactError, match="type tuple"):
        FactSet([("France", "Paris", "Rome")])
