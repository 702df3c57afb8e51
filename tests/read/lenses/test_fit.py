"""Fitted lenses against numpy, autograd and plain hooks."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from mechmask.errors import ReadingError
from mechmask.models.corpora import text_corpus
from mechmask.read.lenses import fit
from mechmask.read.lenses.config import LensConfig, require_kind
from mechmask.read.lenses.divergence import Readout
from mechmask.read.lenses.fit import Tuning, fit_lens

SMALL = {"n_tokens": 3072, "steps": 30, "tokens_per_step": 128, "lr": 3e-3, "progress": False}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_step_is_that_of_adam_on_the_naive_loss(tiny, naive_kl, some_residuals, family):
    model = tiny(family)
    final, residual = some_residuals(model)
    torch.manual_seed(0)
    start = torch.nn.Linear(model.width, model.width)
    naive = copy.deepcopy(start)
    config = LensConfig(lr=1e-2, steps=10)
    tuning, readout = Tuning(1, start.requires_grad_(False), config), Readout(model.anatomy)
    optimizer = torch.optim.Adam(naive.parameters(), lr=1e-2)
    for step in range(4):
        tuning.step(readout, residual, readout.target(final))
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 10)
        optimizer.zero_grad()
        naive_kl(model, final, residual + naive(residual)).mean().backward()
        optimizer.step()
    np.testing.assert_allclose(tuning.linear.weight.detach(), naive.weight.detach(), atol=1e-4)
    np.testing.assert_allclose(tuning.linear.bias.detach(), naive.bias.detach(), atol=1e-4)
    assert abs(naive.weight - start.weight).max() > 1e-2
    assert all(p.grad is None or not p.requires_grad for p in start.parameters())


def test_patience_stops_a_layer_and_keeps_its_best():
    start = torch.nn.Linear(4, 4).requires_grad_(False)
    tuning = Tuning(0, start, LensConfig(patience=2))
    for kl, stopped in ((3.0, False), (2.0, False), (2.5, False)):
        tuning.checked(kl)
        assert tuning.stopped is stopped
        if kl == 2.0:
            best = tuning.linear.weight.detach().clone()
            with torch.no_grad():
                tuning.linear.weight.add_(1)
    tuning.checked(2.1)
    assert tuning.stopped and tuning.best_kl == 2.0
    assert torch.equal(tuning.best.weight, best)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_on_held_out_text_tuned_is_nearer_than_ridge_than_logit(tiny, some_residuals, family):
    model = tiny(family)
    before, modes = model.fingerprint, [child.training for child in model.module.modules()]
    state = torch.random.get_rng_state()
    lens = fit_lens(model, **SMALL)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.fingerprint == before and [child.training for child in model.module.modules()] == modes
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.module.parameters())
    kl = lens.report.kl
    assert kl.dims == ("lens", "layer") and list(kl.lens.values) == ["tuned", "ridge", "logit"]
    assert (kl.sel(layer=model.n_layers) == 0).all()
    below = kl.isel(layer=slice(None, -1))
    assert (below.sel(lens="tuned") <= below.sel(lens="ridge") + 1e-3).all()
    assert below.sel(lens="tuned").mean() < below.sel(lens="ridge").mean() - 1e-3
    assert below.sel(lens="ridge").mean() < below.sel(lens="logit").mean()
    assert (lens.report.kl_low <= kl).all() and (kl <= lens.report.kl_high).all()

    x = some_residuals(model)[0]
    assert lens.transport(x, model.n_layers) is x
    linear = lens[0]
    np.testing.assert_allclose(lens.transport(x, 0), x + x @ linear.weight.detach().T + linear.bias.detach(), atol=1e-5)
    assert torch.equal(fit_lens(model, **SMALL)[1].weight, lens[1].weight), "a function of the seed"


def test_the_report_is_the_mean_over_held_out_text(tiny, naive_kl, hooked, facts):
    """Judged again from outside: naive KL of the saved corrections on text that the fit gets as its corpus."""
    model = tiny("llama")
    texts = [f"{text} {fact.old}." for fact in facts for text in fact.phrasings] * 4
    lens = fit_lens(model, texts, kind="ridge", n_tokens=2000, tokens_per_step=32, progress=False)
    corpus = text_corpus(model, texts, 2000)
    order = torch.randperm(len(corpus.sequences), generator=torch.Generator().manual_seed(0)).tolist()
    n = len(order) // 10
    judged = [corpus.sequences[i] for i in order[n // 3 : n]]
    assert lens.report.attrs["n_sequences"] == len(judged)
    layer, each = 1, []
    for ids in judged:
        residuals = hooked(model, list(ids))[:, 1:]
        linear = lens.layer_translators[layer]
        with torch.no_grad():
            carried = residuals[layer] + linear(residuals[layer])
            each.append(naive_kl(model, residuals[-1], carried).mean().item())
    np.testing.assert_allclose(lens.report.kl.sel(lens="ridge", layer=layer), np.mean(each), atol=1e-4)


def test_bfloat16(tiny, some_residuals):
    """The lens is float32, gives residuals back in the dtype that they had and decodes in the model's."""
    model = tiny("llama", torch.bfloat16)
    lens = fit_lens(model, **SMALL)
    assert lens[0].weight.dtype == torch.float32
    x = some_residuals(model)[0].bfloat16()
    assert lens.transport(x, 0).dtype == torch.bfloat16
    assert lens(x, 0).shape == (7, model.vocab_size)
    below = lens.report.kl.isel(layer=slice(None, -1)).mean("layer")
    assert below.sel(lens="tuned") < below.sel(lens="ridge") < below.sel(lens="logit")


