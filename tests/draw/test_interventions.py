from itertools import pairwise

import numpy as np
import pytest

from mechmask import draw
from mechmask.errors import ReadingError


def line_of(axes, name):
    return next(line for line in axes.lines if line.get_label().startswith(f"{name} (n ="))


def naive_commits(margins):
    """First layer from which a fact's margin stays above zero, for the facts that have one."""
    starts = [next((k for k in range(len(row)) if (row[k:] > 0).all()), None) for row in margins]
    return sorted(start for start in starts if start is not None)


def naive_suffices(margins):
    """Last layer of each fact up to which the margin is above zero."""
    found = [next((k for k, value in enumerate(row) if not value > 0), len(row)) - 1 for row in margins]
    return sorted(layer for layer in found if layer >= 0)


def test_lines_and_commit_layers_are_those_of_each_reading(two_readings, intervened):
    patched, grafted = intervened
    grafted = grafted.assign(margin=grafted.margin.copy(data=grafted.margin.transpose("fact", "layer").values[:, ::-1]))
    intervened = patched, grafted
    figure = draw.interventions(two_readings[1], *intervened)
    axes = figure.axes[0]
    given = dict(zip(("lens", "patching", "grafting"), (two_readings[1], *intervened), strict=True))
    facts = np.flatnonzero(two_readings[1].role.values == "contradicted")
    labels = {line.get_label(): line for line in axes.lines}
    lanes = []
    for name, reading in given.items():
        margins = reading.margin.transpose("fact", "layer").values[facts]
        np.testing.assert_allclose(line_of(axes, name).get_ydata(), margins.mean(0))
        expected = naive_suffices(margins) if name == "grafting" else naive_commits(margins)
        rug = labels[f"commit layer of a fact: {name}"]
        assert rug.get_xdata().tolist() == expected and len(expected) > 3
        assert labels[f"median commit layer: {name}"].get_xdata() == [np.median(expected)] * 2
        assert f"{len(expected)} commit, median {np.median(expected):g}" in line_of(axes, name).get_label()
        lanes.append((min(rug.get_ydata()), max(rug.get_ydata())))
    assert all(below[1] < above[0] for below, above in pairwise(lanes))
    low, high = axes.get_ylim()
    bands = [path.vertices[:, 1].min() for c in axes.collections for path in c.get_paths() if len(path.vertices)]
    assert low + lanes[-1][1] * (high - low) < min(bands)


def test_the_models_as_they_are_stand_once_where_they_are_the_same(intervened):
    patched, grafted = intervened
    axes = draw.interventions(None, patched, grafted).axes[0]
    facts = patched.role.values == "contradicted"
    for end in ("source", "target"):
        (line,) = [line for line in axes.lines if line.get_label().startswith(f"{end} model")]
        np.testing.assert_allclose(line.get_ydata(), patched[f"margin_{end}"].values[facts].mean())
        assert line.get_label() == f"{end} model as it is (n = 10)"
    other = grafted.assign(margin_source=grafted.margin_source + 40)
    axes = draw.interventions(None, patched, other).axes[0]
    names = {line.get_label() for line in axes.lines if line.get_label().startswith("source")}
    assert names == {f"source model of {name} as it is (n = 10)" for name in ("patching", "grafting")}
    assert axes.get_ylim()[1] > other.margin_source.values[facts].mean()


def test_all_routes_contest_where_every_reading_has_them(two_readings):
    after = two_readings[1].copy(deep=True)
    after["logprob"][:, 2:, 25] += 50  # a distractor leads there, whatever the margin says
    figure = draw.interventions(after, after.isel(layer=slice(None, None, -1)))
    labels = {line.get_label(): line for line in figure.axes[0].lines}
    leads = after.logprob.values[:10, 1] > np.delete(after.logprob.values[:10], 1, axis=1).max(1)
    expected = sorted(next(k for k in range(31) if row[k:].all()) for row in leads)
    assert expected[0] >= 26
    for name in ("lens", "patching"):
        assert labels[f"commit layer of a fact: {name}"].get_xdata().tolist() == expected
    assert "new leads every other route" in figure.legends[0].get_title().get_text()
    mixed = draw.interventions(after, after.drop_vars("logprob"))
    assert "the margin stays above 0" in mixed.legends[0].get_title().get_text()
    labels = {line.get_label(): line for line in mixed.axes[0].lines}
    expected = naive_commits(after.margin.values[:10])
    assert labels["commit layer of a fact: lens"].get_xdata().tolist() == expected and expected[0] < 26


@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 2)])
def test_any_of_the_three_may_be_left_out(two_readings, intervened, legend_is_clear, which):
    given = (two_readings[1], *intervened)
    figure = draw.interventions(*(given[i] if i in which else None for i in range(3)))
    names = [("lens", "patching", "grafting")[i] for i in which]
    assert [line.get_label().split(" (n")[0] for line in figure.axes[0].lines if "), " in line.get_label()] == names
    assert legend_is_clear(figure)


def test_none_commits_and_an_axis_from_the_first_block(intervened):
    patched = intervened[0].assign(margin=-abs(intervened[0].margin)).isel(layer=slice(1, None))
    axes = draw.interventions(patched=patched).axes[0]
    assert "0 commit" in line_of(axes, "patching").get_label()
    assert not [line for line in axes.lines if "commit layer" in line.get_label()]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda patched: None, "nothing to draw"),
        (lambda patched: patched.margin, "takes a reading"),
        (lambda patched: patched.drop_vars("margin"), "needs margin"),
        (lambda patched: patched.expand_dims(component=["mlp"]), "Select one component"),
        (lambda patched: patched.isel(fact=slice(0, 0)), "no fact"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(intervened, spoil, said):
    with pytest.raises(ReadingError, match=said):
        draw.interventions(patched=spoil(intervened[0]))
