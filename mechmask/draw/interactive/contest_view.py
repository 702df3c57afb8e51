"""One contest after another, in a notebook and on a page: a fact picker, a layer slider, a linked heat map.

What is shown and how it answers stands once, in ``contest_view.js``: as an anywidget in Jupyter, VS Code and Colab, and
embedded in a page with the data as JSON. Here the reading becomes that data.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from mechmask.draw.colour import ANCHORS, scale_of
from mechmask.draw.heatmap import ordered_states, table_of
from mechmask.draw.interactive.page import WHAT
from mechmask.draw.layers import height
from mechmask.draw.style import DISTRACTORS, NEW, OLD
from mechmask.errors import ReadingError, known_names
from mechmask.measure.commit import commit_layer
from mechmask.measure.names import state_name

if TYPE_CHECKING:
    from mechmask.draw.interactive.contest_widget import ContestView

_COLOURS = {"old": OLD.color, "new": NEW.color}
_DECIMALS = 6  # of a nat
_IN_A_SCRIPT = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
_START = """
for (const here of document.querySelectorAll(".mechmask-contest-page:not([data-started])")) {
  here.dataset.started = "";
  render({ model: pageModel(JSON.parse(here.querySelector("script").textContent)), el: here });
}
"""


def contest_view(
    reading: xr.Dataset, *, fact: str | None = None, layer: int | None = None, state: str | None = None
) -> ContestView:
    """A view to pick facts and layers in: the contest of the routes there, and the margins of all facts by layer.

    Args:
        reading: as ``mechmask.draw.heatmap`` takes it: ``logprob[fact, route, layer]`` in nats, with ``state`` where
            there are several; ``value[fact, route]``, where it is there, is shown beside each route.
        fact: the label of the fact to begin with; the first row of the heat map by default.
        layer: the layer to begin with; the last by default.
        state: the state to begin with, as tables print it or as the reading has it; the last by default.

    Returns:
        The widget. Its ``fact``, ``layer`` and ``state`` follow what is chosen, can be set, and can be observed.

    Raises:
        ReadingError: if the reading lacks something, there is no such fact, layer or state, or anywidget is not
            installed.
    """
    chosen = _view(reading, fact, layer, state)
    try:
        from mechmask.draw.interactive.contest_widget import ContestView
    except ModuleNotFoundError as error:
        raise ReadingError(
            "The interactive view needs anywidget, which is not installed. Install it with: pip install "
            "'mechmask[notebooks]'. On a page, contest_view_html needs nothing."
        ) from error
    return ContestView(**chosen)


def contest_view_html(
    reading: xr.Dataset, *, fact: str | None = None, layer: int | None = None, state: str | None = None
) -> str:
    """The same view as a piece of HTML for a page of one's own: it works from a file, and loads nothing.

    Args:
        reading: as ``contest_view`` takes it.
        fact: the label of the fact to begin with; the first row of the heat map by default.
        layer: the layer to begin with; the last by default.
        state: the state to begin with; the last by default.

    Returns:
        An element with its data, its style and its script. A page may hold several.

    Raises:
        ReadingError: as ``contest_view``, but for anywidget, which it does not need.
    """
    return (
        f"{_element(_view(reading, fact, layer, state))}\n"
        f"<style>\n{file_text('contest_view.css')}</style>\n"
        f'<script type="module">\n{view_script()}</script>\n'
    )


def view_element(reading: xr.Dataset) -> str:
    """A view with its data, for a page that has ``contest_view.css`` and, behind all views, ``view_script`` once.

    Args:
        reading: as ``contest_view`` takes it, log-probabilities in nats.

    Raises:
        ReadingError: if the reading lacks something.
    """
    return _element(_view(reading, None, None, None))


def view_script() -> str:
    """The module that starts every view of a page that has not been started."""
    return f"{file_text('contest_view.js')}{_START}"


def _element(view: dict[str, Any]) -> str:
    data = json.dumps(view, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return (
        '<div class="mechmask-contest-page"><noscript><p>This view needs JavaScript.</p></noscript>'
        f'<script type="application/json">{data.translate(_IN_A_SCRIPT)}</script></div>'
    )


def file_text(name: str) -> str:
    """The text of a file that lies beside this one.

    Args:
        name: of the file.
    """
    return resources.files("mechmask.draw.interactive").joinpath(name).read_text(encoding="utf-8")


def _view(reading: xr.Dataset, fact: str | None, layer: int | None, state: str | None) -> dict[str, Any]:
    """The data, and what is chosen at first."""
    data = view_data(reading)
    facts = [one["name"] for one in data["facts"]]
    chosen = {"fact": fact, "layer": layer, "state": state if state is None else state_name(state)}
    usual = {"fact": facts[0], "layer": data["layers"][-1], "state": data["states"][-1]}
    for name, known in {"fact": facts, "layer": data["layers"], "state": data["states"]}.items():
        if chosen[name] is not None and chosen[name] not in known:
            raise ReadingError(
                f"The view has no {name} {chosen[name]!r}. {known_names(str(chosen[name]), map(str, known))}"
            )
    return {"data": data, **{name: usual[name] if one is None else one for name, one in chosen.items()}}


def view_data(reading: xr.Dataset) -> dict[str, Any]:
    """What the view shows, as JSON values: facts in the order of the last state's commit layers.

    Args:
        reading: as ``contest_view`` takes it, log-probabilities in nats.

    Raises:
        ReadingError: if the reading lacks something.
    """
    states = list(ordered_states(reading, "margin", WHAT).values())
    names = [state_name(name) for name in reading["state"].values] if "state" in reading.dims else [""]
    first = states[0].sortby("layer")
    scale = scale_of(np.stack([table_of(state, "margin") for state in states]), reading.layer.values, WHAT)
    routes = [str(route) for route in first.route.values]
    lens, score = reading.attrs.get("lens"), reading.attrs.get("score")
    told = [f"{lens} lens" if lens else "", f"score {score}" if score else ""]
    return {
        "states": names,
        "facts": [_fact(first.isel(fact=i), routes) for i in range(first.sizes["fact"])],
        "routes": [_route(route) for route in routes],
        "layers": [int(layer) for layer in first.layer.values],
        "height": int(height(first)),
        "logprob": [
            _numbers(state.sortby("layer").logprob.transpose("fact", "route", "layer").values) for state in states
        ],
        "commit": [[int(one) if np.isfinite(one) else None for one in commit_layer(state).values] for state in states],
        "scale": {"limit": scale.limit, "anchors": list(map(list, ANCHORS)), "note": scale.note},
        "how": ", ".join(filter(None, told)) or "nats",
    }


def _fact(one: xr.Dataset, routes: list[str]) -> dict[str, Any]:
    named: dict[str, Any] = {"name": str(one.fact.values)}
    if "value" in one.variables and one["value"].dims == ("route",):
        named["values"] = {route: str(one["value"].sel(route=route).values) for route in routes}
    return named


def _route(name: str) -> dict[str, str]:
    label = f"distractor {name.removeprefix('distractor_')}" if name.startswith("distractor_") else name
    return {"name": name, "label": label, "color": _COLOURS.get(name, DISTRACTORS.color)}


def _numbers(values: Any) -> Any:
    """Nested lists; NaN is null and infinity a text, which JSON has not."""
    if np.ndim(values):
        return [_numbers(part) for part in values]
    number = float(values)
    if np.isfinite(number):
        return round(number, _DECIMALS)
    return None if np.isnan(number) else ("-inf" if number < 0 else "inf")
