"""A ``Document`` as the text of one HTML file that asks for nothing beyond itself.

The policy in its head lets the page run its own script and no other, and load nothing: should text ever get past the
escaping, it does nothing. A figure or table never stands without its sentence.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from itertools import count

from mechmask.draw.interactive.contest_view import file_text, view_element, view_script
from mechmask.draw.page.content import (
    Block,
    Code,
    Document,
    Explorer,
    FactList,
    FactRow,
    Paragraph,
    Plate,
    Section,
    Sheet,
    Terms,
)
from mechmask.draw.page.svg import figure_html
from mechmask.draw.page.text import escaped
from mechmask.measure.tables import printed_cells
from mechmask.measure.verdict import VERDICTS

_MOST_CHARACTERS = 24  # of a cell that may not be broken into lines


def document_html(document: Document) -> str:
    """The page as text; the same document gives the same text.

    Args:
        document: what it holds.
    """
    style, script = (
        files("mechmask.draw.page").joinpath(name).read_text("utf-8") for name in ("style.css", "facts.js")
    )
    scripts = {"": script}
    if any(isinstance(block, Explorer) for section in document.sections for block in section.blocks):
        style += file_text("contest_view.css")
        scripts[' type="module"'] = view_script()
    sources = " ".join(f"'sha256-{_digest(text)}'" for text in scripts.values())
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {sources}"
    programs = "\n".join(f"<script{kind}>\n{text}</script>" for kind, text in scripts.items())
    names = _Names()
    body = "\n".join(_section(section, names) for section in document.sections)
    notice = f'<p class="notice" role="note">{escaped(document.notice)}</p>\n' if document.notice else ""
    lead = "\n".join(f'<p dir="auto">{escaped(text)}</p>' for text in document.lead)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escaped(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(document.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<header>\n<h1 dir="auto">{escaped(document.title)}</h1>\n{notice}{lead}\n{_contents(document)}\n</header>\n'
        f"<main>\n{body}\n</main>\n{programs}\n</body>\n</html>\n"
    )


def _digest(script: str) -> str:
    """As a policy names the script that it lets run."""
    return base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()


class _Names:
    """Numbers for what needs a name of its own on the page."""

    def __init__(self) -> None:
        self.sections, self.figures, self.tables = count(1), count(1), count(1)


def _contents(document: Document) -> str:
    entries = [
        f'<li><a href="#section-{number}">{escaped(section.heading)}</a></li>'
        for number, section in enumerate(document.sections, 1)
        if section.level == 2
    ]
    return f'<nav aria-label="Contents"><ul>{"".join(entries)}</ul></nav>'


def _section(section: Section, names: _Names) -> str:
    number, tag = next(names.sections), f"h{section.level}"
    heading = f'<{tag} id="section-{number}" dir="auto">{escaped(section.heading)}</{tag}>'
    return "\n".join([heading, *(_block(block, names) for block in section.blocks)])


def _block(block: Block, names: _Names) -> str:
    if isinstance(block, Plate):
        return _plate(block, f"figure-{next(names.figures)}")
    if isinstance(block, Explorer):
        caption = f'<figcaption dir="auto">{escaped(block.sentence)}</figcaption>'
        return f"<figure>\n{view_element(block.reading)}\n{caption}\n</figure>"
    if isinstance(block, Sheet | FactList):
        name = f"table-{next(names.tables)}"
        return _sheet(block, name) if isinstance(block, Sheet) else _facts(block, name)
    if isinstance(block, Paragraph):
        return f'<p dir="auto">{escaped(block.text)}</p>'
    return _code(block) if isinstance(block, Code) else _terms(block)


def _plate(plate: Plate, name: str) -> str:
    drawn = figure_html(plate.make(), plate.shows, name)
    caption = f'<figcaption dir="auto">{escaped(plate.sentence)}</figcaption>'
    return f'<figure>\n<div class="drawn" tabindex="0">\n{drawn}\n</div>\n{caption}\n</figure>'


def _sheet(sheet: Sheet, name: str) -> str:
    (header, *rows), numeric = printed_cells(sheet.table, sheet.digits)
    n_labels = sheet.table.index.nlevels if any(name is not None for name in sheet.table.index.names) else 0
    classes = [
        "n" if is_number else "words" if any(len(row[i]) > _MOST_CHARACTERS for row in rows) else ""
        for i, is_number in enumerate(numeric)
    ]
    titles = "".join(
        f'<th scope="col"{_class(kind)}>{escaped(sheet.names.get(name, name.replace("_", " ")))}</th>'
        for name, kind in zip(header, classes, strict=True)
    )
    lines = "\n".join(
        "<tr>"
        + "".join(
            f'<th scope="row" dir="auto"{_class(kind)}>{escaped(cell)}</th>'
            if i < n_labels
            else f'<td dir="auto"{_class(kind)}>{escaped(cell)}</td>'
            for i, (cell, kind) in enumerate(zip(row, classes, strict=True))
        )
        + "</tr>"
        for row in rows
    )
    return _scrolling(
        f"<table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>",
        sheet.sentence,
        name,
    )


def _facts(facts: FactList, name: str) -> str:
    roles = list(dict.fromkeys(row.role for row in facts.rows))
    verdicts = [name for name in VERDICTS if any(name == one.verdict for row in facts.rows for one in row.outcomes)]
    titles = "".join(f'<th scope="col">{name}</th>' for name in ("fact", *_LABELS))
    lines = "\n".join(map(_fact, facts.rows))
    form = (
        '<form class="filters" hidden><label>Search<input type="search" name="q" autocomplete="off"></label>'
        f"{_choice('role', roles)}{_choice('verdict', verdicts)}<output></output></form>"
    )
    table = f'<table class="facts">\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>'
    return _scrolling(table, facts.sentence, name).replace("</p>\n", f"</p>\n{form}\n", 1)


_LABELS = ("role", "prompt", "old", "new", "what became of it")


def _fact(row: FactRow) -> str:
    verdicts = " ".join(dict.fromkeys(one.verdict for one in row.outcomes if one.verdict))
    outcomes = "".join(
        f'<li dir="auto">{escaped(one.where)}{": " if one.where else ""}'
        + (f'<span class="verdict {escaped(one.verdict)}">{escaped(one.verdict)}</span>' if one.verdict else "")
        + f"{', ' if one.verdict and one.numbers else ''}{escaped(one.numbers)}</li>"
        for one in row.outcomes
    )
    cells = [escaped(row.role), *(escaped(text) for text in (row.prompt, row.old, row.new))]
    cells.append(f"<ul>{outcomes}</ul>" if outcomes else "")
    return (
        f'<tr data-role="{escaped(row.role)}" data-verdicts="{escaped(verdicts)}">'
        f'<th scope="row" dir="auto">{escaped(row.name)}</th>'
        + "".join(
            f'<td dir="auto" data-label="{label}">{cell}</td>' for label, cell in zip(_LABELS, cells, strict=True)
        )
        + "</tr>"
    )


def _choice(name: str, values: list[str]) -> str:
    """A choice among values; with fewer than two there is none, and the field only keeps its place."""
    options = "".join(f'<option value="{escaped(value)}">{escaped(value)}</option>' for value in values)
    hidden = " hidden" if len(values) < 2 else ""
    return (
        f'<label{hidden}>{name.capitalize()}<select name="{name}"><option value="">all</option>{options}</select>'
        "</label>"
    )


def _code(code: Code) -> str:
    shown = f"<pre><code>{escaped(code.text)}</code></pre>"
    saved = ""
    if code.file:
        data = base64.b64encode(code.text.encode("utf-8", "backslashreplace")).decode("ascii")
        link = f'<a download="{escaped(code.file)}" href="data:text/plain;charset=utf-8;base64,{data}">'
        saved = f'<p class="save">{link}Save {escaped(code.file)}</a></p>'
    if code.folded:
        return f"<details><summary>{escaped(code.sentence)}</summary>\n{shown}\n</details>\n{saved}"
    return f'<p dir="auto">{escaped(code.sentence)}</p>\n{shown}\n{saved}'


def _terms(terms: Terms) -> str:
    pairs = "".join(
        f'<dt>{escaped(name)}</dt><dd dir="auto">{escaped(text)}</dd>' for name, text in terms.pairs.items()
    )
    return f"<dl>{pairs}</dl>"


def _scrolling(table: str, sentence: str, name: str) -> str:
    """A table below its sentence; it scrolls in a frame of its own where the screen is narrow, also by the keyboard."""
    return (
        f'<p class="says" dir="auto" id="{name}">{escaped(sentence)}</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{name}">\n{table}\n</div>'
    )


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