def test_what_cannot_be_fitted_is_refused(tiny, tmp_path):
    model = tiny("llama")
    with pytest.raises(ReadingError, match="2 problems in the settings of the lens") as caught:
        fit_lens(model, n_tokens=1, lr=-1.0)
    assert "n_tokens cannot be 1" in str(caught.value) and "lr cannot be -1.0" in str(caught.value)
    with pytest.raises(ReadingError, match="kind 'jacobian' cannot be fitted"):
        require_kind("jacobian")
    for texts in ([], [""], ["The capital of France is Paris."] * 3):
        with pytest.raises(ReadingError, match=r"fewer than the 256 of one step\. Give a longer text"):
            fit_lens(model, texts, progress=False)
    with pytest.raises(ReadingError, match=r"fewer than the 256 of one step\. Raise n_tokens, which is 256, to 512"):
        fit_lens(model, n_tokens=256, progress=False)
    fit_lens(model, n_tokens=512, steps=1, progress=False)  # the remedy is one
    with pytest.raises(ReadingError, match="cannot be read as text"):
        fit_lens(model, tmp_path / "none.txt", progress=False)
    with torch.no_grad():
        next(model.anatomy.blocks[1].parameters()).fill_(float("nan"))
    with pytest.raises(ReadingError, match="residuals at layer 2 are not finite"):
        fit_lens(model, ["The capital of France is Paris. " * 200], kind="ridge", tokens_per_step=64, progress=False)


def test_gradients_of_the_unembedding_are_left_alone(tiny):
    model = tiny("gpt2")
    lens = fit_lens(model, **{**SMALL, "n_tokens": 1024, "steps": 2})
    of_the_model = {p.data_ptr() for p in model.module.parameters()}
    shared = list(lens.unembed.parameters())
    assert shared and all(p.data_ptr() in of_the_model and not p.requires_grad for p in shared)
    lens.to(torch.float64)
    assert model.dtype == torch.float32
    x = F.pad(torch.ones(1, 3), (0, model.width - 3))
    assert lens(x.double(), 0).dtype == torch.float64


def test_a_lens_that_no_longer_improves_stops_and_says_so(tiny, monkeypatch):
    """At a rate so high that every check is worse than ridge, where it starts: the ridge lens is what comes out."""
    model, bars = tiny("llama"), {}

    @contextmanager
    def recorded(name, total, *, shown):
        bars.setdefault(name, []).append((total, ticks := []))
        yield ticks.append

    monkeypatch.setattr(fit, "progress_bar", recorded)
    options = {"n_tokens": 640, "tokens_per_step": 64}
    lens = fit_lens(model, **options, steps=60, lr=30.0, patience=1)
    ((total, ticks),) = bars["tuned lens"]
    assert total == 60 and len(ticks) == 10
    assert ticks[-1].endswith("nats, stopped early at step 10: no layer improved")
    assert not any("stopped" in status for status in ticks[:-1])
    ridge = fit_lens(model, **options, kind="ridge")
    assert lens.provenance["lens_hash"] == ridge.provenance["lens_hash"]
    for name in ("sampling", "held out", "ridge lens", "report"):
        assert all(len(ticks) == total for total, ticks in bars[name]), name
    bars.clear()
    fit_lens(model, **options, steps=10, lr=30.0, patience=1)
    ((total, ticks),) = bars["tuned lens"]
    assert total == len(ticks) == 10 and "stopped" not in ticks[-1], "the last step is no early one"


def test_an_output_that_is_not_finite_is_refused(tiny):
    model = tiny("llama")
    with torch.no_grad():
        model.anatomy.final_norm.weight[3] = float("nan")
    with pytest.raises(ReadingError, match="is not finite, so no text can be sampled from it"):
        fit_lens(model, progress=False)
    with pytest.raises(ReadingError, match=r"tuned lens at layer 0 is nan at step 0\. Check the model's weights"):
        fit_lens(model, ["The capital of France is Paris. " * 200], tokens_per_step=64, progress=False)
