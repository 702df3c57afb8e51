"""Probes against plain transformers, and what a fact without paraphrases has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mechmask as mm
from mechmask.errors import FactError


def logprob(model, prompt, value):
    """Of a value after a prompt, by plain transformers."""
    n = len(model.tokenizer(prompt).input_ids)
    ids = torch.tensor([model.tokenizer(f"{prompt} {value}").input_ids])
    with torch.no_grad():
        predicted = model.module(ids).logits[0, n - 1 : -1].double().log_softmax(-1)
    return float(predicted.gather(1, ids[0, n:, None]).sum())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_probes_are_those_of_plain_transformers(tiny, facts, family):
    model = tiny(family)
    some = facts.select(["France/capital", "Karl Benz/born", facts[0].id])
    reading = mm.read_probes(model, some)
    assert reading.logprob.dims == ("fact", "probe", "route") and reading.route.values.tolist() == ["old", "new"]
    for fact in some:
        for name, prompt in mm.probes(fact).items():
            found = reading.logprob.sel(fact=fact.id, probe=name)
            expected = [logprob(model, prompt, value) for value in (fact.old, fact.new)]
            np.testing.assert_allclose(found, expected, atol=1e-3)
            assert float(reading.margin.sel(fact=fact.id, probe=name)) == pytest.approx(
                expected[1] - expected[0], abs=2e-3
            )


def test_where_a_fact_has_no_such_paraphrase_nothing_is_read(tiny, facts):
    reading = mm.read_probes(tiny("llama"), facts.select(["France/capital", facts[0].id]))
    assert reading.margin.sel(fact="France/capital", probe="paraphrase_2").isnull()
    assert reading.margin.sel(fact=facts[0].id).notnull().all()


def test_a_fact_that_is_none_is_refused(tiny):
    with pytest.raises(FactError, match="does not occur"):
        mm.read_probes(tiny("llama"), [{"subject": "x", "prompt": "y is", "old": "a", "new": "b"}])


def test_batch_size_changes_nothing(tiny, facts):
    one, many = (mm.read_probes(tiny("llama"), facts, batch_size=n) for n in (1, 64))
    np.testing.assert_allclose(one.logprob, many.logprob, atol=1e-4)
