"""All ways of asking in one reading: each part as it is read alone, nothing for never facts."""

from __future__ import annotations

import numpy as np
import pytest

import mechmask as mm
from mechmask.errors import ReadingError
from mechmask.read.asked import read_asked


def test_each_part_is_what_it_is_alone(tiny, facts):
    model, some = tiny("llama"), facts.select(["Łódź/mayor", "Karl Benz/born", "France/capital"])
    reading = read_asked(model, some)
    np.testing.assert_array_equal(reading.logprob, mm.read_logits(model, some, phrasings="all").logprob)
    told = some.select(["Karl Benz/born", "France/capital"])
    np.testing.assert_array_equal(reading.probe_margin.sel(fact=list(told.ids)), mm.read_probes(model, told).margin)
    np.testing.assert_array_equal(reading.choice_score.sel(fact=list(told.ids)), mm.read_choice(model, told).score)
    assert reading.probe_margin.sel(fact="Łódź/mayor").isnull().all()
    assert reading.fact.values.tolist() == list(some.ids)


def test_never_facts_alone_are_not_asked(tiny, facts):
    with pytest.raises(ReadingError, match="no fact to read"):
        read_asked(tiny("llama"), facts.never)
