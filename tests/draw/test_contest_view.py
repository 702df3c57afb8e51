"""The interactive view in a real browser: what it says is what was read, and what is chosen there is what it shows."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from mechmask import draw
from mechmask.draw.interactive.contest_view import file_text, view_data
from mechmask.errors import ReadingError
from mechmask.measure.commit import commit_layer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u2028$x$ & \"co'"
MINUS = "\N{MINUS SIGN}"


@pytest.fixture
def reading(depth_reading) -> xr.Dataset:
    """Two states, a layer that was not read, an impossible value, and texts that would like to be something else."""
    names = depth_reading.fact.values.astype(object)
    names[0], names[1] = HOSTILE, "日本の首都"
    values = [[f"{route} of <b>{i}</b> 東京" for route in depth_reading.route.values] for i in range(len(names))]
    made = depth_reading.isel(state=[0, 1]).assign_coords(fact=list(names), value=(("fact", "route"), values))
    made = made.copy(deep=True)
    made.logprob[{"fact": 2, "layer": 4}] = np.nan
    made.logprob[{"fact": 3, "layer": 5, "route": 0}] = -np.inf
    return made.assign_attrs(lens="logit", score="divergence")


def nats(value: float) -> str:
    return f"{value:.2f}".replace("-", MINUS)


def logprob(reading, fact, layer, route, state="finetune") -> float:
    return float(reading.logprob.sel(state=state, fact=fact, layer=layer, route=route))


DRIVER = """<ol id="log"></ol><script type="module">
window.alert = () => { document.title = "alerted"; };
const view = document.querySelectorAll(".mechmask-contest")[1], log = document.querySelector("#log");
const said = (extra = "") => {
  const item = document.createElement("li");
  item.textContent = view.querySelector(".mm-said").textContent + extra;
  log.append(item);
};
const [facts, states] = view.querySelectorAll("select"), slider = view.querySelector("input");
const pick = (input, value, kind) => {
  input.value = value;
  input.dispatchEvent(new Event(kind, { bubbles: true }));
};
pick(facts, [...facts.options].findIndex((option) => option.textContent === "日本の首都"), "change");
said();
pick(slider, 7, "input");
const text = (selector) => view.querySelector(selector).textContent;
said(" / " + text("output") + " / " + text("[data-route=old] .mm-number"));
pick(states, 0, "change");
said();
const key = (name) => view.querySelector(".mm-scroll").dispatchEvent(new KeyboardEvent("keydown", { key: name }));
const keys = ["ArrowRight", "ArrowRight", "ArrowUp", "ArrowDown", "End", "ArrowRight", "Home", "ArrowRight"];
for (const name of keys) key(name);
said();
const field = view.querySelector(".mm-field"), box = field.getBoundingClientRect();
const [x, y] = [box.left + (20.5 / 31) * box.width, box.top + (2.5 / 10) * box.height];
field.dispatchEvent(new MouseEvent("click", { clientX: x, clientY: y }));
said(" / " + facts.selectedOptions[0].textContent + " / " + slider.value);
</script>"""


@pytest.fixture
def browsed(reading, tmp_path) -> str:
    """The page as the browser leaves it: a view as it opens, and one that was driven."""
    first = draw.interactive.contest_view_html(reading, fact=HOSTILE, layer=12, state="finetune")
    second = draw.interactive.contest_view_html(reading)
    page = tmp_path / "page.html"
    head = "<!doctype html><meta charset='utf-8'><title>quiet</title>"
    page.write_text(f"{head}{first}{second}{DRIVER}", encoding="utf-8")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    command = [str(CHROMIUM), *arguments, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_the_browser_shows_what_was_read_and_follows_what_is_chosen(browsed, reading):
    assert "<title>quiet</title>" in browsed, "nothing that a fact says was run"
    opened = browsed[browsed.index('<div class="mechmask-contest">') :].split("<style>")[0]
    numbers = re.findall(r'data-route="(\w+)">.*?class="mm-number">([^<]*)<', opened)
    assert numbers == [(route, nats(logprob(reading, HOSTILE, 12, route))) for route in reading.route.values]
    assert re.findall(r"<b>old</b> ([^<]*)<", opened) == ["“old of &lt;b&gt;0&lt;/b&gt; 東京”"]
    margin = logprob(reading, HOSTILE, 12, "new") - logprob(reading, HOSTILE, 12, "old")
    assert html.escape(HOSTILE, quote=False) in opened and f"old {nats(margin)} nats" in opened

    log = [html.unescape(item) for item in re.findall(r"<li>(.*?)</li>", browsed, re.DOTALL)]
    picked, slid, before, keyed, clicked = log
    japan = "日本の首都"
    assert picked.startswith(f"{japan}, fine-tuning, layer 30: old “old of <b>1</b> 東京” ")
    assert nats(logprob(reading, japan, 30, "new")) in picked
    old, new = (logprob(reading, japan, 7, route) for route in ("old", "new"))
    assert f"layer 7: old “old of <b>1</b> 東京” {nats(old)}, new “new of <b>1</b> 東京” {nats(new)}" in slid
    assert f"margin new {MINUS} old {nats(new - old)} nats" in slid
    assert slid.endswith(f" / 7 of 30 (depth 0.23) / {nats(old)}")
    assert before.startswith(f"{japan}, before, layer 7") and "new does not commit" in before
    assert nats(logprob(reading, japan, 7, "old", "before")) in before
    assert re.match(".*, before, layer 1: ", keyed) and keyed.startswith(f"{japan},")
    third = view_data(reading)["facts"][2]["name"]
    assert clicked.startswith(f"{third}, before, layer 20: ") and clicked.endswith(f" / {third} / 20")


def test_the_data_are_the_reading_s(reading):
    data = view_data(reading)
    names = [fact["name"] for fact in data["facts"]]
    contradicted = reading.isel(fact=np.flatnonzero(reading.role.values == "contradicted"))
    assert sorted(names) == sorted(contradicted.fact.values) and data["states"] == ["before", "fine-tuning"]
    number = {None: np.nan, "-inf": -np.inf}
    flat = [number.get(one, one) for state in data["logprob"] for fact in state for route in fact for one in route]
    there = reading.logprob.sel(fact=names).transpose("state", "fact", "route", "layer").values
    np.testing.assert_allclose(np.reshape(flat, there.shape).astype(float), there, atol=1e-6)
    commits = commit_layer(reading.sel(fact=names)).transpose("state", "fact").values
    shown = np.array([[np.nan if one is None else one for one in row] for row in data["commit"]])
    np.testing.assert_array_equal(shown, commits)
    last = np.nan_to_num(commits[-1], nan=np.inf)
    assert (np.diff(last) >= 0).all(), "in the order of the printed heat map"


def test_a_page_holds_the_data_as_json_that_ends_no_script(reading):
    fragment = draw.interactive.contest_view_html(reading)
    assert fragment.count("</script>") == 2 and "\u2028" not in fragment and "<img" not in fragment
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", fragment), "nothing is loaded from elsewhere"
    data = re.search(r'<script type="application/json">(.*?)</script>', fragment)
    stored = json.loads(data[1])
    assert stored["data"] == view_data(reading) and stored["layer"] == 30 and stored["state"] == "fine-tuning"
    assert HOSTILE in [fact["name"] for fact in stored["data"]["facts"]]
    assert "innerHTML" not in file_text("contest_view.js") and "</" not in file_text("contest_view.js")
    assert draw.interactive.contest_view_html(reading) == fragment


def test_one_state_needs_no_name(reading):
    data = view_data(reading.isel(state=1, drop=True).drop_vars("value"))
    assert data["states"] == [""] and "values" not in data["facts"][0]


def test_the_widget_has_the_same_data_and_refuses_what_is_not_there(reading):
    pytest.importorskip("anywidget")
    import traitlets

    view = draw.interactive.contest_view(reading, fact="日本の首都", layer=3, state="before")
    state = view.get_state()
    assert json.loads(json.dumps(state["data"], allow_nan=False)) == view_data(reading)
    assert (state["fact"], state["layer"], state["state"]) == ("日本の首都", 3, "before")
    assert state["_esm"] == file_text("contest_view.js") and state["_css"] == file_text("contest_view.css")
    assert "application/vnd.jupyter.widget-view+json" in view._repr_mimebundle_()[0]
    view.layer, view.state = 12, "fine-tuning"
    for name, value in (("fact", "nobody"), ("layer", 31), ("state", "x")):
        with pytest.raises(traitlets.TraitError, match=f"The view has no {name}"):
            setattr(view, name, value)
    assert repr(view) == "ContestView('日本の首都', layer 12)"


def test_what_is_not_in_the_reading_is_refused(reading, depth_reading):
    for view in (draw.interactive.contest_view, draw.interactive.contest_view_html):
        with pytest.raises(ReadingError, match=r"no layer 31\. "):
            view(reading, layer=31)
        with pytest.raises(ReadingError, match=r"no fact '日本の首'\. Did you mean '日本の首都'"):
            view(reading, fact="日本の首")
        with pytest.raises(ReadingError, match="needs the route old"):
            view(depth_reading.drop_sel(route="old"))


def test_without_anywidget_the_extra_is_named(reading, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, "mechmask.draw.interactive.contest_widget", raising=False)
    with pytest.raises(ReadingError, match=r"needs anywidget.*pip install 'mechmask\[notebooks\]'"):
        draw.interactive.contest_view(reading)
    assert "mechmask-contest-page" in draw.interactive.contest_view_html(reading)
