"""A lens by name or as an object, and what read_depth reads through a tuned lens, by plain hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import mechmask as mm
from mechmask.errors import ReadingError
from mechmask.read.lenses.lens import lens_of


def logprobs_by(model, fact, route, transform):
    """[layer] of the first token of a one-token contest, by plain hooks."""
    seen, blocks = [], model.anatomy.blocks
    first = lambda value: value[0] if isinstance(value, tuple) else value  # noqa: E731
    handles = [blocks[0].register_forward_pre_hook(lambda m, a, k: seen.append(first(a)), with_kwargs=True)]
    handles += [block.register_forward_hook(lambda m, a, out: seen.append(first(out))) for block in blocks]
    prompt = model.tokenizer(fact.prompt).input_ids
    token = model.tokenizer(f"{fact.prompt} {fact.values[route]}").input_ids[len(prompt)]
    with torch.no_grad():
        model.module(torch.tensor([prompt]))
        for handle in handles:
            handle.remove()
        last = [transform(residual[0, -1:], layer) for layer, residual in enumerate(seen)]
        head = model.module.get_output_embeddings()
        cap = getattr(model.module.config, "final_logit_softcapping", None)
        logits = [head(model.anatomy.final_norm(h)) for h in last]
        logits = [cap * torch.tanh(z / cap) if cap else z for z in logits]
    return [z.log_softmax(-1)[0, token].item() for z in logits]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_read_depth_through_a_tuned_lens_is_what_the_formula_says(tiny, plain_lens, facts, family):
    """``h + A h + b`` by plain hooks; one made by tuned-lens itself, and the same one loaded here."""
    model = tiny(family)
    fact = next(f for f in facts if f.subject == "France")
    plain = plain_lens(model)
    state = plain.layer_translators.state_dict()

    def transform(h, layer):
        if layer == model.n_layers:
            return h
        return h + h @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]

    reading = mm.read_depth(model, [fact], lens=plain)
    assert reading.attrs["lens"] == "tuned" and reading.attrs["lens_unembedding_matches"] == 1
    for route in ("old", "new"):
        np.testing.assert_allclose(
            reading.logprob.sel(route=route)[0], logprobs_by(model, fact, route, transform), atol=1e-4
        )
    logit = mm.read_depth(model, [fact])
    assert abs(reading.logprob - logit.logprob).isel(layer=0).max() > 0.01
    xr.testing.assert_equal(reading.logprob.isel(layer=-1), logit.logprob.isel(layer=-1))


def test_what_is_no_lens_is_refused(tiny):
    model = tiny("llama")
    with pytest.raises(ReadingError, match="no lens 'jacobian'"):
        lens_of("jacobian", model)
    with pytest.raises(ReadingError, match="A Linear is not a lens"):
        lens_of(torch.nn.Linear(2, 2), model)
