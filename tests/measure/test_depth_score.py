"""Unlearning Depth Score against the published sum, written as loops."""

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mechmask.errors import ReadingError
from mechmask.measure.depth_score import depth_score, lens_depth_score

_SMALL = settings(max_examples=100, deadline=None, database=None, derandomize=True)
_ATTRS = {"fingerprint_target": "f", "positions": "divergence", "score": "divergence"}


def patching(old_drop, full=-1.0, **attrs):
    """A patching in which old loses ``old_drop [fact, layer]`` of ``full``; the other routes are noise."""
    drop = np.asarray(old_drop, dtype=float)
    rng = np.random.default_rng(0)
    logprob = rng.normal(size=(len(drop), 3, drop.shape[1]))
    logprob[:, 1] = full - drop
    target = rng.normal(size=(len(drop), 3))
    target[:, 1] = full
    return xr.Dataset(
        {"logprob": (("fact", "route", "layer"), logprob), "logprob_target": (("fact", "route"), target)},
        {
            "fact": [f"f{i}" for i in range(len(drop))],
            "route": ["new", "old", "distractor_0"],
            "layer": np.arange(drop.shape[1]),
        },
        attrs={**_ATTRS, **attrs},
    )


def published(reference, change, tau):
    """One fact; layers are those of blocks, so the first entry is left out."""
    above = below = raw = 0.0
    n = 0
    for d1, d2 in list(zip(reference, change, strict=True))[1:]:
        if d1 > tau:
            n += 1
            above += d1 * min(max(d2 / d1, 0.0), 1.0)
            raw += d1 * (d2 / d1)
            below += d1
    return (above / below, raw / below, n) if n else (math.nan, math.nan, 0)


def test_by_hand():
    # KE layers are 2 and 3: (2 * 0.5 + 6 * 1) / 8; unclipped (1 + 12) / 8. Layer 1 is below tau, layer 0 no block's.
    found = depth_score(patching([[9, 0.04, 2, 6]]), patching([[9, 5, 1, 12]]))
    assert found.score.item() == pytest.approx(7 / 8)
    assert found.unclipped.item() == pytest.approx(13 / 8)
    assert found.n_layers.item() == 2
    assert found.attrs["tau_nats"] == 0.05


def test_the_ends_of_the_scale():
    reference = [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    change = [[0, 0, 0, 0], [0, 1, 2, 3], [0, 3, 6, 9], [0, -1, -2, -3]]
    found = depth_score(patching(reference), patching(change))
    np.testing.assert_allclose(found.score, [0, 1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(found.unclipped, [0, 1, 3, -1], atol=1e-12)


def test_no_layer_encodes_the_value():
    found = depth_score(patching([[0, 0.05, -3], [9, 0, 0]], full=0), patching([[0, 1, 1], [9, 9, 9]], full=0))
    assert np.isnan(found.score).all()
    assert np.isnan(found.unclipped).all()
    np.testing.assert_array_equal(found.n_layers, 0)


@_SMALL
@given(
    hnp.arrays(float, (2, 4, 6), elements=st.floats(-5, 5, allow_nan=False, width=32)), st.sampled_from([0, 0.05, 1])
)
def test_the_published_sum(drops, tau):
    found = depth_score(patching(drops[0], full=-2.5), patching(drops[1], full=-2.5), tau)
    # the drop as it is after the subtraction in floating point
    seen = [-2.5 - (-2.5 - drop) for drop in drops]
    naive = np.array([published(r, c, tau) for r, c in zip(*seen, strict=True)])
    np.testing.assert_allclose(found.score, naive[:, 0], atol=1e-9)
    np.testing.assert_allclose(found.unclipped, naive[:, 1], atol=1e-6, rtol=1e-9)
    np.testing.assert_array_equal(found.n_layers, naive[:, 2])
    assert found.score.dims == ("fact",)


def test_patchings_that_do_not_fit():
    good = patching([[0, 1, 2]])
    for other, cause in (
        (patching([[0, 1, 2], [0, 1, 2]]), "reference and change are not of the same facts"),
        (patching([[0, 1]]), "not of the same layers"),
        (patching([[0, 1, 2]], score="mean"), r"differ in score \(divergence and mean\)"),
        (patching([[0, 1, 2]], fingerprint_target="g"), r"differ in fingerprint_target \(f and g\)"),
        (patching([[0, 1, 2]], positions="all"), r"differ in positions \(divergence and all\)"),
        (good.isel(layer=[1, 2]), "needs every layer from 0 to L"),
        (good.drop_sel(route="old"), "needs the route old"),
        (good.drop_vars("logprob_target"), "needs logprob_target"),
    ):
        with pytest.raises(ReadingError, match=cause):
            depth_score(good, other)
    named = [good.assign_coords(value=(("fact", "route"), [["Rome", old, "Bonn"]])) for old in ("Paris", "Lyon")]
    with pytest.raises(ReadingError, match=r"differ in value \(fact f0, route old: 'Paris' and 'Lyon'\)"):
        depth_score(*named)
    for tau in (-0.1, math.nan):
        with pytest.raises(ReadingError, match="is not a threshold"):
            depth_score(good, good, tau)
    with pytest.raises(ReadingError, match="takes a reading"):
        depth_score(good, good.logprob)


def by_lens(old, **attrs):
    """A reading by a lens of ``old [fact, layer]``; the other routes are noise."""
    reading = patching(-np.asarray(old, dtype=float), full=0.0, **{"lens": "logit", **attrs})
    return reading.drop_vars("logprob_target")


@_SMALL
@given(
    hnp.arrays(float, (3, 4, 6), elements=st.floats(-5, 5, allow_nan=False, width=32)), st.sampled_from([0, 0.05, 1])
)
def test_the_published_sum_by_a_lens(old, tau):
    full, reference, changed = old
    found = lens_depth_score(by_lens(full), by_lens(reference), by_lens(changed), tau)
    expected = [published(f - r, f - c, tau) for f, r, c in zip(full, reference, changed, strict=True)]
    np.testing.assert_allclose(found.score, [e[0] for e in expected], atol=1e-9)
    np.testing.assert_array_equal(found.n_layers, [e[2] for e in expected])


def test_readings_by_two_lenses_are_refused():
    old = [[0, 1, 2]]
    with pytest.raises(ReadingError, match="lens"):
        lens_depth_score(by_lens(old), by_lens(old), by_lens(old, lens="tuned"))
    with pytest.raises(ReadingError, match="threshold"):
        lens_depth_score(by_lens(old), by_lens(old), by_lens(old), tau=-1)
    with pytest.raises(ReadingError, match="route old"):
        lens_depth_score(by_lens(old), by_lens(old).drop_sel(route="old"), by_lens(old))
