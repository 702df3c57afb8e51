"""The linear probe of a model against the residual stream as plain transformers gives it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mechmask import assign_roles, known_facts, read_linear_probe, synthetic_facts, world_facts
from mechmask.errors import ReadingError
from mechmask.measure.linear_probe import linear_probe


@pytest.fixture(scope="module")
def facts():
    return synthetic_facts(4, seed=3, n_never=0, distractors=3)


def values_of(facts):
    return np.array([[value for name, value in fact.values.items() if name != "new"] for fact in facts])


def by_hand(model, facts, layer, phrasing=0):
    """Hidden states of every prompt and value by itself, at its last token, block by block."""
    rows = []
    for fact in facts:
        texts = [f"{fact.phrasings[phrasing]} {value}" for name, value in fact.values.items() if name != "new"]
        ids = [model.tokenizer(text, return_tensors="pt").input_ids for text in texts]
        with torch.no_grad():
            rows.append([model.module(i, output_hidden_states=True).hidden_states[layer][0, -1].numpy() for i in ids])
    return np.array(rows, dtype=float)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_against_plain_hidden_states(tiny, facts, family):
    model = tiny(family)
    found = read_linear_probe(model, facts)
    assert found.probe.dims == ("fact", "layer") and found.sizes["layer"] == model.n_layers + 1
    for layer in range(model.n_layers):  # the last hidden state is behind the final norm
        expected = linear_probe(by_hand(model, facts, layer), np.arange(len(facts)), values_of(facts))
        np.testing.assert_allclose(found.probe.isel(layer=layer), expected, atol=2e-4)


def test_phrasings_are_learned_from_together(tiny, facts):
    model = tiny("llama")
    features = np.concatenate([by_hand(model, facts, 1, phrasing) for phrasing in range(len(facts[0].phrasings))])
    about = np.tile(np.arange(len(facts)), len(facts[0].phrasings))
    values = np.tile(values_of(facts), (len(facts[0].phrasings), 1))
    expected = linear_probe(features, about, values).reshape(-1, len(facts)).mean(0)
    found = read_linear_probe(model, facts, phrasings="all", batch_size=3)
    np.testing.assert_allclose(found.probe.sel(layer=1), expected, atol=2e-4)


def test_a_real_model_holds_capitals_that_it_knows_and_none_of_invented_countries(smol):
    """The probe that finds the known values fails on pseudo-subjects in the same prompts with the same values."""
    known = known_facts(smol, world_facts(relations=["capital"], distractors=4))
    facts = assign_roles(known, n_contradicted=12, n_control=0, n_never=12)
    of_role = {role: facts.select(f.id for f in facts if f.role == role) for role in ("contradicted", "never")}
    probes = {role: read_linear_probe(smol, part, phrasings="all").probe for role, part in of_role.items()}
    upper = {role: probe.isel(layer=slice(10, None)).mean("layer").values for role, probe in probes.items()}
    assert np.median(upper["contradicted"]) > 0.4
    assert np.abs(np.median(upper["never"])) < 0.2
    assert np.mean(upper["contradicted"][:, None] > upper["never"][None]) > 0.95
    early = probes["contradicted"].isel(layer=1)  # a value's own embedding says nothing of the country
    assert abs(float(early.mean())) < 0.2


def test_without_distractors_there_is_nothing_to_tell_apart(tiny, facts):
    bare = [fact.model_copy(update={"distractors": ()}) for fact in facts]
    with pytest.raises(ReadingError, match="has none"):
        read_linear_probe(tiny("llama"), bare)
    with pytest.raises(ReadingError, match="at least two facts"):
        read_linear_probe(tiny("llama"), facts[:1])
