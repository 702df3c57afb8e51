"""One dialect: every reading takes a state, alone or stacked, and facts in any form."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import xarray as xr

import mechmask as mm
from mechmask.errors import FactError, ReadingError
from mechmask.models.states import active
from mechmask.read.backends import backend_of
from mechmask.read.backends.nnsight import NnsightBackend
from mechmask.read.checkpoint import read_logits_and_depth

READINGS = {
    "read_logits": mm.read_logits,
    "read_logits of all phrasings": lambda m, f: mm.read_logits(m, f, "mean", phrasings="all"),
    "read_depth": mm.read_depth,
    "read_depth by nnsight": lambda m, f: mm.read_depth(m, f, backend="nnsight"),
    "read_margin": mm.read_margin,
    "attribute": lambda m, f: mm.attribute(m, f, unit="head"),
    "read_logits_and_depth": lambda m, f: read_logits_and_depth(m, f)[1],
}


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def adapter(model, facts):
    config = mm.FinetuneConfig(steps=3, lr=2e-2, rank=2)
    return mm.finetune(model, facts[:4].install_examples(), config)


@pytest.fixture(scope="module")
def edited(model, adapter, facts):
    """An edit upon the adapter."""
    with adapter.applied(model):
        edit = mm.edit(model, [facts[0]], "ft_l", mm.FTLConfig(layer=1, clamp=5e-2, lr=1e-2, steps=3))
    return edit.on(adapter.on(model))


@pytest.fixture(scope="module")
def few(awkward):
    return awkward[1:4]


@pytest.mark.parametrize("name", READINGS)
def test_a_state_reads_as_the_model_with_its_changes_applied(model, adapter, edited, few, name):
    read = READINGS[name]
    before, fingerprint = read(model, few), model.fingerprint
    for state, change in [(adapter.on(model), adapter), (edited, edited.change)]:
        reading = read(state, few)
        with active(state.model) as under, change.applied(under) as now:
            by_hand, changed = read(now, few), now.fingerprint
        xr.testing.assert_equal(reading, by_hand)
        assert reading.attrs["model"] == state.name
        assert reading.attrs["fingerprint"] == changed != fingerprint
        assert reading.attrs["base_model"] == model.name
        value = next(iter(reading.data_vars))
        assert abs(reading[value] - before[value]).max() > 1e-3
    assert "base_model" not in before.attrs
    assert model.fingerprint == fingerprint
    xr.testing.assert_equal(read(model, few), before)


def test_generation_knowledge_and_what_compares_two_models(model, adapter, edited, facts, few):
    state = adapter.on(model)
    with adapter.applied(model):
        by_hand = mm.generate(model, few, n_tokens=4)
    xr.testing.assert_identical(mm.generate(state, few, n_tokens=4), by_hand)
    assert not mm.generate(model, few, n_tokens=4).equals(by_hand)
    drift = mm.residual_drift(state, edited, few)
    assert drift.attrs["model_after"] == edited.name
    assert float(drift.drift.isel(layer=1).max()) == 0 < float(drift.drift.isel(layer=-1).max())
    cosine = mm.change_cosine(model, state, edited, few)
    assert float(cosine.cosine.isel(layer=-1).max()) <= 1 + 1e-9
    change = mm.weight_change(state, edited)
    assert int((change.relative_norm > 0).sum()) == 1
    patched = mm.patch_residual(edited, state, few, progress=False)
    np.testing.assert_allclose(patched.logprob_source, mm.read_logits(edited, few, "divergence").logprob, atol=2e-5)


def test_what_is_known_is_that_of_the_state(taught, facts):
    config = mm.FinetuneConfig(steps=20, lr=2e-2, rank=4)
    contradicted = facts.contradicted[:2]
    state = mm.finetune(taught, contradicted.contradiction_examples(), config).on(taught)
    assert set(mm.known_facts(taught, facts).ids) >= set(contradicted.ids)
    with pytest.raises(ReadingError, match=r"holds none of these 2 facts by 0\.1 nats"):
        mm.known_facts(state, contradicted)


@pytest.mark.parametrize("make", [lambda m: backend_of("transformer_lens", m), NnsightBackend])
def test_a_backend_made_before_a_change_sees_it(model, adapter, edited, few, make):
    """And no longer once it is taken off."""
    backend = make(model)
    before = mm.read_depth(model, few, backend=backend)
    for state in (adapter.on(model), edited):
        xr.testing.assert_allclose(mm.read_depth(state, few, backend=backend), mm.read_depth(state, few), atol=1e-4)
    xr.testing.assert_identical(mm.read_depth(model, few, backend=backend), before)


def test_a_backend_of_another_model_is_refused(tiny, model, adapter, few):
    backend = backend_of("transformer_lens", tiny("llama", seed=1))
    for read in (mm.read_depth, mm.read_margin, mm.attribute):
        with pytest.raises(ReadingError, match=r"another model .* backend='transformer_lens'"):
            read(adapter.on(model), few, backend=backend)


def test_facts_in_any_form(model, few, tmp_path):
    expected = mm.read_logits(model, few)
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join(json.dumps(fact.model_dump(mode="json")) for fact in few), encoding="utf-8")
    for facts in (list(few), [fact.model_dump() for fact in few], few.to_dataframe(), path, str(path)):
        xr.testing.assert_identical(mm.read_logits(model, facts), expected)
    assert mm.generate(model, path).equals(mm.generate(model, few))
    for read in (*READINGS.values(), mm.known_facts, lambda m, f: mm.residual_drift(m, m, f)):
        with pytest.raises(FactError, match=few[0].id):
            read(model, [few[0], few[0].model_copy(update={"old": "Lyon"})])


def test_a_thread_reads_no_change_of_another(model, adapter, few):
    """Readings of the base while another thread applies an adapter again and again."""
    expected = mm.read_logits(model, few)
    stop = threading.Event()

    def change_and_back():
        while not stop.is_set():
            with adapter.applied(model):
                mm.read_logits(model, few)

    thread = threading.Thread(target=change_and_back)
    thread.start()
    try:
        for _ in range(10):
            xr.testing.assert_identical(mm.read_logits(model, few), expected)
            assert mm.read_depth(model, few).attrs["fingerprint"] == expected.attrs["fingerprint"]
    finally:
        stop.set()
        thread.join()
