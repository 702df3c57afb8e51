"""Printed tables, read back by pandas and by eye; escaping against every special character of both formats."""

import numpy as np
import pandas as pd
import pytest

from mechmask.errors import ReadingError
from mechmask.measure.tables import latex_table, markdown_table

_TABLE = pd.DataFrame(
    {
        "index": [1.005, -0.001],
        "index_low": [0.5, np.nan],
        "index_high": [1.5, np.nan],
        "never_low": [-2.0, 0.25],
        "took": [True, False],
        "verdict": ["masked", "un|de_cided"],
        "commit_layer": [4.0, np.nan],
        "n": [12, 3],
        "token": [17, 18],
        "greedy": [1, 2],
        "value_token": [0, 1],
    },
    index=pd.MultiIndex.from_tuples([("ft_l", "Uxmon/mass & 50%"), ("my_edit", "b")], names=["state", "fact"]),
)


def test_markdown():
    assert markdown_table(_TABLE) == (
        "| state | fact | index | never\\_low | took | verdict | commit\\_layer | n |\n"
        "| :--- | :--- | ---: | ---: | :--- | :--- | ---: | ---: |\n"
        "| FT-L | Uxmon/mass & 50% | 1.00 [0.50, 1.50] | -2.00 | yes | masked | 4 | 12 |\n"
        "| my\\_edit | b | 0.00 | 0.25 | no | un\\|de\\_cided | – | 3 |\n"  # noqa: RUF001
    )


def test_latex():
    assert latex_table(_TABLE.drop(columns=["took", "n"]), digits=1) == (
        "\\begin{tabular}{llrrlr}\n"
        "\\toprule\n"
        "state & fact & index & never\\_low & verdict & commit\\_layer \\\\\n"
        "\\midrule\n"
        "FT-L & Uxmon/mass \\& 50\\% & 1.0 [0.5, 1.5] & $-2.0$ & masked & 4 \\\\\n"
        "my\\_edit & b & 0.0 & 0.2 & un\\textbar{}de\\_cided & -- \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
    )


def test_every_special_character_of_latex_is_escaped():
    cell = latex_table(pd.DataFrame({"x": ["\\ & % $ # _ { } ~ ^ < >\nné"]})).split("\n")[4]
    assert cell == (
        r"\textbackslash{} \& \% \$ \# \_ \{ \} \textasciitilde{} \textasciicircum{} \textless{} \textgreater{} né \\"
    )


def test_markdown_has_neither_markup_nor_another_row():
    row = markdown_table(pd.DataFrame({"x": ["a\n| b |<b>*x*`y`[link](there)[z]"]})).split("\n")[2]
    assert row == r"| a \| b \|\<b\>\*x\*\`y\`\[link](there)[z] |"


@pytest.mark.parametrize("digits", [0, 1, 3])
def test_numbers_are_rounded_to_digits(digits):
    values = np.random.default_rng(0).normal(0, 10, 20)
    lines = markdown_table(pd.DataFrame({"x": values}), digits).splitlines()[2:]
    read = [line.strip("| ") for line in lines]
    np.testing.assert_allclose([float(x) for x in read], values, atol=0.5 * 10.0**-digits + 1e-9)
    assert all(len(x.partition(".")[2]) == digits for x in read)


def test_an_unbounded_interval_and_none():
    table = pd.DataFrame({"ei": [0.5], "ei_low": [-np.inf], "ei_high": [np.inf], "note": [None]})
    assert markdown_table(table).splitlines()[2] == "| 0.50 [-inf, inf] | – |"  # noqa: RUF001


@pytest.mark.parametrize("table", [latex_table, markdown_table])
def test_what_is_no_table_is_refused(table):
    with pytest.raises(ReadingError, match="DataFrame"):
        table({"x": [1]})
    with pytest.raises(ReadingError, match="digits=-1"):
        table(_TABLE, -1)
