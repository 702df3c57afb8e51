import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from mechmask import draw
from mechmask.draw.interactive.page import escaped
from mechmask.errors import ReadingError

graph_objects = pytest.importorskip("plotly.graph_objects")


@pytest.fixture
def reading(depth_reading):
    """With value texts, and a fact and a state that would like to be HTML."""
    names = depth_reading.fact.values.astype(object)
    names[0] = "<img src=x onerror=alert(1)>$x$ & co"
    texts = [[f"{route} of <b>{i}</b>" for route in depth_reading.route.values] for i in range(len(names))]
    made = depth_reading.assign_coords(fact=list(names), state=["before", "<i>after</i>", "ft_l"])
    tokens = [[f" {i}{route[0]}" for route in depth_reading.route.values] for i in range(len(names))]
    return made.assign_coords(value=(("fact", "route"), texts), token=(("fact", "route"), tokens))


def traces(figure, prefix):
    return [trace for trace in figure.data if (trace.name or "").startswith(prefix)]


def test_depth_draws_every_fact_and_the_mean(reading):
    figure = draw.interactive.depth(reading)
    assert isinstance(figure, graph_objects.Figure)
    facts = np.flatnonzero(reading.role.values == "contradicted")
    for label, values in (
        ("old", reading.logprob.values[:, facts, 0]),
        ("new", reading.logprob.values[:, facts, 1]),
        ("margin", reading.margin.values[:, facts]),
    ):
        means, each = traces(figure, f"{label}: mean"), traces(figure, f"{label}: each")
        for state in range(3):
            np.testing.assert_allclose(means[state].y, values[state].mean(0))
            lines = np.array(each[state].y, dtype=float).reshape(len(facts), 32)
            assert np.isnan(lines[:, -1]).all()
            assert sorted(map(tuple, lines[:, :-1])) == sorted(map(tuple, values[state]))
        assert means[0].name == f"{label}: mean (n = 10)"
    assert not any(trace.showlegend for trace in traces(figure, "old: mean")[1:])


def test_the_layers_above_the_embedding_rule_the_axes(reading):
    far = reading.copy(deep=True)
    far.logprob[{"layer": 0}] -= 200
    figure = draw.interactive.depth(far)
    low, high = figure.layout.yaxis.range
    above = far.logprob.isel(layer=slice(1, None), fact=np.flatnonzero(reading.role.values == "contradicted"))
    shown = above.sel(route=["old", "new"])
    assert -60 < low < float(shown.min()) and float(shown.max()) < high < 20
    assert "log-probability at layer 0 leaves the frame" in figure.layout.annotations[-1].text


def test_the_legend_names_the_commit_bars_once_where_there_are_any(reading):
    bars = traces(draw.interactive.heatmap(reading), "commit layer")
    assert [len(bar.x) > 0 for bar in bars].index(True) == [bool(bar.showlegend) for bar in bars].index(True)
    assert sum(bool(bar.showlegend) for bar in bars) == 1


def test_the_pointer_names_fact_layer_values_logprobs_and_margin(reading):
    trace = traces(draw.interactive.depth(reading), "margin: each")[1]
    texts = np.array(trace.hovertext).reshape(10, 32)
    fact = next(row for row in range(10) if "U$3_x$".replace("$", "&#36;") in texts[row, 0])
    logprob = reading.logprob.values[1, 3, :, 20]
    standing = logprob[0] - np.log(np.exp(logprob[2:]).mean())
    said = texts[fact, 20].replace("\N{MINUS SIGN}", "-")
    for part in (
        "layer 20 (depth 0.67)",
        f"old “old of &lt;b&gt;3&lt;/b&gt;” at “ 3o”: {logprob[0]:.2f} nats",
        f"new “new of &lt;b&gt;3&lt;/b&gt;” at “ 3n”: {logprob[1]:.2f} nats",
        f"margin new - old: {logprob[1] - logprob[0]:.2f} nats",
        f"standing S of old: {standing:.2f} nats",
        "commit layer: ",
    ):
        assert part in said


