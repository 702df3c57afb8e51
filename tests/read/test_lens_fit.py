"""Fitted lenses against numpy, autograd and plain hooks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from mechmask.errors import ReadingError
from mechmask.models.corpora import Corpus, Stream, sampled_corpus, text_corpus
from mechmask.read.backends import backend_of
from mechmask.read.lenses import divergence
from mechmask.read.lenses.config import LensConfig
from mechmask.read.lenses.divergence import Readout
from mechmask.read.lenses.fit import fit_lens
from mechmask.read.lenses.ridge import Moments
from mechmask.read.lenses.tune import Tuning

SMALL = {"n_tokens": 3072, "steps": 30, "tokens_per_step": 128, "lr": 3e-3, "progress": False}


def naive_kl(model, final, carried):
    """[node], by the model's own norm and unembedding and autograd."""

    def logprobs(residual):
        logits = model.module.get_output_embeddings()(model.anatomy.final_norm(residual))
        cap = getattr(model.module.config, "final_logit_softcapping", None)
        return (cap * torch.tanh(logits / cap) if cap else logits).log_softmax(-1)

    p = logprobs(final).detach()
    return (p.exp() * (p - logprobs(carried))).sum(-1)


def some_residuals(model, n=7, seed=0):
    return torch.randn(2, n, model.width, generator=torch.Generator().manual_seed(seed))


def hooked(model, ids):
    """[layer, position, width] by plain forward hooks."""
    kept, blocks = [], model.anatomy.blocks
    first = lambda value: value[0] if isinstance(value, tuple) else value  # noqa: E731
    handles = [blocks[0].register_forward_pre_hook(lambda m, a, k: kept.append(first(a)), with_kwargs=True)]
    handles += [block.register_forward_hook(lambda m, a, out: kept.append(first(out))) for block in blocks]
    with torch.no_grad():
        model.module(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return torch.stack([residual[0] for residual in kept])


@pytest.mark.parametrize("n", [400, 20])
def test_ridge_is_least_squares_with_augmented_rows(n):
    """Fewer tokens than directions too; a mean and a scale as residuals of real models have them."""
    rng = np.random.default_rng(0)
    width, penalty = 24, 1e-2
    scale = np.geomspace(0.1, 10, width)
    residuals = rng.normal(size=(3, n, width)) * scale + 30 * rng.normal(size=(3, 1, width))
    moments = Moments()
    for part in np.array_split(residuals, 5, axis=1):
        moments.add(torch.tensor(part))
    weights, biases = moments.solve(penalty)
    for layer in range(2):
        x, y = residuals[layer], residuals[-1] - residuals[layer]
        centred, moved = x - x.mean(0), y - y.mean(0)
        ridge = penalty * np.trace(centred.T @ centred) / width
        rows = np.vstack([centred, np.sqrt(ridge) * np.eye(width)])
        a = np.linalg.lstsq(rows, np.vstack([moved, np.zeros((width, width))]), rcond=None)[0].T
        np.testing.assert_allclose(weights[layer], a, atol=1e-8)
        np.testing.assert_allclose(biases[layer], y.mean(0) - a @ x.mean(0), atol=1e-6)


def test_residuals_that_are_not_finite_are_refused():
    moments = Moments()
    residuals = torch.randn(3, 10, 4)
    residuals[1, 5, 2] = float("nan")
    moments.add(residuals)
    with pytest.raises(ReadingError, match="layer 1 are not finite"):
        moments.solve()


@pytest.mark.parametrize("rows", [None, 3])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "phi"])
def test_kl_and_its_gradient_are_those_of_autograd(tiny, monkeypatch, family, rows):
    """RMSNorm, LayerNorm, a softcap, an unembedding with bias; whole, and in blocks that do not divide evenly."""
    model = tiny(family)
    if rows is not None:
        monkeypatch.setattr(divergence, "_LOGITS", rows * model.vocab_size)
    final, carried = some_residuals(model)
    readout = Readout(model.anatomy)
    target = readout.target(final)
    naive = naive_kl(model, final, carried)
    np.testing.assert_allclose(readout.kl(carried, target), naive.detach(), atol=1e-5)
    assert naive.min() > 0.01
    np.testing.assert_allclose(readout.kl(final, target), 0, atol=1e-5)

    normed = readout.norm(carried).detach()
    leaf = normed.clone().requires_grad_(True)
    head = model.module.get_output_embeddings()
    logits = head(leaf)
    cap = model.anatomy.softcap
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    p = naive_target(model, final)
    (p * (p.log() - logits.log_softmax(-1))).sum(-1).mean().backward()
    np.testing.assert_allclose(readout.gradient(normed, target), leaf.grad, atol=1e-6)


