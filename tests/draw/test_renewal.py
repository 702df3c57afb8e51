import numpy as np
import pytest

from mechmask import draw
from mechmask.errors import ReadingError


def test_every_fact_is_a_point_of_its_group_and_every_mean_has_its_interval(renewal_result):
    figure = draw.renewal(renewal_result)
    for panel, quantity in zip(figure.axes, ("margin", "standing"), strict=True):
        of_quantity = renewal_result.sel(quantity=quantity, asked="prompt")
        clouds = [line for line in panel.lines if line.get_marker() in ("o", "v")]
        for row, order in enumerate(of_quantity.order.values):
            one = of_quantity.sel(order=order)
            for cloud, is_never in zip(clouds[2 * row : 2 * row + 2], (False, True), strict=True):
                wanted = one.regained.values[one.excess.isnull().values == is_never]
                np.testing.assert_array_equal(cloud.get_xdata(), wanted)
                assert (abs(cloud.get_ydata() - row) < 0.5).all()
        bars = [segment[:, 0].tolist() for part in panel.collections for segment in part.get_segments()]
        assert [float(of_quantity["never_low"][0]), float(of_quantity["never_high"][0])] in bars


def test_the_rows_count_the_facts_above_never(renewal_result):
    labels = [label.get_text() for label in draw.renewal(renewal_result).axes[0].get_yticklabels()]
    n = renewal_result.n_positive.sel(quantity="margin", asked="prompt").values
    assert labels == [
        f"{order}\n{k} of 8 facts\nabove never" for order, k in zip(("ABA", "ABC", "AAB"), n, strict=True)
    ]


def test_other_phrasings_can_be_drawn(renewal_result):
    prompt, held_out = (draw.renewal(renewal_result, asked).axes[0] for asked in ("prompt", "held_out"))
    assert not np.array_equal(prompt.lines[1].get_xdata(), held_out.lines[1].get_xdata())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda result: result.drop_vars("never_low"), "needs never_low"),
        (lambda result: result.isel(fact=slice(0, 0)), "no fact"),
        (lambda result: result.sel(asked=["held_out"]), "nothing was asked by 'prompt'"),
        (lambda result: result.sel(quantity=["margin"]), "standing is missing"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(renewal_result, spoil, said):
    with pytest.raises(ReadingError, match=said):
        draw.renewal(spoil(renewal_result))
