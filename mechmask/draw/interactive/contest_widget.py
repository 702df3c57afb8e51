"""``ContestView``: the view of ``contest_view.js`` as a widget of Jupyter, VS Code and Colab; it needs anywidget."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import anywidget
import traitlets

_HOME = Path(str(resources.files("mechmask.draw.interactive")))


class ContestView(anywidget.AnyWidget):
    """A view of one contest after another. ``contest_view`` makes one.

    Attributes:
        fact: the label of the fact that is shown.
        layer: the layer at which it is read.
        state: the state of the model, as tables print it; empty where the reading has one alone.
        data: what the view knows, as JSON values.
    """

    _esm = _HOME / "contest_view.js"
    _css = _HOME / "contest_view.css"
    data = traitlets.Dict().tag(sync=True)
    fact = traitlets.Unicode().tag(sync=True)
    layer = traitlets.Int().tag(sync=True)
    state = traitlets.Unicode().tag(sync=True)

    def __repr__(self) -> str:
        return f"ContestView({self.fact!r}, layer {self.layer})"

    @traitlets.validate("fact", "layer", "state")
    def _known(self, proposal: dict[str, Any]) -> Any:
        name, chosen = proposal["trait"].name, proposal["value"]
        facts = [one["name"] for one in self.data["facts"]]
        known = {"fact": facts, "layer": self.data["layers"], "state": self.data["states"]}[name]
        if chosen not in known:
            shown = ", ".join(map(str, known[:5])) + (", ..." if len(known) > 5 else "")
            raise traitlets.TraitError(f"The view has no {name} {chosen!r}. Choose one of {shown}.")
        return chosen