def naive_target(model, final):
    with torch.no_grad():
        logits = model.module.get_output_embeddings()(model.anatomy.final_norm(final))
        cap = model.anatomy.softcap
        return (logits if cap is None else cap * torch.tanh(logits / cap)).softmax(-1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_step_is_that_of_adam_on_the_naive_loss(tiny, family):
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


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2", "opt"])
def test_the_stream_is_what_hooks_see(tiny, family):
    """Sequences of several lengths in one pass, the first positions left out."""
    model = tiny(family)
    sequences = (tuple(range(5, 14)), tuple(range(40, 44)), tuple(range(70, 82)))
    stream = Stream(backend_of("transformer_lens", model), Corpus(sequences, 2, "text"))
    with torch.no_grad():
        found = torch.cat(list(stream.once()), dim=1)
        naive = torch.cat([hooked(model, list(ids))[:, 2:] for ids in sequences], dim=1)
        np.testing.assert_allclose(found, naive, atol=1e-4)
        mixed = stream.shuffled(5, torch.Generator().manual_seed(0))
        batches = torch.cat([next(mixed) for _ in range(3)], dim=1)  # 15 of the 19
    distance = torch.cdist(batches[-1], naive[-1])
    assert distance.min(1).values.max() < 1e-3
    assert len(set(distance.argmin(1).tolist())) == 15


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_sampled_text_is_a_function_of_the_seed_and_follows_the_model(tiny, family):
    model = tiny(family)
    model = type(model)(model.module, model.tokenizer, model.anatomy, model.name)
    readout, ticks = Readout(model.anatomy), []
    state = torch.random.get_rng_state()
    first, again, other = (sampled_corpus(model, readout, 2048, seed, ticks.append) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first == again != other
    assert {len(ids) for ids in first.sequences} == {64} and len(first.sequences) == 32
    assert first.n_left_out == 1 and ticks
    ids = torch.tensor(first.sequences)
    with torch.no_grad():
        logprobs = model.module(ids).logits[:, :-1].log_softmax(-1)
    surprise = logprobs.gather(-1, ids[:, 1:, None])[..., 0] + -(logprobs.exp() * logprobs).sum(-1)
    error = surprise.std() / surprise.numel() ** 0.5
    assert abs(surprise.mean()) < 4 * error, "mean log-probability of sampled tokens is minus the entropy"
    assert error < 0.1


def test_text_is_cut_after_what_the_tokenizer_puts_before(tiny_module, bos_tokenizer, tmp_path):
    from mechmask import load_model

    model = load_model(tiny_module("llama"), tokenizer=copy.deepcopy(bos_tokenizer))
    text = "The capital of France is Paris, that of Italy is Rome. " * 30
    ids = bos_tokenizer(text, add_special_tokens=False).input_ids
    corpus = text_corpus(model, [text], 200)
    assert all(sequence[0] == bos_tokenizer.bos_token_id for sequence in corpus.sequences)
    assert [token for sequence in corpus.sequences for token in sequence[1:]] == ids[:200]
    assert max(map(len, corpus.sequences)) == 64 and sum(corpus.lengths) == 200
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    assert text_corpus(model, path, 200) == text_corpus(model, str(path), 200) == corpus
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ReadingError, match="cannot be read as text"):
        text_corpus(model, path, 200)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_on_held_out_text_tuned_is_nearer_than_ridge_than_logit(tiny, family):
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


def test_the_report_is_the_mean_over_held_out_text(tiny, facts):
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


def test_bfloat16(tiny):
    """The lens is float32, gives residuals back in their own dtype and decodes in the model's."""
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
    assert "n_tokens is 1" in str(caught.value) and "lr is -1.0" in str(caught.value)
    with pytest.raises(ReadingError, match="kind 'jacobian' cannot be fitted"):
        fit_lens(model, kind="jacobian")
    for texts in ([], [""], ["The capital of France is Paris."] * 3):
        with pytest.raises(ReadingError, match="fewer than the 256 of one step"):
            fit_lens(model, texts, progress=False)
    with pytest.raises(ReadingError, match="cannot be read as text"):
        fit_lens(model, tmp_path / "none.txt", progress=False)
    with torch.no_grad():
        next(model.anatomy.blocks[1].parameters()).fill_(float("nan"))
    with pytest.raises(ReadingError, match="residuals at layer 2 are not finite"):
        fit_lens(model, ["The capital of France is Paris. " * 200], kind="ridge", tokens_per_step=64, progress=False)


def test_gradients_of_the_unembedding_are_left_alone(tiny):
    model = tiny("gpt2")
    lens = fit_lens(model, **{**SMALL, "n_tokens": 1024, "steps": 2})
    own = {p.data_ptr() for p in model.module.parameters()}
    shared = list(lens.unembed.parameters())
    assert shared and all(p.data_ptr() in own and not p.requires_grad for p in shared)
    lens.to(torch.float64)
    assert model.dtype == torch.float32
    x = F.pad(torch.ones(1, 3), (0, model.width - 3))
    assert lens(x.double(), 0).dtype == torch.float64
