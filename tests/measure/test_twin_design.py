"""What a study of twins is to read: its counts against real traces, its noise by hand, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.trace import twin_trace
from mechmask.measure.twin_design import Expected, TwinDesign


@pytest.mark.parametrize("replicates", [1, 3])
@pytest.mark.parametrize("twins", [2, 3, 4])
@pytest.mark.parametrize("never", [0, 5])
def test_counts_are_those_of_a_trace(twins, replicates, never):
    design = TwinDesign(facts=12, never=never, twins=twins, replicates=replicates)
    knew = np.zeros((twins * replicates, 12 + never), dtype=bool)
    knew[:, :12] = np.arange(12) % twins == np.arange(len(knew))[:, None] % twins
    values = np.random.default_rng(0).normal(size=(*knew.shape, 3))
    labels = {"fact": [f"f{i}" for i in range(12 + never)]}
    reading = xr.DataArray(values, labels | {"route": ["old", "new", "distractor_0"]}, ("twin", "fact", "route"))
    traces = twin_trace(reading, xr.DataArray(knew, labels, ("twin", "fact")))
    assert set(traces.n_knew.values) == {design.n_knew} and set(traces.n_never.values) == {design.n_never}
    assert int(traces.freedom) == design.freedom
    if design.freedom:
        ratio = traces.error / traces.noise
        np.testing.assert_allclose(ratio, Expected().error(design) / Expected().noise(design))


def test_the_noise_of_a_reading_by_hand():
    expected = Expected(noise_history=2.0, noise_phrasing=4.0, noise_distractor=6.0)
    assert expected.noise(TwinDesign(phrasings=4, distractors=9)) == pytest.approx(np.sqrt(4 + 4 + 4))
    assert expected.error(TwinDesign(phrasings=4, distractors=9, twins=3)) == pytest.approx(np.sqrt(12 * 1.5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TwinDesign(twins=1), "twins cannot be 1"),
        (lambda: TwinDesign(facts=0), "facts cannot be 0"),
        (lambda: TwinDesign(margin_share=1.0), "margin_share"),
        (lambda: TwinDesign(fact=3), "'fact' is not known"),
        (lambda: Expected(trace_before=0), "trace_before cannot be 0"),
        (lambda: Expected(spread=-1), "spread cannot be -1"),
        (lambda: Expected(noise_history=float("nan")), "noise_history"),
        (lambda: Expected(noise_history=0, noise_phrasing=0, noise_distractor=0), "Give a noise above 0"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make, message):
    with pytest.raises(ReadingError, match=message):
        make()
