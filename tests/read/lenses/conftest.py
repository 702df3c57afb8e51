"""The oracle of the lenses: a model's own norm and unembedding under autograd, and plain forward hooks."""

from __future__ import annotations

import pytest
import torch

SMALL = {"n_tokens": 640, "steps": 5, "tokens_per_step": 64}


@pytest.fixture(scope="session")
def naive_kl():
    """``naive_kl(model, final, carried)``: [node], by the model's own norm and unembedding and autograd."""

    def kl(model, final, carried):
        def logprobs(residual):
            logits = model.module.get_output_embeddings()(model.anatomy.final_norm(residual))
            cap = getattr(model.module.config, "final_logit_softcapping", None)
            return (cap * torch.tanh(logits / cap) if cap else logits).log_softmax(-1)

        p = logprobs(final).detach()
        return (p.exp() * (p - logprobs(carried))).sum(-1)

    return kl


@pytest.fixture(scope="session")
def hooked():
    """``hooked(model, ids)``: [layer, position, width] by plain forward hooks."""

    def residuals(model, ids):
        seen, blocks = [], model.anatomy.blocks
        first = lambda value: value[0] if isinstance(value, tuple) else value  # noqa: E731
        handles = [blocks[0].register_forward_pre_hook(lambda m, a, k: seen.append(first(a)), with_kwargs=True)]
        handles += [block.register_forward_hook(lambda m, a, out: seen.append(first(out))) for block in blocks]
        with torch.no_grad():
            model.module(torch.tensor([ids]))
        for handle in handles:
            handle.remove()
        return torch.stack([residual[0] for residual in seen])

    return residuals


@pytest.fixture(scope="session")
def some_residuals():
    """``some_residuals(model)``: final and carried residuals, random."""

    def residuals(model, n=7, seed=0):
        return torch.randn(2, n, model.width, generator=torch.Generator().manual_seed(seed))

    return residuals


@pytest.fixture(scope="session")
def small():
    """Settings under which a fit is a matter of a tenth of a second."""
    return SMALL


@pytest.fixture(scope="session")
def fitted(tiny):
    """A tiny model and its tuned lens."""
    from mechmask.read.lenses.fit import fit_lens

    model = tiny("llama")
    return model, fit_lens(model, **SMALL, progress=False)


@pytest.fixture
def saved(fitted, tmp_path):
    """The directory of that lens."""
    fitted[1].save(tmp_path / "lens")
    return tmp_path / "lens"


@pytest.fixture(scope="session")
def plain_lens():
    """``plain_lens(model)``: a TunedLens of tuned-lens itself, with random corrections."""
    from tuned_lens.nn.lenses import TunedLens, TunedLensConfig

    from mechmask.read.lenses.tuned import SharedUnembed

    def make(model, seed=1):
        config = TunedLensConfig(base_model_name_or_path="tiny", d_model=model.width, num_hidden_layers=model.n_layers)
        lens = TunedLens(SharedUnembed(model), config)
        generator = torch.Generator().manual_seed(seed)
        for parameter in lens.layer_translators.parameters():
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
        return lens

    return make
