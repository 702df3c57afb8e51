"""Figures of what a change did to weights and residual stream: weights, drift, cosine."""

import numpy as np
import pytest
from scipy import stats

from mechmask import draw
from mechmask.errors import ReadingError


def lines(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def test_bars_are_blocks_and_cells_are_projections(weight_reading):
    figure = draw.weights(weight_reading)
    bars, norms, ranks = figure.axes[:3]
    np.testing.assert_allclose([bar.get_height() for bar in bars.patches], weight_reading.relative_norm_block)
    for axes, variable in ((norms, "relative_norm"), (ranks, "effective_rank")):
        cells = axes.images[0].get_array()
        assert np.ma.getmaskarray(cells).sum() == 1 and np.ma.getmaskarray(cells)[1, 2]  # the untouched projection
        expected = weight_reading[variable].values.T
        np.testing.assert_allclose(cells[~cells.mask], expected[~cells.mask])
        assert axes.images[0].get_clim()[0] == 0
    names = [label.get_text() for label in norms.get_yticklabels()]
    assert names == weight_reading.projection.values.tolist()


def test_changes_stand_beside_each_other_in_one_scale(weight_reading):
    half = weight_reading.assign(relative_norm=weight_reading.relative_norm / 2)
    figure = draw.weights({"finetune": weight_reading, "ft_l": half})
    assert [axes.get_title() for axes in figure.axes[:2]] == ["fine-tuning", "FT-L"]
    assert len({axes.images[0].get_clim() for axes in figure.axes[2:4]}) == 1


def test_lines_are_means_of_drift_and_cosine_and_the_cka(drift_reading):
    other = drift_reading * 0.5
    size, direction, cka = draw.drift({"finetune": drift_reading, "ft_l": other}, level=0.9).axes
    for axes, variable in ((size, "drift"), (direction, "cosine")):
        np.testing.assert_allclose(lines(axes)["FT-L"].get_ydata(), other[variable].values.mean(0))
    np.testing.assert_allclose(lines(cka)["fine-tuning"].get_ydata(), drift_reading.cka)
    values = drift_reading.drift.values
    low, high = stats.t.interval(0.9, 6, values.mean(0), stats.sem(values))
    corners = size.collections[0].get_paths()[0].vertices
    for layer in range(1, 13):
        at = corners[np.isclose(corners[:, 0], layer), 1]
        np.testing.assert_allclose([at.min(), at.max()], [low[layer], high[layer]])


def test_without_a_cka_there_are_two_panels(drift_reading):
    assert len(draw.drift(drift_reading.drop_vars("cka")).axes) == 2
    few = drift_reading.assign(cka=drift_reading.cka * np.nan)
    assert len(draw.drift(few).axes) == 2


def test_the_mean_cosine_and_the_facts_that_are_named(cosine_reading, words):
    fact = str(cosine_reading.fact.values[3])
    figure = draw.cosine(cosine_reading, facts=fact)
    (axes,) = figure.axes
    np.testing.assert_allclose(lines(axes)["mean (n = 7)"].get_ydata(), cosine_reading.cosine.values.mean(0))
    single = lines(axes)[fact.replace("$", "\\$")]
    np.testing.assert_allclose(single.get_ydata(), cosine_reading.cosine.sel(fact=fact))
    assert axes.get_ylim() == (-1.05, 1.05) and axes.get_xlim()[0] < 0
    assert "n = 7: mean" in words(figure)


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("weights", lambda reading: reading.drop_vars("effective_rank"), "needs effective_rank"),
        ("weights", lambda reading: reading * np.nan, "no weight changed"),
        ("weights", lambda reading: {}, "no change to draw"),
        ("weights", lambda reading: [reading], "or several by name"),
        ("weights", lambda reading: {"a": reading, "b": reading.isel(projection=[0])}, "same projections"),
        ("weights", lambda reading: {"finetune": reading, "fine-tuning": reading}, "one name"),
        ("drift", lambda reading: reading.drop_vars("cosine"), "needs cosine"),
        ("drift", lambda reading: reading.isel(fact=slice(0, 0)), "no fact"),
        ("drift", lambda reading: {str(i): reading for i in range(8)}, "tells 7 changes apart"),
        ("cosine", lambda reading: reading.isel(layer=0), "Keep the dimension layer"),
        ("cosine", lambda reading: None, "takes a reading"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(request, name, spoil, said):
    reading = request.getfixturevalue({"weights": "weight_reading"}.get(name, f"{name}_reading"))
    with pytest.raises(ReadingError, match=said):
        getattr(draw, name)(spoil(reading))


def test_a_fact_that_is_not_there_is_refused_by_name(cosine_reading):
    with pytest.raises(ReadingError, match="no fact Nobody"):
        draw.cosine(cosine_reading, facts=["Nobody"])
    with pytest.raises(ReadingError, match="up to 5"):
        draw.cosine(cosine_reading, facts=cosine_reading.fact.values.tolist()[:6])
