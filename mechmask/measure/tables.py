"""Tables for a paper or a notebook: a ``summary`` or an ``overview`` as LaTeX or Markdown, rounded, without tokens.

Numbers are rounded for reading, not for computing with; ``name``, ``name_low`` and ``name_high`` become one cell.
Written here because pandas leaves both formats to packages that nothing else needs.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

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
    "–": "--",  # noqa: RUF001
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
    cells, numeric = _cells(table, digits)
    header, *rows = ([_markdown(text) for text in row] for row in cells)
    rule = ["---:" if is_number else ":---" for is_number in numeric]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *rows))


def latex_table(table: pd.DataFrame, digits: int = 2) -> str:
    r"""A LaTeX ``tabular`` with rules of the package ``booktabs``.

    Args:
        table: such as ``summary`` and ``overview`` return; what its index holds becomes the first columns.
        digits: after the decimal point. Columns of whole numbers have none.

    Returns:
        ``\begin{tabular}`` to ``\end{tabular}``, with a line break at the end; all text is escaped. States go by their
        names, columns of tokens are left out.

    Raises:
        ReadingError: if ``table`` is not a ``DataFrame``, or ``digits`` is negative.
    """
    cells, numeric = _cells(table, digits)
    columns = "".join("r" if is_number else "l" for is_number in numeric)
    header, *rows = (" & ".join(_latex(text) for text in row) + r" \\" for row in cells)
    body = "\n".join([r"\toprule", header, r"\midrule", *rows, r"\bottomrule"])
    return f"\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n"


def _cells(table: pd.DataFrame, digits: int) -> tuple[list[tuple[str, ...]], list[bool]]:
    """Header and rows as text, the index as columns; and which columns are numbers, which are set to the right."""
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
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split("\n")))
