"""A page as HTML: whatever text it is given, a parser gives it back and finds no element that is not the page's."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from matplotlib.figure import Figure

from mechmask.draw.page.content import (
    Code,
    Document,
    FactList,
    FactRow,
    Outcome,
    Paragraph,
    Plate,
    Section,
    Sheet,
    Terms,
)
from mechmask.draw.page.document import document_html

HOSTILE = {
    "script": "<script>document.title = 'taken'</script>",
    "closing": "</td></table></script></style><!-- --><b onclick=alert(1)>",
    "quotes": "\"double\" 'single' `back` = onload=x",
    "ampersand": "&amp; &lt; &#60; & &copy",
    "cdata": "]]> <![CDATA[ x ]]>",
    "right to left": "\u202eabc\u202c עברית العربية",
    "emoji": "👩‍👩‍👧 🇩🇰 \U0001f600",
    "lines": "a\u2028b\u2029c\nd\re\r\nf",
    "scripts": "日本語 ქართული ไทย Ünï",
    "spaces": "  two  spaces\tand a tab ",
    "dollars": "$x_1$ costs \\$5 {y} %s",
}
VOID = {"meta", "br", "img", "input"}


class Parsed(HTMLParser):
    """Text of the elements of each name and class, the elements that there are, and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(page)
        self.close()
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, []))

    def handle_endtag(self, tag):
        name, parts = self._open.pop()
        assert name == tag, f"</{tag}> closes <{name}>"
        self.texts.append((tag, "".join(parts)))

    def handle_data(self, data):
        for _, parts in self._open:
            parts.append(data)

    def of(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def figure_of(text: str) -> Figure:
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.set_title(text, parse_math=False)
    axes.plot([0, 1], [0, 1])
    return figure


def page_of(text: str) -> Document:
    row = FactRow(text, "control", text, text, text, [Outcome(text, "masked", text)])
    blocks = [
        Paragraph(text),
        Plate(text, text, lambda: figure_of("plain")),
        Sheet(
            text, pd.DataFrame({"text": [text], "value": [1.5]}, index=pd.Index([text], name="label")), {"text": text}
        ),
        FactList(text, [row]),
        Code(text, text, "a.txt"),
        Terms({text: text}),
    ]
    return Document(text, [text], [Section(text, blocks)], text)


@pytest.mark.parametrize("name", HOSTILE)
def test_every_text_comes_back_whole_and_brings_no_element(name):
    text, plain = HOSTILE[name], document_html(page_of("plain"))
    found, expected = Parsed(document_html(page_of(text))), Parsed(plain)
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in expected.elements]
    assert not [key for _, attributes in found.elements for key in attributes if key.startswith("on")]
    in_table = " ".join(text.split("\n"))  # printed tables have no line breaks in a cell
    assert in_table in found.of("td") or text in found.of("td")
    for tag in ("title", "h1", "h2", "figcaption", "code", "dt", "dd", "th", "li"):
        assert text in [read.removesuffix(": masked, ") for read in found.of(tag)] or any(
            text in read for read in found.of(tag) if tag == "li"
        ), tag
    labels = [attributes.get("aria-label") for tag, attributes in found.elements if tag == "svg"]
    assert labels == [text]


@pytest.mark.parametrize("name", ["script", "closing", "quotes", "ampersand", "cdata", "scripts", "emoji"])
def test_text_in_a_figure_stays_text_and_is_whole(name):
    """A style of matplotlib's in it is not the page's, and its fonts go on where the house's is not installed."""
    text = HOSTILE[name]
    page = document_html(Document("t", [], [Section("s", [Plate("said", "shown", lambda: figure_of(text))])]))
    found = Parsed(page)
    assert text in found.of("text")
    assert [tag for tag, _ in found.elements].count("style") == 1
    styles = [attributes["style"] or "" for tag, attributes in found.elements if tag == "text"]
    assert styles and all("sans-serif" in style for style in styles)


def test_a_figure_that_no_svg_can_hold_is_a_picture():
    page = document_html(Document("t", [], [Section("s", [Plate("said", "shown", lambda: figure_of("a\x0bb"))])]))
    (picture,) = [attributes for tag, attributes in Parsed(page).elements if tag == "img"]
    assert (picture["src"] or "").startswith("data:image/png;base64,") and picture["alt"] == "shown"


def test_what_no_html_can_hold_is_shown_by_its_name():
    text, shown = "a\0b\ud800c", "a\N{SYMBOL FOR NULL}b\\ud800c"
    page = document_html(Document(text, [], [Section("s", [Plate(text, text, lambda: figure_of("plain"))])]))
    found = Parsed(page.encode("utf-8").decode("utf-8"))
    assert found.of("h1") == found.of("figcaption") == [shown]
    assert [attributes["aria-label"] for tag, attributes in found.elements if tag == "svg"] == [shown]


def test_figures_of_one_page_share_no_name():
    plates = [Plate("said", "shown", lambda: figure_of("same")) for _ in range(2)]
    found = Parsed(document_html(Document("t", [], [Section("s", plates)])))
    names = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(names) == len(set(names)) and any("clip" in str(attributes) for _, attributes in found.elements)
    used = re.findall(r"url\(#([^)]+)\)", str([attributes for _, attributes in found.elements]))
    assert used and set(used) <= set(names)


def test_a_table_says_which_cells_are_headers_and_which_are_numbers():
    table = pd.DataFrame(
        {"index": [2.345], "index_low": [1.0], "index_high": [3.0]}, index=pd.Index(["a"], name="fact")
    )
    page = document_html(Document("t", [], [Section("s", [Sheet("says", table, {"index": "erase index"}, 1)])]))
    found = Parsed(page)
    scopes = [
        (tag, attributes.get("scope"), attributes.get("class")) for tag, attributes in found.elements if tag[0] == "t"
    ]
    assert ("th", "row", None) in scopes and ("td", None, "n") in scopes
    assert scopes.count(("th", "col", None)) == 1 and ("th", "col", "n") in scopes
    assert found.of("td") == ["2.3 [1.0, 3.0]"] and "erase index" in found.of("th")
    regions = [
        attributes["aria-labelledby"] for tag, attributes in found.elements if attributes.get("role") == "region"
    ]
    assert regions == [attributes["id"] for tag, attributes in found.elements if attributes.get("class") == "says"]


def test_text_that_can_be_saved_is_the_text():
    import base64

    text = "ä\r\n\u2028<b>"
    page = document_html(Document("t", [], [Section("s", [Code("says", text, "a.txt")])]))
    (link,) = [attributes["href"] or "" for tag, attributes in Parsed(page).elements if "download" in attributes]
    assert base64.b64decode(link.partition("base64,")[2]).decode() == text
