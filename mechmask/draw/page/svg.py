"""A matplotlib figure as a piece of an HTML page: SVG whose text stays text, without what would reach beyond it.

Text is left to the reader's fonts, so that any script is shown whole, whatever the fonts of the machine that drew it.
Ids are made the figure's own, and matplotlib's style sheet, which would rule the whole page, is left out. A figure with
characters that XML cannot hold becomes a PNG within the page.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.figure import Figure

from mechmask.draw.page.text import escaped, holdable
from mechmask.draw.style import file_settings

_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "mechmask"}
_UNDATED = {"Date": None, "Creator": None, "Format": None, "Type": None}
_HOUSE_FONT = "'DejaVu Sans'"
_FONTS = f"{_HOUSE_FONT}, Verdana, Arial, sans-serif"  # where it is not installed, one as wide or narrower
_LEFT_OUT = ("metadata", "style")
_SCALE = 1.3  # type at its printed size is small on a screen
_PNG_DPI = 200


def figure_html(figure: Figure, label: str, name: str) -> str:
    """A figure as an element.

    Args:
        figure: any matplotlib figure.
        label: what is drawn, for a reader who does not see it.
        name: of the figure, the only one of that name on its page.
    """
    try:
        root = ElementTree.fromstring(_svg(figure))
    except ElementTree.ParseError:
        return f'<img src="data:image/png;base64,{_png(figure)}" alt="{escaped(label)}">'
    _clean(root)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _own(key, value, name) for key, value in element.attrib.items()}
    width = float(root.attrib.pop("width").removesuffix("pt"))
    root.attrib = {
        "role": "img",
        "aria-label": holdable(label),
        "style": f"--own: {_SCALE * width / 72:.2f}in",
        **{key: value for key, value in root.attrib.items() if key == "viewBox"},
    }
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _svg(figure: Figure) -> str:
    with io.BytesIO() as file, rc_context(file_settings() | _SETTINGS), warnings.catch_warnings():  # pyright: ignore[reportArgumentType]
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the reader's fonts show it, not this machine's
        figure.savefig(file, format="svg", metadata=_UNDATED)
        return file.getvalue().decode("utf-8")


def _png(figure: Figure) -> str:
    with io.BytesIO() as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(file, format="png", dpi=_PNG_DPI, metadata={"Software": None})
        return base64.b64encode(file.getvalue()).decode("ascii")


def _clean(element: ElementTree.Element) -> None:
    for child in list(element):
        if _local(child.tag) in _LEFT_OUT:
            element.remove(child)
        else:
            _clean(child)


def _local(name: str) -> str:
    """A name without its namespace, which an HTML page knows by the element."""
    return name.rpartition("}")[2]


def _own(key: str, value: str, name: str) -> str:
    """An attribute whose ids are the figure's own, and whose fonts go on where the house's is not installed."""
    local = _local(key)
    if local == "id":
        return f"{name}-{value}"
    if local == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    if local == "style":
        value = value.replace(_HOUSE_FONT, _FONTS)
    return re.sub(r"url\(#", f"url(#{name}-", value)
