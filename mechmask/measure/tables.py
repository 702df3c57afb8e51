"""Tables for a paper or a notebook: a ``summary`` or an ``overview`` as LaTeX, Markdown or HTML, rounded.

Numbers are rounded for reading, not for computing with; ``name``, ``name_low`` and ``name_high`` become one cell.
Columns of tokens are left out. Written here because pandas leaves two of the formats to packages that nothing else
needs, and neither joins intervals.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mechmask import notebook
from mechmask.errors import ReadingError
from mechmask.measure.names import state_name

_TOKEN_COLUMNS = ("token", "greedy", "value_token")
_MISSING = "–"  # noqa: RUF001 an en dash

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "–": "--",  # noqa: RUF001
    "—": "---",
    "…": r"\dots{}",
    "\N{MINUS SIGN}": "$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
}
_LIGATURES = re.compile("(?<=-)(?=-)|(?<=,)(?=,)|(?<=')(?=')")  # two that TeX would set as another character
_NUMBERS = re.compile(r"-(?:\d+(?:\.\d+)?|inf)|inf")  # those that are set as mathematics, for their signs
_OF_PDFLATEX = {  # with the font encoding T1, found by trying
    *map(chr, range(0x20, 0x7F)),
    *(set(map(chr, range(0xA1, 0x17F))) - set("ĦħĸĿŀŉŦŧ")),
    *"‘’“”„€",  # noqa: RUF001
    *_LATEX,
}


def markdown_table(table: pd.DataFrame, digits: int = 2) -> str:
    """A table in Markdown with pipes, as GitHub and Jupyter show it.

    Args:
        table: such as ``summary`` and ``overview`` return; what its index holds becomes the first columns.
        digits: after the decimal point. Columns of whole numbers have none.

    Returns:
        The lines of the table, with a line break at the end. States go by their names, columns of tokens are left out.

    Raises:
        ReadingError: if ``table`` is not a ``DataFrame``, or ``digits`` is negative.

    Examples:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"fact": ["mass"], "index": [2.34], "index_low": [1.0], "index_high": [3.5]})
        >>> print(markdown_table(table.set_index("fact"), digits=1), end="")
        | fact | index |
        | :--- | ---: |
        | mass | 2.3 [1.0, 3.5] |
    """
    cells, numeric = printed_cells(table, digits)
    header, *rows = ([_markdown(text) for text in row] for row in cells)
    rule = ["---:" if is_number else ":---" for is_number in numeric]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *rows))


def latex_table(table: pd.DataFrame, digits: int = 2) -> str:
    r"""A LaTeX ``tabular`` with rules of the package ``booktabs``.

    Args:
        table: such as ``summary`` and ``overview`` return; what its index holds becomes the first columns.
        digits: after the decimal point. Columns of whole numbers have none.

    Returns:
        ``\begin{tabular}`` to ``\end{tabular}``, with a line break at the end; all text is escaped, and minus signs and
        infinite bounds of intervals are mathematics. States go by their names, columns of tokens are left out.
        pdfLaTeX sets it, with the font encoding T1 where a text has letters beyond English. Letters that it cannot set
        stay as they are, and a comment above the table names them: it then takes LuaLaTeX or XeLaTeX and a font that
        has them.

    Raises:
        ReadingError: if ``table`` is not a ``DataFrame``, or ``digits`` is negative.
    """
    cells, numeric = printed_cells(table, digits)
    columns = "".join("r" if is_number else "l" for is_number in numeric)
    header, *rows = ([_latex(text) for text in row] for row in cells)
    for row, texts in zip(rows, cells[1:], strict=True):
        row[:] = [_latex_number(text) if n else cell for cell, text, n in zip(row, texts, numeric, strict=True)]
    lines = [" & ".join(row) + r" \\" for row in (header, *rows)]
    body = "\n".join([r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"])
    return f"{_beyond_pdflatex(cells)}\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n"


def html_table(table: pd.DataFrame, digits: int = 2) -> str:
    """A table as a part of a card in a notebook (``mechmask.notebook``), all text escaped.

    Args:
        table: such as ``summary`` and ``overview`` return; what its index holds becomes the first columns.
        digits: after the decimal point. Columns of whole numbers have none.

    Raises:
        ReadingError: if ``table`` is not a ``DataFrame``, or ``digits`` is negative.
    """
    (header, *rows), numeric = printed_cells(table, digits)
    return notebook.table(header, rows, numeric)


def printed_cells(table: pd.DataFrame, digits: int = 2) -> tuple[list[tuple[str, ...]], list[bool]]:
    """A table as it is printed, cell by cell.

    Args:
        table: as for ``markdown_table``.
        digits: after the decimal point. Columns of whole numbers have none.

    Returns:
        Header and rows as text, the index as columns; and which columns are numbers, which are set to the right.

    Raises:
        ReadingError: as ``markdown_table``.
    """
    if not isinstance(table, pd.DataFrame):
        raise ReadingError(f"A printed table is made of a DataFrame, not of a {type(table).__name__}. Give a summary.")
    if digits < 0:
        raise ReadingError(f"digits={digits} rounds to nothing. Give 0 or more.")
    named = any(name is not None for name in table.index.names)
    flat = table.reset_index() if named else table
    if "state" in flat:
        flat = flat.assign(state=[state_name(state) for state in flat["state"]])
    texts, numeric = {}, []
    for name in flat.columns:
        label = str(name)
        bound = re.fullmatch(r"(.+)_(?:low|high)", label)
        if label in _TOKEN_COLUMNS or (bound and _has_interval(flat, bound[1])):
            continue
        columns = [flat[name]]
        if _has_interval(flat, label):
            columns += [flat[f"{label}_low"], flat[f"{label}_high"]]
        texts[label] = _column(columns, digits)
        numeric.append(_is_number(flat[name]))
    return [tuple(texts), *zip(*texts.values(), strict=True)], numeric


def _has_interval(table: pd.DataFrame, name: str) -> bool:
    return {name, f"{name}_low", f"{name}_high"} <= set(table.columns)


def _column(columns: list[pd.Series], digits: int) -> list[str]:
    """Values, or values with their interval in brackets."""
    places = 0 if all(_is_whole(column) for column in columns) else digits
    parts = [[_cell(value, places) for value in column] for column in columns]
    if len(parts) == 1:
        return parts[0]
    return [
        value if low == high == _MISSING else f"{value} [{low}, {high}]"
        for value, low, high in zip(*parts, strict=True)
    ]


def _cell(value: object, places: int) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and np.isnan(value)):
        return _MISSING
    if isinstance(value, int | float | np.number):
        return re.sub(r"^-(0(\.0+)?)$", r"\1", f"{value:.{places}f}")
    return str(value)


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _is_whole(column: pd.Series) -> bool:
    if not _is_number(column):
        return False
    values = column.to_numpy(dtype=float, na_value=np.nan)
    values = values[np.isfinite(values)]
    return bool((values == np.round(values)).all())


def _markdown(text: str) -> str:
    return re.sub(r"([\\|`*_<>]|\[(?=.*\]\())", r"\\\1", " ".join(text.split("\n")))


def _latex(text: str) -> str:
    plain = _LIGATURES.sub("\0", _one_line(text))
    written = "".join("{}" if character == "\0" else _LATEX.get(character, character) for character in plain)
    # after the end of a row TeX looks for a star or a length in brackets, beyond the end of the line too
    return f"{{{written[0]}}}{written[1:]}" if written[:1] in ("[", "*") else written


def _latex_number(text: str) -> str:
    """A number, or one with its interval: a minus sign is one, and so is infinity."""
    return _NUMBERS.sub(lambda number: f"${number[0]}$".replace("inf", r"\infty"), text).replace(_MISSING, "--")


def _beyond_pdflatex(cells: Sequence[Sequence[str]]) -> str:
    """A comment that names the letters that pdfLaTeX cannot set; empty where there is none."""
    letters = {letter for row in cells for text in row for letter in _one_line(text)}
    beyond = sorted(letter for letter in letters - _OF_PDFLATEX if letter.isprintable())
    return f"% needs LuaLaTeX or XeLaTeX, and a font that has {' '.join(beyond)}\n" if beyond else ""


def _one_line(text: str) -> str:
    """Text without breaks, which would end a row or a comment; control characters, which TeX refuses, as numbers."""
    spaced = " ".join(text.split())
    return "".join(c if c.isprintable() else f"<U+{ord(c):04X}>" for c in spaced)