def test_the_checkpoints_are_the_printed_ones(checkpoint_reading):
    figure, axes = draw.interactive.checkpoints(checkpoint_reading), draw.checkpoints(checkpoint_reading).axes[0]
    cells, bars = figure.data
    np.testing.assert_allclose(cells.z, axes.images[0].get_array())
    assert list(figure.layout.xaxis.ticktext) == [label.get_text() for label in axes.get_xticklabels()]
    segments = [s for c in axes.collections if hasattr(c, "get_segments") for s in c.get_segments()]
    drawn = zip(bars.x[::3], bars.x[1::3], bars.y[::3], strict=True)
    assert {(left, right, y) for left, right, y in drawn} == {(s[0, 0], s[1, 0], s[0, 1]) for s in segments}
    said = cells.hovertext[20][5].replace("\N{MINUS SIGN}", "-")
    mean = checkpoint_reading.margin.values[5, checkpoint_reading.role.values == "contradicted", 20].mean()
    assert f"step {checkpoint_reading.step.values[5]}" in said and f"old: {mean:.2f} nats, 95% t interval" in said
    assert f"contradiction begins (step {checkpoint_reading.onset_step})" in figure.layout.annotations[0].text


@pytest.mark.parametrize("value", ["margin", "standing"])
def test_the_heat_map_is_the_printed_one(reading, value):
    figure, printed = draw.interactive.heatmap(reading, value=value), draw.heatmap(reading, value)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    bars = traces(figure, "commit layer")
    for cells, bar, axes in zip(maps, bars, printed.axes[:3], strict=True):
        np.testing.assert_allclose(cells.z, axes.images[0].get_array())
        segments = [s for c in axes.collections if hasattr(c, "get_segments") for s in c.get_segments()]
        np.testing.assert_allclose(np.array(bar.x[::3], dtype=float), [segment[0, 0] for segment in segments])
        np.testing.assert_allclose(np.array(bar.y[::3], dtype=float), [segment[:, 1].min() for segment in segments])
    scale = figure.layout.coloraxis
    assert (scale.cmin, scale.cmax) == printed.axes[0].images[0].get_clim()
    assert "nats" in scale.colorbar.title.text and list(figure.layout.yaxis.tickvals) == list(range(10))


def test_text_from_data_is_neither_html_nor_a_formula(reading):
    for figure in (draw.interactive.depth(reading), draw.interactive.heatmap(reading)):
        page = figure.to_html(include_plotlyjs=False).replace("\\u003c", "<").replace("\\u003e", ">")
        assert "<img" not in page and "<i>" not in page and "$x$" not in page
        assert "<b>3" not in page and "&lt;img src=x onerror=alert(1)&gt;&#36;x&#36; &amp; co" in page.replace(
            "\\u0026", "&"
        )
    assert escaped("a < b\n'$c$'") == "a &lt; b '&#36;c&#36;'"


def test_values_that_are_not_finite_and_cut_colours(depth_reading):
    reading = depth_reading.copy(deep=True)
    reading["logprob"][0, 0, 0, 3] = -np.inf
    reading["logprob"][1, 1, 1, :] = np.nan
    reading["logprob"][:, :, 0, 0] += 80
    figure = draw.interactive.heatmap(reading)
    assert any("colours end at" in note.text for note in figure.layout.annotations)
    figure.to_json()
    draw.interactive.depth(reading).to_json()


def test_without_states_distractors_values_or_depth(two_readings):
    reading = two_readings[1].sel(route=["old", "new"]).drop_vars(["depth", "role"])
    figure = draw.interactive.depth(reading)
    assert not traces(figure, "mean of distractors")
    text = traces(figure, "old: each")[0].hovertext[30]
    assert "layer 30 (depth 1.00)" in text and "standing" not in text and "old: " in text


def test_plotly_is_loaded_only_when_needed_and_asked_for_by_name(two_readings, monkeypatch):
    code = "import sys; from mechmask import draw; print('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
    monkeypatch.setitem(sys.modules, "plotly", None)
    for function in (draw.interactive.depth, draw.interactive.heatmap):
        with pytest.raises(ReadingError, match="pip install plotly"):
            function(two_readings[1])


@pytest.mark.parametrize("name", ["depth", "heatmap"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda reading: None, "takes a reading"),
        (lambda reading: reading.drop_vars("logprob"), "needs logprob"),
        (lambda reading: reading.drop_sel(route="new"), "needs the route new"),
        (lambda reading: reading.isel(layer=[0, 2]), "every layer"),
        (lambda reading: xr.concat([reading, reading], "seed"), "Select one seed"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(depth_reading, name, spoil, said):
    with pytest.raises(ReadingError, match=said):
        getattr(draw.interactive, name)(spoil(depth_reading))
