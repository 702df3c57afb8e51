import numpy as np
import pytest
import xarray as xr

from mechmask import draw
from mechmask.errors import ReadingError


def labelled(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


@pytest.fixture
def by_name(two_readings):
    """A model of 30 blocks, and one of 10 that says the same at the same depth."""
    small = two_readings[1].isel(layer=slice(None, None, 3))
    return {"org/tall_$x$": two_readings[1], "small": small.assign_coords(layer=range(11))}


def naive_commits(reading):
    logprob = reading.logprob.values[reading.role.values == "contradicted"]
    leads = logprob[:, 1] > np.delete(logprob, 1, axis=1).max(1)
    starts = [next((k for k in range(len(row)) if row[k:].all()), None) for row in leads]
    return sorted(start / (leads.shape[1] - 1) for start in starts if start is not None)


def test_models_of_different_height_stand_on_one_depth(by_name):
    figure = draw.models(by_name)
    for axes, reading in zip(figure.axes, by_name.values(), strict=True):
        lines = labelled(axes)
        margins = reading.margin.values[reading.role.values == "contradicted"]
        np.testing.assert_allclose(lines["margin"].get_ydata(), margins.mean(0))
        np.testing.assert_allclose(lines["margin"].get_xdata(), np.linspace(0, 1, margins.shape[1]))
        expected = naive_commits(reading)
        np.testing.assert_allclose(lines["commit layer of a fact"].get_xdata(), expected)
        np.testing.assert_allclose(lines["median commit layer"].get_xdata(), np.median(expected))
        assert axes.get_title().endswith(f"{len(expected)} of 10 commit, median {np.median(expected):.2f}")
        assert axes.get_xlim() == figure.axes[0].get_xlim() and axes.get_ylim() == figure.axes[0].get_ylim()
    assert figure.axes[0].get_title().startswith(r"tall_\$x\$")


@pytest.mark.parametrize("along", ["depth", "layer"])
def test_a_dataset_of_models_says_the_same_as_a_mapping(by_name, along):
    expected = draw.models(by_name)
    parts = [reading.swap_dims(layer=along).drop_vars({"layer", "depth"} - {along}) for reading in by_name.values()]
    if along == "layer":
        parts = [part.assign(depth=("layer", part.layer.values / part.layer.values[-1])) for part in parts]
    parts = [part.assign_coords({along: part[along].values.round(9)}) for part in parts]
    names = xr.DataArray(list(by_name), dims="model", name="model")
    dataset = xr.concat(parts, names, join="outer", data_vars="all", coords="different", compat="equals")
    if along == "layer":
        dataset = dataset.set_coords("depth")
    for axes, other in zip(draw.models(dataset).axes, expected.axes, strict=True):
        assert axes.get_title() == other.get_title()
        for label, line in labelled(other).items():
            np.testing.assert_allclose(labelled(axes)[label].get_xydata(), line.get_xydata(), atol=1e-8)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_panels_and_legend_are_clear_of_each_other(by_name, legend_is_clear, n):
    readings = {f"Organisation/a-very-long-model-name-{i}b-instruct": by_name["small"] for i in range(n)}
    figure = draw.models(readings)
    assert len(figure.axes) == n and legend_is_clear(figure)
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(box.x1 <= figure.bbox.x1 + 1 for box in boxes)
    assert sum("depth" in axes.get_xlabel() for axes in figure.axes) == min(n, 3)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda reading: {}, "no model to draw"),
        (lambda reading: [reading], "takes depth readings by name, not a list"),
        (lambda reading: reading, "needs model"),
        (lambda reading: {"a": reading.drop_vars("margin")}, r"\(a\) needs margin"),
        (lambda reading: {"a": reading.drop_sel(route="old")}, "needs the route old"),
        (lambda reading: {"a": reading.expand_dims(seed=[0])}, "Select one seed"),
        (lambda reading: {"a": reading * np.nan}, "all are NaN"),
        (lambda reading: reading.expand_dims(model=["a", "a"]), "Two models have one name"),
        (lambda reading: {"a": None}, "takes a reading"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(two_readings, spoil, said):
    with pytest.raises(ReadingError, match=said):
        draw.models(spoil(two_readings[1]))
