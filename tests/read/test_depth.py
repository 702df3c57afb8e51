"""``read_depth`` against plain forward hooks, and what it may not leave behind."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import xarray as xr
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import mechmask as mm
from mechmask.errors import ReadingError
from mechmask.read.backends.transformer_lens import between_blocks, inside_blocks

FINAL_NORMS = {
    "gpt2": "ln_f",
    "gptj": "ln_f",
    "gpt_neox": "final_layer_norm",
    "opt": "decoder.final_layer_norm",
    "phi": "final_layernorm",
}


class Hooked:
    """The logit lens by forward hooks on a plain module: a route at a time, norm and unembedding written out."""

    def __init__(self, model, plain):
        self.module, self.family, self.oracle = model.module, model.family, plain(model)
        config = self.module.config
        self.blocks = next(
            m
            for m in self.module.modules()
            if isinstance(m, torch.nn.ModuleList) and len(m) == config.num_hidden_layers
        )
        self.norm = self.module.base_model.get_submodule(FINAL_NORMS.get(self.family, "norm"))
        self.cap = getattr(config, "final_logit_softcapping", None)

    @torch.no_grad()
    def residuals(self, ids):
        """``[layer, position, width]``."""
        kept = []
        first = lambda value: value[0] if isinstance(value, tuple) else value  # noqa: E731
        hooks = [
            self.blocks[0].register_forward_pre_hook(lambda m, args, kwargs: kept.append(first(args)), with_kwargs=True)
        ]
        hooks += [
            block.register_forward_hook(lambda m, args, output: kept.append(first(output))) for block in self.blocks
        ]
        try:
            self.module(torch.tensor([ids]))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([residual[0] for residual in kept]).float()

    def normed(self, x):
        norm = self.norm
        weight = norm.weight.detach().float()
        if isinstance(norm, torch.nn.LayerNorm):
            centred = x - x.mean(-1, keepdim=True)
            return (
                centred / (centred.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt() * weight
                + norm.bias.detach().float()
            )
        eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * (1 + weight if "gemma" in self.family else weight)

    def token_logprobs(self, fact, route):
        """``[layer, token]`` of the value."""
        prompt, value = self.oracle.ids(fact.prompt), self.oracle.value_ids(fact, route)
        read = self.normed(self.residuals(prompt + value)[:, len(prompt) - 1 : -1])
        head = self.module.get_output_embeddings()
        logits = read @ head.weight.detach().float().T + (0 if head.bias is None else head.bias.detach().float())
        if self.cap:
            logits = self.cap * (logits / self.cap).tanh()
        return logits.log_softmax(-1)[:, range(len(value)), value]

    def score(self, fact, route, score):
        """``[layer]``."""
        if route not in fact.values or (score == "divergence" and not self.oracle.in_divergence(fact, route)):
            return np.full(len(self.blocks) + 1, math.nan)
        tokens = self.token_logprobs(fact, route)
        if score == "divergence":
            return tokens[:, self.oracle.diverging(fact)].numpy()
        return (tokens.sum(1) / (tokens.shape[1] if score == "mean" else 1)).numpy()


@pytest.fixture(scope="module")
def corners(awkward):
    """One synthetic fact and the hand-made ones: a hooked pass a route and layer is what costs here."""
    return awkward[1:]


@pytest.mark.parametrize("score", ["divergence", "sequence"])
def test_every_layer_of_every_family_is_what_hooks_see(tiny, family, corners, plain, score):
    model = tiny(family)
    hooked = Hooked(model, plain)
    reading = mm.read_depth(model, corners, score=score)
    naive = [[hooked.score(fact, str(route), score) for route in reading.route.values] for fact in corners]
    assert reading.logprob.dims == ("fact", "route", "layer")
    np.testing.assert_allclose(reading.logprob, naive, atol=1e-4, rtol=0)
    spread = reading.logprob.std("layer").mean().item()
    assert spread > 0.1, "layers that agree would hide a layer read twice"
    np.testing.assert_allclose(reading.margin, reading.logprob.sel(route="new") - reading.logprob.sel(route="old"))


@pytest.mark.parametrize("score", ["divergence", "sequence", "mean"])
def test_the_last_layer_is_the_output(tiny, family, awkward, score):
    model = tiny(family)
    depth, logits = mm.read_depth(model, awkward, score=score), mm.read_logits(model, awkward, score)
    np.testing.assert_allclose(depth.logprob.isel(layer=-1), logits.logprob, atol=2e-5, rtol=0)
    assert depth.attrs["check_error_nats"] < 1e-4


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text"])
def test_a_window_shorter_than_the_route(tiny, family, corners, plain):
    model = tiny(family, sliding_window=8)
    hooked = Hooked(model, plain)
    reading = mm.read_depth(model, corners, score="sequence")
    naive = [[hooked.score(fact, str(route), "sequence") for route in reading.route.values] for fact in corners]
    np.testing.assert_allclose(reading.logprob, naive, atol=1e-4, rtol=0)


def test_layers_are_numbered_and_aligned_on_depth(tiny, facts):
    for family, n in [("llama", 3), ("mistral", 2)]:
        reading = mm.read_depth(tiny(family), facts)
        assert list(reading.layer.values) == list(range(n + 1))
        np.testing.assert_allclose(reading.depth, np.linspace(0, 1, n + 1))
        assert reading.depth.dims == ("layer",)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_batch_size_changes_nothing(tiny, family, facts):
    model = tiny(family)
    first, *rest = [mm.read_depth(model, facts, score="sequence", batch_size=n) for n in (1, 2, 32)]
    for other in rest:
        xr.testing.assert_allclose(first.logprob, other.logprob, atol=2e-5)


def test_all_phrasings(tiny, awkward):
    model = tiny("gpt2")
    reading = mm.read_depth(model, awkward, phrasings="all")
    assert reading.logprob.dims == ("fact", "phrasing", "route", "layer")
    at_output = mm.read_logits(model, awkward, "divergence", phrasings="all").logprob
    np.testing.assert_allclose(reading.logprob.isel(layer=-1), at_output, atol=2e-5, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_bfloat16(tiny, family, corners, plain):
    """Within what bfloat16 itself loses: measured 0.04 nats per token at most, 0.008 on average."""
    model = tiny(family, torch.bfloat16)
    hooked = Hooked(model, plain)
    reading = mm.read_depth(model, corners, score="mean")
    naive = [[hooked.score(fact, str(route), "mean") for route in reading.route.values] for fact in corners]
    error = abs(reading.logprob.values - naive)
    assert np.nanmax(error) < 0.15
    assert np.nanmean(error) < 0.015


def _what_it_is(model):
    module, tokenizer = model.module, model.tokenizer
    state = module.state_dict(keep_vars=True)
    return {
        "classes": [(name, type(child)) for name, child in module.named_modules()],
        "identities": [id(child) for child in module.modules()],
        "state": [(name, tensor.data_ptr(), tensor.dtype, tensor.shape, id(tensor)) for name, tensor in state.items()],
        "buffers": [(name, buffer.data_ptr()) for name, buffer in module.named_buffers()],
        "asks for gradients": [parameter.requires_grad for parameter in module.parameters()],
        "gradients": [parameter.grad for parameter in module.parameters()],
        "training": [child.training for child in module.modules()],
        "hooks": [
            len(hooks) for child in module.modules() for name, hooks in vars(child).items() if name.endswith("_hooks")
        ],
        "attributes": [sorted(vars(child)) for child in module.modules()],
        "config": copy.deepcopy(module.config.to_dict()),
        "architectures": copy.copy(module.config.architectures),
        "attention": module.config._attn_implementation,
        "generation": module.generation_config.to_dict(),
        "forward": [("forward" in vars(child)) for child in module.modules()],
        "tokenizer": (
            tokenizer.padding_side,
            tokenizer.pad_token,
            tokenizer.bos_token,
            len(tokenizer),
            tokenizer.name_or_path,
        ),
        "encoding": tokenizer("The capital of France is Paris").input_ids,
    }


def test_the_module_is_left_exactly_as_it_was(tiny, family, awkward, tmp_path):
    model = tiny(family)
    model.tokenizer.padding_side = "left"
    model.module.train()
    first, *_ = model.module.parameters()
    first.requires_grad_(False)
    next(child for child in model.module.modules() if isinstance(child, torch.nn.ModuleList))[0].eval()
    before, fingerprint = _what_it_is(model), model.fingerprint
    values = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    mm.read_depth(model, awkward)
    mm.read_depth(model, awkward[-1:], score="sequence", phrasings="all")
    assert _what_it_is(model) == before
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.module.state_dict().items())
    assert model.fingerprint == fingerprint
    model.module.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([model.tokenizer("The capital of France is").input_ids])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model.module.eval()(ids).logits)


@pytest.mark.parametrize("bridge_of", [between_blocks, inside_blocks])
def test_no_weight_is_held_twice(tiny, family, bridge_of):
    """Every parameter under the bridge lies in the storage of one of the module's own.

    But for GPT-NeoX, whose heads are interleaved in one projection: TransformerLens lays it out anew for its parts.
    """
    model = tiny(family)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.module.parameters()}
    bridge = bridge_of(model)
    found = {name: p for name, p in bridge.original_model.named_parameters()}
    assert found
    copied = [name for name, p in found.items() if p.untyped_storage().data_ptr() not in own]
    if family == "gpt_neox" and bridge_of is inside_blocks:
        copied = [name for name in copied if name.split(".attention.")[-1][:2] not in ("q.", "k.", "v.")]
    assert not copied


def test_a_weight_changed_in_place_is_seen(tiny, family, awkward):
    model = tiny(family)
    before = mm.read_depth(model, awkward)
    name, parameter = next(
        (n, p) for n, p in reversed(list(model.module.named_parameters())) if p.ndim == 2 and ".1." in n
    )
    kept = parameter.detach().clone()
    with torch.no_grad():
        parameter.mul_(-1)
    changed = mm.read_depth(model, awkward)
    assert abs(changed.logprob - before.logprob).isel(layer=-1).max() > 0.05, name
    xr.testing.assert_equal(
        changed.logprob.isel(layer=[0, 1]), before.logprob.isel(layer=[0, 1])
    )  # block 1 comes later
    np.testing.assert_allclose(
        changed.logprob.isel(layer=-1), mm.read_logits(model, awkward, "divergence").logprob, atol=2e-5, rtol=0
    )
    with torch.no_grad():
        parameter.copy_(kept)
    xr.testing.assert_identical(mm.read_depth(model, awkward), before)


def test_an_adapter_is_seen_at_every_layer(tiny, family, corners, plain):
    """LoRA on every linear map of every block, fused ones included."""
    model = tiny(family)
    before = mm.read_depth(model, corners)
    torch.manual_seed(0)
    wrapped = get_peft_model(model.module, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    adapted = mm.load_model(wrapped.eval(), tokenizer=model.tokenizer)
    hooked = Hooked(adapted, plain)
    reading = mm.read_depth(adapted, corners)
    naive = [[hooked.score(fact, str(route), "divergence") for route in reading.route.values] for fact in corners]
    np.testing.assert_allclose(reading.logprob, naive, atol=1e-4, rtol=0)
    assert abs(reading.logprob - before.logprob).sel(layer=1).max() > 0.01
    with adapted.without_adapter():
        xr.testing.assert_equal(mm.read_depth(adapted, corners).logprob, before.logprob)
    xr.testing.assert_equal(mm.read_depth(adapted, corners).logprob, reading.logprob)


class Shifting:
    """A lens that adds a ramp to every residual, but for the last one."""

    name = "shifting"

    def __init__(self, n_layers, at_end=0.0):
        self.shift = [*[1.0] * n_layers, at_end]
        self.seen = []

    def transport(self, residual, layer):
        self.seen.append((layer, tuple(residual.shape)))
        return residual + self.shift[layer] * torch.linspace(-1, 1, residual.shape[-1])


def test_a_lens_of_ones_own(tiny, corners, plain):
    model = tiny("llama")
    lens = Shifting(model.n_layers)
    reading = mm.read_depth(model, corners, lens=lens)
    assert {layer for layer, _ in lens.seen} == {0, 1, 2, 3}
    assert all(shape[-1] == model.width for _, shape in lens.seen)
    assert reading.attrs["lens"] == "shifting"
    hooked = Hooked(model, plain)
    own_norm = hooked.normed
    offset = torch.linspace(-1, 1, model.width) * torch.tensor([1.0, 1, 1, 0])[:, None, None]
    hooked.normed = lambda x: own_norm(x + offset)
    naive = [[hooked.score(fact, str(route), "divergence") for route in reading.route.values] for fact in corners]
    np.testing.assert_allclose(reading.logprob, naive, atol=1e-4, rtol=0)


def test_a_lens_that_is_not_the_identity_at_the_end_is_refused(tiny, corners):
    model = tiny("llama")
    with pytest.raises(ReadingError, match="does not agree with the model's own output"):
        mm.read_depth(model, corners, lens=Shifting(model.n_layers, at_end=0.5))


def test_names_that_are_not_known(tiny, corners):
    model = tiny("llama")
    with pytest.raises(ReadingError, match="no lens 'tuned-wrong'"):
        mm.read_depth(model, corners, lens="tuned-wrong")
    with pytest.raises(ReadingError, match="no backend 'jax'"):
        mm.read_depth(model, corners, backend="jax")
    with pytest.raises(ReadingError, match="score='total' is not known"):
        mm.read_depth(model, corners, score="total")


def test_the_embedded_model(smol, plain):
    facts = mm.world_facts()[:2]
    hooked = Hooked(smol, plain)
    reading = mm.read_depth(smol, facts)
    assert reading.sizes["layer"] == 31
    for fact in facts:
        for route in ("old", "new"):
            found = reading.logprob.sel(fact=fact.id, route=route)
            np.testing.assert_allclose(found, hooked.score(fact, route, "divergence"), atol=1e-4, rtol=0)
