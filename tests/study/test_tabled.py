"""Tables of results in a notebook and in LaTeX: whole, escaped, and compiled where there is a TeX."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import matplotlib
import pandas as pd
import pytest

import mechmask as mm
from mechmask.errors import StudyError
from mechmask.measure.tables import latex_table
from mechmask.study.tabled import Results

SPECIAL = r"[10pt] \input{x} % & $x$ #1 _ ^ ~ {} <b> | -- ,, '' `a' <> ?` \\ é ø ß ¿ Ž “ı” – …"  # noqa: RUF001
HOSTILE = pd.DataFrame(
    {
        "fact": [SPECIAL, "*starred", "[", "", "two\nlines\r\n\u2028and a \x07bell"],
        "index %": [-1.5, float("inf"), 0.25, 3.0, -0.0],
        "ei_#": [0.5, -2.0, 1.0, 1.0, 1.0],
        "ei_#_low": [float("-inf"), -3.0, float("nan"), 0.0, 0.0],
        "ei_#_high": [float("inf"), -1.0, float("nan"), 2.0, 2.0],
        "why": ["a sentence that no column holds"] * 5,
    }
).set_index("fact")
FOREIGN = pd.DataFrame({"fact": ["Москва", "Ελλάδα"], "new": ["Łódź ħ", "∞"]}).set_index("fact")


class Made(Results):
    """Results of one table that a test made."""

    def __init__(self, table: pd.DataFrame, said: str = "") -> None:
        self.table, self.said = table, said

    def __repr__(self) -> str:
        return "Made('<i>')"

    def conclusion(self) -> str:
        return self.said

    def tables(self):
        return {"summary": lambda: self.table}


def rows_of(latex: str) -> list[list[str]]:
    """The cells of a table in LaTeX, by its own separators alone."""
    body = latex.split("\\toprule\n")[1].split("\n\\bottomrule")[0].replace("\\midrule\n", "")
    return [re.split(r"(?<!\\)(?:\\\\)*&", line.removesuffix(r" \\")) for line in body.split("\n")]


@pytest.mark.parametrize("table", [HOSTILE.drop(columns="why"), FOREIGN])
def test_every_row_of_latex_has_the_columns_that_its_head_declares(table):
    latex = latex_table(table)
    (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", latex)
    rows = rows_of(latex)
    assert len(rows) == 1 + len(table) and {len(row) for row in rows} == {len(columns)}
    for cell in (cell.strip() for row in rows for cell in row):
        bare = re.sub(r"\\(text\w+\{\}|dots\{\}|[&%$#_{}]|infty)", "", cell)
        assert not re.search(r"[&%#_~^<>|\\`]|---|,,|''", bare)
        assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
        assert not cell.startswith(("[", "*")), "which the row before would take for its own"


def test_signs_and_infinity_are_mathematics_in_numbers_alone():
    rows = rows_of(latex_table(HOSTILE.drop(columns="why")))
    assert [row[1].strip() for row in rows] == [r"index \%", "$-1.50$", r"$\infty$", "0.25", "3.00", "0.00"]
    assert rows[1][2].strip() == r"0.50 [$-\infty$, $\infty$]" and rows[3][2].strip() == "1.00"


def test_letters_that_pdflatex_has_not_stay_and_are_named():
    latex = latex_table(FOREIGN)
    comment, rest = latex.split("\n", 1)
    assert comment.startswith("% needs LuaLaTeX") and rest.startswith(r"\begin{tabular}")
    assert set("МоскваΕλλάδαħ∞") <= set(comment) and "Ł" not in comment
    assert "Москва" in rest and "Łódź ħ" in rest
    assert latex_table(HOSTILE).startswith(r"\begin{tabular}")


def test_a_notebook_shows_text_as_text(done):
    page = Made(HOSTILE, "<u>said</u>")._repr_html_()
    assert not re.search("<(?!/?(div|p|b|table|thead|tbody|tr|th|td)[ >])", page.replace(" <b>", ""))
    assert "&lt;u&gt;said" in page and "a sentence" not in page and "-1.50" in page
    study = done[0]
    assert study.overview()["verdict"].iloc[0] in study._repr_html_()


def test_a_notebook_says_what_is_missing(tmp_path):
    class Unfinished(Made):
        def tables(self):
            return {"summary": lambda: mm.open_draws(tmp_path / "<none>").summary()}

    assert "&lt;none&gt; holds no finished draws" in Unfinished(HOSTILE)._repr_html_()


def test_a_table_goes_by_the_name_of_its_method(done):
    study = done[0]
    assert study.to_latex() == study.to_latex(table="summary") == latex_table(study.summary().drop(columns="remedy"))
    assert study.to_markdown(1, table="overview") == mm.markdown_table(study.overview(), 1)
    with pytest.raises(StudyError, match=r"There is no table 'overveiw'.*overview"):
        study.to_latex(table="overveiw")


def compiled(program: str, preamble: str, tables: list[str], directory: Path) -> str:
    body = "\n\n".join(rf"\noindent {table}" for table in tables)
    document = rf"\documentclass{{article}}{preamble}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}"
    (directory / "tables.tex").write_text(document, encoding="utf-8")
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (directory / "tables.log").read_text(encoding="utf-8", errors="replace")
    assert "Missing character" not in log
    return log


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="there is no pdflatex")
def test_all_tables_compile(done, tmp_path):
    study = done[0]
    tables = [study.to_latex(), study.to_latex(table="overview"), Made(HOSTILE).to_latex()]
    tables.append(latex_table(study.facts.to_dataframe()[["prompt", "old", "new"]]))
    compiled("pdflatex", r"\usepackage[T1]{fontenc}", tables, tmp_path)


@pytest.mark.skipif(not shutil.which("lualatex"), reason="there is no lualatex")
def test_letters_beyond_pdflatex_compile_with_a_font_that_has_them(tmp_path):
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    preamble = rf"\usepackage{{fontspec}}\setmainfont[Path={fonts}/]{{DejaVuSans.ttf}}"
    compiled("lualatex", preamble, [latex_table(FOREIGN), latex_table(HOSTILE)], tmp_path)
