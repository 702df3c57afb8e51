import numpy as np
import pytest

from mechmask.draw.colour import ANCHORS, SIGNED, scale_of
from mechmask.errors import ReadingError

LAYERS = np.arange(5)

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
DEFICIENT = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def lightness(linear):
    y = np.clip(linear, 0, 1) @ [0.2126, 0.7152, 0.0722]
    return np.where(y > 216 / 24389, 116 * np.cbrt(y) - 16, y * 24389 / 27)


def linear_rgb():
    shown = SIGNED(np.linspace(0, 1, 256))[:, :3]
    return np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)


def test_grey_print_keeps_the_order_and_the_sign():
    grey = lightness(linear_rgb())
    assert (np.diff(grey) > 0.1).all()
    assert grey[128] - grey[127] > 5 and grey[-1] - grey[0] > 75


@pytest.mark.parametrize("vision", DEFICIENT)
def test_any_colour_vision_keeps_the_order_and_the_sign(vision):
    seen = lightness(linear_rgb() @ np.array(DEFICIENT[vision]).T)
    assert (np.diff(seen) > 0).all() and seen[191] - seen[128] > 8
    assert seen[128] - seen[127] > 5


def test_zero_and_above_have_another_colour_than_below():
    below, at, above = (np.array(SIGNED(0.5 + x)[:3]) for x in (-1e-3, 0, 1e-3))
    assert np.abs(at - above).max() < 0.02 < np.abs(at - below).max()
    assert [place for place, _ in ANCHORS] == sorted(place for place, _ in ANCHORS)


def test_nothing_is_cut_where_values_lie_together():
    values = np.linspace(-3, 2, 100).reshape(20, 5)
    scale = scale_of(values, LAYERS + 1, "It")
    assert scale.limit == 3 and scale.extend == "neither" and scale.note == ""


@pytest.mark.parametrize(("far", "extend"), [((-90,), "min"), ((80,), "max"), ((-90, 80), "both"), ((np.inf,), "max")])
def test_what_lies_far_out_is_cut_and_said(far, extend):
    values = np.random.default_rng(0).uniform(-1, 1, (100, 5))
    values.flat[: len(far)] = far
    scale = scale_of(values, LAYERS + 1, "It")
    finite = values[np.isfinite(values)]
    n_cut = int((np.abs(values) > scale.limit).sum())
    if np.isinf(far[0]):
        assert scale.limit == np.abs(finite).max() and "1 of them infinite" in scale.note
    else:
        assert np.isclose(scale.limit, np.percentile(np.abs(finite), 98)) and n_cut >= 10
        extend = "both"  # some of the ordinary values lie beyond the percentile too
    assert scale.extend == extend and f"{n_cut} of 500 values lie beyond" in scale.note
    assert f"{scale.limit:.1f} nats" in scale.note and "-" not in scale.note


def test_the_embedding_does_not_rule():
    values = np.ones((4, 5))
    values[:, 0] = -50
    scale = scale_of(values, LAYERS, "It")
    assert scale.limit == 1 and (scale.n_below, scale.n_above, scale.lowest) == (4, 0, -50)
    assert scale_of(values[:, :1], LAYERS[:1], "It").limit == 50


def test_nothing_finite_is_refused_and_zeros_are_not():
    with pytest.raises(ReadingError, match="It has no finite value"):
        scale_of(np.full((2, 5), np.nan), LAYERS, "It")
    assert scale_of(np.zeros((2, 5)), LAYERS, "It").limit == 1
