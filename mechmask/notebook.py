"""How a thing shows itself in a notebook: its name, what is known of it, a table. Text from data comes out as text.

What the classes of all rooms return from ``_repr_html_`` is made here. Whatever comes from data is escaped, and dollars
in it make no formula. Nothing is styled but the alignment: a notebook has a style of its own, light or dark.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

_NO_FORMULAS = "tex2jax_ignore mathjax_ignore"  # the classes that MathJax 2 and 3 leave alone
_LEFT = ' style="text-align: left"'
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def card(title: str, fields: Mapping[str, object] | None = None, *parts: str) -> str:
    """The whole of what a thing shows, as HTML.

    Args:
        title: what it is, as ``repr`` says it.
        fields: what is known of it, by name; one that is ``None`` or empty is left out.
        parts: what ``sentence`` and ``table`` made, below.
    """
    known = {name: value for name, value in (fields or {}).items() if value is not None and value != ""}
    rows = "".join(
        f"<tr><th{_LEFT}>{escaped(name)}</th><td{_LEFT}>{escaped(value)}</td></tr>" for name, value in known.items()
    )
    below = [f"<table><tbody>{rows}</tbody></table>"] if rows else []
    return f'<div class="mechmask {_NO_FORMULAS}"><p><b>{escaped(title)}</b></p>{"".join([*below, *parts])}</div>'


def sentence(text: object) -> str:
    """A paragraph of a card."""
    return f"<p>{escaped(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], n_shown: int = 12) -> str:
    """A table of a card; the first column names its rows.

    Args:
        header: the columns' names.
        rows: their cells, as text.
        numeric: which columns are numbers, which are set to the right.
        n_shown: how many rows at most; below them stands how many more there are.
    """
    sides = ["" if number else _LEFT for number in numeric]
    head = "".join(f"<th{side}>{escaped(name)}</th>" for name, side in zip(header, sides, strict=True))
    body = "".join(f"<tr>{_row(row, sides)}</tr>" for row in rows[:n_shown])
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    n_more = len(rows) - n_shown
    return whole if n_more <= 0 else whole + sentence(f"and {n_more} more row{'s' * (n_more > 1)}")


def _row(cells: Sequence[str], sides: Sequence[str]) -> str:
    tags = ["th", *["td"] * (len(cells) - 1)]
    parts = zip(tags, cells, sides, strict=True)
    return "".join(f"<{tag}{side}>{escaped(cell)}</{tag}>" for tag, cell, side in parts)


def escaped(text: object) -> str:
    """Text as HTML shows it unchanged; half of a surrogate pair, which no page can carry, as its number."""
    return html.escape(str(text).encode("utf-8", "backslashreplace").decode("utf-8"))


def cut(text: str, n_characters: int = 120) -> str:
    """Text for one cell of a table, cut where it is longer."""
    return text if len(text) <= n_characters else text[: n_characters - 1] + "\N{HORIZONTAL ELLIPSIS}"


def quoted(texts: Sequence[str]) -> str:
    """Texts side by side, each in quotation marks: a comma may be part of one."""
    return ", ".join(f"\N{LEFT DOUBLE QUOTATION MARK}{text}\N{RIGHT DOUBLE QUOTATION MARK}" for text in texts)


def memory(n_bytes: float) -> str:
    """A number of bytes in the unit in which it is read best, such as ``1.5 MiB``."""
    for unit in _UNITS[:-1]:
        if n_bytes < 1024:
            return f"{n_bytes:.1f} {unit}" if unit != "bytes" else f"{n_bytes:.0f} bytes"
        n_bytes /= 1024
    return f"{n_bytes:.1f} {_UNITS[-1]}"


def ranges(numbers: Sequence[int]) -> str:
    """Whole numbers in order, runs joined: ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
