"""The contrast figure: its marks are the results, its words say who is compared and who is missing."""

from __future__ import annotations

import numpy as np
import pytest

from mechmask import draw
from mechmask.errors import ReadingError

LABELS = {"matched": "new leads by the same margin", "driven_on": "all steps of each way taken"}


def marks(axes):
    return {line.get_label(): line for line in axes.lines}


def test_the_marks_are_the_results(contrast_results):
    auroc, rebound = contrast_results
    first, *others = draw.contrast(auroc, rebound).axes
    for dose, label in LABELS.items():
        told = auroc.auroc.sel(dose=dose, of="change", edited="any", tuned="any")
        np.testing.assert_allclose(marks(first)[label].get_xdata(), told)
        for panel, asked in zip(others, ("probes", "letter", "text"), strict=True):
            np.testing.assert_allclose(marks(panel)[label].get_xdata(), rebound.share.sel(dose=dose, asked=asked))
    controls = marks(others[0])["controls, same margin"].get_xdata()
    np.testing.assert_allclose(controls, rebound.control_share.sel(dose="matched", asked="probes"))
    assert [tick.get_text() for tick in others[0].get_yticklabels()] == ["before", "lora", "full", "FT", "FT-L"]


def test_the_bars_are_the_intervals(contrast_results):
    auroc, rebound = contrast_results
    bars = draw.contrast(auroc, rebound).axes[1].collections[0].get_segments()
    found = rebound.sel(dose="matched", asked="probes")
    assert [(bar[0, 0], bar[1, 0]) for bar in bars] == list(
        zip(found.share_low.values, found.share_high.values, strict=True)
    )


def test_a_way_without_an_estimate_has_no_mark(contrast_results):
    auroc, rebound = contrast_results
    empty = rebound.where(rebound.way != "full").assign(n=rebound.n.where(rebound.way != "full", 0))
    panel = draw.contrast(auroc, empty).axes[1]
    assert np.isnan(marks(panel)[LABELS["matched"]].get_xdata()[2]) and len(panel.collections[0].get_segments()) == 4


def test_the_legend_says_who_is_compared_and_who_is_missing(contrast_results, words, legend_is_clear):
    figure = draw.contrast(*contrast_results)
    said = " ".join(words(figure).split())
    assert "95% intervals" in said and "7 matched, 7 driven on" in said
    assert "the margin was reached by full on 7 of 8" in said
    assert legend_is_clear(figure)


def test_other_results_are_refused(contrast_results):
    auroc, rebound = contrast_results
    with pytest.raises(ReadingError, match="auroc"):
        draw.contrast(auroc.drop_vars("auroc"), rebound)
    with pytest.raises(ReadingError, match="share"):
        draw.contrast(auroc, rebound.isel(asked=0))
