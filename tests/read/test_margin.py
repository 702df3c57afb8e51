"""``read_margin`` against ``read_depth``, whose whole vocabulary it does not touch, and against plain transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mechmask as mm
from mechmask.errors import ReadingError
from mechmask.read.margin import read_margin


def test_the_same_margin_at_every_layer_of_every_family(tiny, family, facts):
    model = tiny(family)
    short, whole = read_margin(model, facts), mm.read_depth(model, facts)
    assert short.margin.dims == ("fact", "layer")
    np.testing.assert_allclose(short.margin, whole.margin, atol=1e-4)
    assert short.attrs["check_error_nats"] < 1e-4
    assert {"model", "fingerprint", "lens", "backend"} <= set(short.attrs)


@torch.no_grad()
def test_the_last_layer_is_the_models_own_logits(tiny, facts, plain):
    model = tiny("gemma2")  # has a final softcap
    oracle = plain(model)
    for fact, margin in zip(facts, read_margin(model, facts).margin[:, -1].values, strict=True):
        n = oracle.diverging(fact)
        old, new = (oracle.value_ids(fact, route) for route in ("old", "new"))
        ids = torch.tensor([oracle.ids(fact.prompt) + old[:n]])
        logits = model.module(ids).logits[0, -1]
        assert margin == pytest.approx((logits[new[n]] - logits[old[n]]).item(), abs=1e-4)


def test_phrasings_are_read_too(tiny, facts):
    model = tiny("llama")
    short = read_margin(model, facts, phrasings="all", batch_size=3)
    np.testing.assert_allclose(short.margin, mm.read_depth(model, facts, phrasings="all").margin, atol=1e-4)


def test_a_lens_of_ones_own_is_asked(tiny, facts):
    class Twice:
        name = "twice"

        def transport(self, residual, layer):
            return residual if layer == 3 else residual * 2 + 1

    model = tiny("gpt2")
    short, whole = read_margin(model, facts, Twice()), mm.read_depth(model, facts, Twice())
    np.testing.assert_allclose(short.margin, whole.margin, atol=1e-4)
    assert short.attrs["lens"] == "twice"


def test_a_margin_that_is_not_the_models_own_is_refused(tiny, facts):
    class Shifted:
        name = "shifted"

        def transport(self, residual, layer):
            return residual + 0.5 * torch.linspace(-1, 1, residual.shape[-1])

    with pytest.raises(ReadingError, match="does not agree with the model's own output"):
        read_margin(tiny("llama"), facts, Shifted())


@pytest.mark.parametrize(("options", "said"), [({"lens": "x"}, "no lens"), ({"backend": "x"}, "no backend")])
def test_unknown_names_are_refused(tiny, facts, options, said):
    with pytest.raises(ReadingError, match=said):
        read_margin(tiny("llama"), facts, **options)
