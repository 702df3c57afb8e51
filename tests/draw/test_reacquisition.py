import numpy as np
import pytest

from mechmask import draw
from mechmask.errors import ReadingError


def labelled(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def test_curves_rise_as_facts_are_recalled(reacquired):
    recall, found = reacquired
    lines = labelled(draw.reacquisition(recall, found).axes[0])
    for name, label in (
        ("old_masked", "old value, masked (n = 12, 1 censored)"),
        ("old_fresh", "old value, fresh base (n = 12"),
    ):
        (line,) = [line for text, line in lines.items() if text.startswith(label)]
        np.testing.assert_allclose(line.get_ydata(), 1 - recall.survival.sel(arm=name))
        assert line.get_drawstyle() == "steps-post"
    assert "0.9 of the facts" in lines


def test_every_known_difference_is_a_point_of_its_kind(reacquired):
    recall, found = reacquired
    lines = labelled(draw.reacquisition(recall, found).axes[1])
    known = found.difference.values[~np.isnan(found.difference.values)]
    kinds = {
        "old value first": known[known > 0],
        "third value first": known[known < 0],
        "at the same step": known[known == 0],
    }
    for name, wanted in kinds.items():
        (line,) = [line for label, line in lines.items() if label.startswith(name)]
        np.testing.assert_array_equal(np.sort(line.get_xdata()), np.sort(wanted))
    (bounded,) = [line for label, line in lines.items() if label.startswith("censored in one")]
    assert len(bounded.get_xdata()) == int(found.n_bounded) > 0


def test_facts_in_neither_arm_are_counted(reacquired, words):
    recall, found = reacquired
    assert int(found.n_censored_in_both) == 1
    assert "1 fact recalled in neither arm not drawn" in words(draw.reacquisition(recall, found))


def test_the_medians_stand_under_the_curves_within_the_budget(reacquired):
    recall, found = reacquired
    left = draw.reacquisition(recall, found).axes[0]
    below = [line.get_xdata()[0] for line in left.lines if len(line.get_xdata()) == 1 and line.get_ydata()[0] < 0]
    assert set(below) >= set(recall.median_steps.values[recall.median_steps.values <= 30])
    assert max(below) <= 30


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda recall, found: (recall.drop_vars("survival"), found), "needs survival"),
        (lambda recall, found: (recall.isel(arm=slice(0, 0)), found), "no arm|at least one"),
        (lambda recall, found: (recall, found.drop_vars("bounded")), "needs bounded"),
        (lambda recall, found: (recall, found.isel(fact=slice(0, 0))), "no fact"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(reacquired, spoil, said):
    with pytest.raises(ReadingError, match=said):
        draw.reacquisition(*spoil(*reacquired))
