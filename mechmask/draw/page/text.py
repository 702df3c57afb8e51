"""Text as HTML that gives it back character by character."""

from __future__ import annotations

import html

_NUL = "\N{SYMBOL FOR NULL}"  # HTML has no NUL


def escaped(text: object) -> str:
    """Text for an element or a quoted attribute, given back exactly by whatever reads the page.

    A carriage return, which a parser would turn into a line feed, is written as a reference.
    """
    return html.escape(holdable(text)).replace("\r", "&#13;")


def holdable(text: object) -> str:
    """Text as a file of HTML can hold it: NUL is shown by its symbol, and a lone surrogate by its code."""
    return str(text).replace("\0", _NUL).encode("utf-8", "backslashreplace").decode("utf-8")
