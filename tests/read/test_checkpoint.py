"""``read_logits_and_depth`` against the two readings that it takes the place of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

import mechmask as mm
from mechmask.errors import ReadingError
from mechmask.read.backends.nnsight import NnsightBackend
from mechmask.read.backends.transformer_lens import BridgeBackend
from mechmask.read.checkpoint import read_logits_and_depth

NAMED = ("fingerprint", "model", "score", "lens", "backend", "schema_version")


def equal(one, other):
    assert set(one.variables) == set(other.variables)
    assert one.sizes == other.sizes
    for name in other.variables:
        if other[name].dtype.kind == "f":
            np.testing.assert_allclose(one[name], other[name], atol=1e-5, rtol=0, err_msg=str(name))
        else:
            np.testing.assert_array_equal(one[name], other[name], err_msg=str(name))
        assert one[name].attrs == other[name].attrs
    assert {name: one.attrs.get(name) for name in NAMED} == {name: other.attrs.get(name) for name in NAMED}
    assert one.attrs["check_error_nats"] < 1e-4


def test_both_readings_of_every_family_are_those_of_passes_of_their_own(tiny, family, awkward):
    model = tiny(family)
    deeper = [awkward[4], awkward[1], awkward[3]]
    output, depth = read_logits_and_depth(model, awkward, depth_facts=deeper)
    equal(output, mm.read_logits(model, awkward))
    equal(depth, mm.read_depth(model, deeper))


@pytest.mark.parametrize("score", ["sequence", "mean", "divergence"])
@pytest.mark.parametrize("depth_score", ["sequence", "mean", "divergence"])
def test_every_pair_of_scores(taught, awkward, score, depth_score):
    output, depth = read_logits_and_depth(taught, awkward, score=score, depth_score=depth_score)
    equal(output, mm.read_logits(taught, awkward, score))
    equal(depth, mm.read_depth(taught, awkward, score=depth_score))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_rows_of_their_own_and_batches_without_a_deeper_fact(tiny, family, awkward, batch_size):
    model = tiny(family, sliding_window=8)
    output, depth = read_logits_and_depth(model, awkward, depth_facts=awkward[2:3], batch_size=batch_size)
    equal(output, mm.read_logits(model, awkward))
    equal(depth, mm.read_depth(model, awkward[2:3]))


def test_a_state_by_nnsight_through_a_lens(tiny, awkward):
    model = tiny("llama")

    class Halved:
        name = "halved"

        def transport(self, residual, layer):
            return residual if layer == model.n_layers else residual / 2

    config = mm.FinetuneConfig(steps=2, lr=2e-2, rank=2)
    state = mm.finetune(model, awkward.install_examples(), config).on(model)
    output, depth = read_logits_and_depth(state, awkward, lens=Halved(), backend="nnsight")
    equal(output, mm.read_logits(state, awkward))
    equal(depth, mm.read_depth(state, awkward, lens=Halved(), backend="nnsight"))
    assert output.attrs["model"] == depth.attrs["model"] == state.name
    assert abs(output.logprob - mm.read_logits(model, awkward).logprob).max() > 0.01


def test_the_module_runs_once_a_batch_and_once_for_the_check(tiny, awkward):
    model = tiny("llama")
    read_logits_and_depth(model, awkward)  # makes the bridge
    runs = []
    forward = type(model.module.model.layers[0]).forward

    def counted(self, *args, **kwargs):
        runs.append(1)
        return forward(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.module.model.layers[0]), "forward", counted)
        read_logits_and_depth(model, awkward)
    assert len(runs) == 2 * model.n_layers


def test_generation_goes_on_from_it(taught, facts):
    output, _ = read_logits_and_depth(taught, facts, depth_facts=facts[:2])
    xr.testing.assert_identical(mm.generate(taught, facts, reading=output), mm.generate(taught, facts))


def test_generation_of_every_family_is_that_of_passes_of_its_own(tiny, family, awkward):
    model = tiny(family)
    longer = [fact.model_copy(update={"old": f"{fact.old} and {fact.old} or {fact.old}"}) for fact in awkward]
    output, _ = read_logits_and_depth(model, longer, depth_facts=longer[1:2], generation=True, batch_size=3)
    said = mm.generate(model, longer)
    xr.testing.assert_identical(output.generation.reset_coords(drop=True), said)


class _OwnInputs:
    """A backend that runs the model by inputs of its own, as one would that runs elsewhere."""

    name = "own"

    def __init__(self, model):
        self._backend = BridgeBackend(model)

    def residuals(self, batch):
        return self._backend.residuals(replace(batch, past=None))


def _remote(model):
    return NnsightBackend(model, "local")


@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight", _remote, _OwnInputs])
@pytest.mark.parametrize("score", ["sequence", "divergence"])
def test_generation_by_every_backend_and_score(tiny, awkward, backend, score):
    model = tiny("llama")
    longer = [fact.model_copy(update={"old": f"{fact.old} and {fact.old}"}) for fact in awkward]
    chosen = backend if isinstance(backend, str) else backend(model)
    output, _ = read_logits_and_depth(model, longer, score=score, backend=chosen, generation=True)
    xr.testing.assert_identical(output.generation.reset_coords(drop=True), mm.generate(model, longer))


def test_no_prompt_is_read_again_for_the_generation(tiny, awkward):
    model = tiny("llama")
    longer = [fact.model_copy(update={"old": f"{fact.old} and {fact.old}"}) for fact in awkward]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mechmask.read.checkpoint.greedy", None)
        read_logits_and_depth(model, longer, depth_facts=longer[:1], generation=True, batch_size=2)


def test_facts_that_are_not_read_at_the_output_are_refused(tiny, awkward):
    model = tiny("llama")
    with pytest.raises(ReadingError, match="is not among the facts"):
        read_logits_and_depth(model, awkward[:2], depth_facts=awkward[2:])
    altered = awkward[1].model_copy(update={"old": "Lyon"})
    with pytest.raises(ReadingError, match="unchanged"):
        read_logits_and_depth(model, awkward, depth_facts=[altered])
    with pytest.raises(ReadingError, match="depth_score='sum' is not known"):
        read_logits_and_depth(model, awkward, depth_score="sum")
