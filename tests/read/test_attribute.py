"""``attribute`` against plain hooks with every norm, projection and adapter written out by family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

import mechmask as mm
from mechmask.errors import ReadingError
from mechmask.models.anatomy import Anatomy
from mechmask.read.attribute import UNITS, attribute
from mechmask.read.backends import backend_of

# Blocks, final norm, and in a block: what projects the heads, what adds the attention, what adds the MLP.
LLAMA = ("model.layers", "model.norm", "self_attn.o_proj", "self_attn.o_proj", "mlp.down_proj")
GEMMA = ("model.layers", "model.norm", "self_attn.o_proj", "post_attention_layernorm", "post_feedforward_layernorm")
GPT = ("transformer.h", "transformer.ln_f")
WHERE = {
    "gpt2": (*GPT, "attn.c_proj", "attn.c_proj", "mlp.c_proj"),
    "gptj": (*GPT, "attn.out_proj", "attn.out_proj", "mlp.fc_out"),
    "gpt_neox": (
        "gpt_neox.layers",
        "gpt_neox.final_layer_norm",
        "attention.dense",
        "attention.dense",
        "mlp.dense_4h_to_h",
    ),
    "opt": (
        "model.decoder.layers",
        "model.decoder.final_layer_norm",
        "self_attn.out_proj",
        "self_attn.out_proj",
        "fc2",
    ),
    "phi": ("model.layers", "model.final_layernorm", "self_attn.dense", "self_attn.dense", "mlp.fc2"),
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
}


def effective(layer):
    """Weight ``[out, in]`` and bias of a linear map with its adapter, in float64."""
    base = getattr(layer, "base_layer", layer)
    weight = base.weight.detach()
    for name in getattr(layer, "active_adapters", []):
        weight = weight + layer.get_delta_weight(name).detach()
    weight = weight.T if isinstance(base, Conv1D) else weight
    bias = torch.zeros(len(weight)) if base.bias is None else base.bias.detach()
    return weight.double(), bias.double()


class Naive:
    """Contributions to the margin of one fact: one unpadded row, plain hooks, formulas of the field, float64."""

    def __init__(self, model, plain):
        self.model, self.module, self.oracle = model, model.module, plain(model)
        self.where = WHERE.get(model.family, LLAMA)
        self.gemma = "gemma" in model.family
        self.unembedding, self.unembedding_bias = effective(self.module.get_output_embeddings())

    @torch.no_grad()
    def hooked(self, ids):
        blocks, _, projects, adds_attention, adds_mlp = self.where
        last = lambda value: value.reshape(len(ids), -1)[-1].double()  # noqa: E731
        kept = {"heads": [], "attention": [], "mlp": [], "embedding": []}
        keep_input = lambda name: lambda m, args: kept[name].append(last(args[0]))  # noqa: E731
        keep_output = lambda name: lambda m, args, output: kept[name].append(last(output))  # noqa: E731
        handles = []
        for i, block in enumerate(self.module.get_submodule(blocks)):
            if i == 0:
                handles.append(block.register_forward_pre_hook(keep_input("embedding")))
            handles += [
                block.get_submodule(projects).register_forward_pre_hook(keep_input("heads")),
                block.get_submodule(adds_attention).register_forward_hook(keep_output("attention")),
                block.get_submodule(adds_mlp).register_forward_hook(keep_output("mlp")),
            ]
        try:
            logits = self.module(torch.tensor([ids])).logits[0, -1].double()
        finally:
            for handle in handles:
                handle.remove()
        return kept, logits

    def scaled(self, norm, x, at):
        """``x`` through a norm whose scale is that of ``at``; the bias apart."""
        if isinstance(norm, nn.LayerNorm):
            deviation = (at.var(unbiased=False) + norm.eps).sqrt()
            return (x - x.mean(-1, keepdim=True)) / deviation * norm.weight.detach().double()
        eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        weight = norm.weight.detach().double() + (1 if self.gemma else 0)
        return x / (at.square().mean() + eps).sqrt() * weight

    def rows(self, fact, unit):
        """Label to nats, and the margin before a softcap."""
        ids, values = self.oracle.ids(fact.prompt), [self.oracle.value_ids(fact, name) for name in ("old", "new")]
        n = self.oracle.diverging(fact)
        old, new = (value[n] for value in values)
        kept, logits = self.hooked([*ids, *values[0][:n]])
        total = kept["embedding"][0] + sum(kept["attention"]) + sum(kept["mlp"])
        norm = self.module.get_submodule(self.where[1])
        difference = self.unembedding[new] - self.unembedding[old]
        along = lambda x: (self.scaled(norm, x, total) @ difference).item()  # noqa: E731
        found = {"embedding": along(kept["embedding"][0])}
        for b, (attention, mlp) in enumerate(zip(kept["attention"], kept["mlp"], strict=True)):
            if unit == "layer":
                found[f"layer {b + 1}"] = along(attention + mlp)
                continue
            if unit == "component":
                found[f"attention {b}"] = along(attention)
            else:
                found |= {label: along(x) for label, x in self.heads(b, kept["heads"][b]).items()}
            found[f"mlp {b}"] = along(mlp)
        norm_bias = norm.bias.detach().double() @ difference if isinstance(norm, nn.LayerNorm) else 0.0
        found["bias"] = float(norm_bias + self.unembedding_bias[new] - self.unembedding_bias[old])
        cap = 3.0 if self.model.family == "gemma2" else None
        logits = logits if cap is None else cap * torch.atanh(logits / cap)
        return found, (logits[new] - logits[old]).item()

    def heads(self, b, z):
        block = self.module.get_submodule(f"{self.where[0]}.{b}")
        weight, bias = effective(block.get_submodule(self.where[2]))
        n = self.module.config.num_attention_heads
        width = len(z) // n
        slices = [slice(h * width, (h + 1) * width) for h in range(n)]
        found = {f"head {b}.{h}": weight[:, part] @ z[part] for h, part in enumerate(slices)}
        if bias.any():
            found[f"attention bias {b}"] = bias
        if self.gemma:
            norm = block.get_submodule(self.where[3])
            found = {label: self.scaled(norm, x, weight @ z + bias) for label, x in found.items()}
        return found


def agrees_with_naive(reading, naive, facts, unit):
    for fact in facts:
        rows, margin = naive.rows(fact, unit)
        found = reading.sel(fact=fact.id)
        assert list(found.component.values) == list(rows)
        np.testing.assert_allclose(found.attribution, list(rows.values()), atol=1e-4, rtol=0)
        assert found.margin.item() == pytest.approx(margin, abs=1e-4)


@pytest.mark.parametrize("unit", UNITS)
def test_every_contribution_is_the_naive_one(tiny, family, awkward, plain, unit):
    model = tiny(family)
    naive = Naive(model, plain)
    for backend in ("transformer_lens", "nnsight"):
        reading = attribute(model, awkward, unit, backend)
        agrees_with_naive(reading, naive, awkward, unit)
        np.testing.assert_allclose(reading.attribution.sum("component"), reading.margin, atol=1e-4, rtol=0)
        assert reading.attrs["check_error_nats"] < 1e-4
    largest = abs(reading.attribution).max("fact").drop_sel(component="bias")
    assert (largest > 1e-3).all(), "a part that adds nothing would hide one that is left out"


# Every projection by its name in these families, the unembedding too.
ADAPTED = {
    "llama": ["o_proj", "q_proj", "down_proj", "lm_head"],
    "gpt2": ["c_attn", "c_proj"],
    "gemma2": ["o_proj", "gate_proj", "down_proj"],
    "phi3": ["qkv_proj", "o_proj"],
    "opt": ["out_proj", "fc2"],
}


@pytest.mark.parametrize("family", ADAPTED)
@pytest.mark.parametrize("unit", ["component", "head"])
def test_under_an_unmerged_adapter(tiny, family, awkward, plain, unit):
    model = tiny(family)
    before = attribute(model, awkward, unit)
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=ADAPTED[family], init_lora_weights=False)
    adapted = mm.load_model(get_peft_model(model.module, config).eval(), tokenizer=model.tokenizer)
    naive = Naive(adapted, plain)
    for backend in ("transformer_lens", "nnsight"):
        reading = attribute(adapted, awkward, unit, backend)
        agrees_with_naive(reading, naive, awkward, unit)
    assert abs(reading.attribution - before.attribution).max() > 0.01
    with adapted.without_adapter():
        xr.testing.assert_allclose(attribute(adapted, awkward, unit).attribution, before.attribution, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_after_minus_before_by_label(tiny, family, facts):
    model = tiny(family)
    change = mm.finetune(model, facts.contradiction_examples(), mm.FinetuneConfig(rank=2, lr=0.01, steps=3))
    before = attribute(model, facts, "head")
    with change.applied(model):
        after = attribute(model, facts[::-1], "head")
    moved = after - before
    assert dict(moved.sizes) == dict(before.sizes)
    assert abs(moved.margin).max() > 0.01
    np.testing.assert_allclose(moved.attribution.sum("component"), moved.margin, atol=1e-4, rtol=0)
    assert {"block", "kind", "role", "subject"} <= set(moved.coords)


def test_units_add_up_to_one_another(tiny, family, awkward):
    model = tiny(family)
    layer, component, head = (attribute(model, awkward, unit, "nnsight") for unit in UNITS)
    by_block = component.attribution.groupby("block").sum()
    np.testing.assert_allclose(
        layer.attribution.sel(component=layer.kind == "layer"), by_block.sel(block=slice(0, None)), atol=1e-5
    )
    in_attention = head.attribution.sel(component=head.kind.isin(["head", "bias"]) & (head.block >= 0))
    np.testing.assert_allclose(
        in_attention.groupby("block").sum(),
        component.attribution.sel(component=component.kind == "attention"),
        atol=1e-5,
    )


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_layers_are_named_as_read_depth_numbers_them(tiny, family, awkward):
    model = tiny(family)
    reading = attribute(model, awkward, "layer")
    depth = mm.read_depth(model, awkward)
    np.testing.assert_allclose(reading.attribution.sum("component"), depth.margin.isel(layer=-1), atol=1e-4)
    np.testing.assert_array_equal(reading.fact, depth.fact)
    assert [label for label in reading.component.values if label.startswith("layer")] == [
        f"layer {layer}" for layer in depth.layer.values[1:]
    ]


def test_labels_blocks_and_kinds(tiny, awkward):
    reading = attribute(tiny("gpt2"), awkward, "head")
    rows = list(zip(reading.component.values, reading.block.values, reading.kind.values, strict=True))
    assert rows[:2] == [("embedding", -1, "embedding"), ("head 0.0", 0, "head")]
    assert rows[5:7] == [("attention bias 0", 0, "bias"), ("mlp 0", 0, "mlp")]
    assert rows[-1] == ("bias", -1, "bias")
    assert len(set(reading.component.values)) == 1 + 3 * (4 + 1 + 1) + 1
    assert reading.attribution.dims == ("fact", "component") and reading.margin.dims == ("fact",)
    assert reading.attribution.attrs["units"] == "nats"
    assert list(reading.role.values) == [fact.role for fact in awkward]
    assert not [label for label in attribute(tiny("llama"), awkward, "head").component.values if "bias " in label]


@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_before_the_softcap(tiny, family, awkward):
    """The margin of a capped model is not that of ``read_depth``, but becomes it under the cap."""
    reading = attribute(tiny(family), awkward)
    capped = mm.read_depth(tiny(family), awkward).margin.isel(layer=-1)
    assert reading.attrs["before_softcap"] == (family == "gemma2")
    assert bool(abs(reading.margin - capped).max() > 0.01) == (family == "gemma2")
    assert (np.sign(reading.margin) == np.sign(capped)).all()


@pytest.mark.parametrize("family", ["mistral", "gpt2", "gemma2"])
def test_neither_batch_nor_packing_matters(tiny, family, awkward, monkeypatch):
    model = tiny(family)
    first = attribute(model, awkward, "head", "nnsight")
    xr.testing.assert_allclose(attribute(model, awkward, "head", "nnsight", batch_size=1), first, atol=2e-5)
    monkeypatch.setattr("mechmask.read.scoring.contests.may_pack", lambda *_: False)
    xr.testing.assert_allclose(attribute(model, awkward, "head", "nnsight"), first, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "opt"])
def test_other_dtypes(tiny, family, awkward, dtype):
    """Within what half precision itself loses on these models."""
    reading = attribute(tiny(family, dtype), awkward, "head", "nnsight")
    exact = attribute(tiny(family), awkward, "head", "nnsight")
    bound = {torch.bfloat16: 0.2, torch.float16: 0.03, torch.float64: 1e-4}[dtype]
    assert abs(reading.attribution - exact.attribution).max() < bound
    assert reading.attrs["check_error_nats"] < bound


def test_nothing_is_left_behind(tiny, awkward):
    model = tiny("gemma2")
    model.module.train()
    model.module.model.layers[0].eval()
    first = next(model.module.parameters()).requires_grad_(False)
    before = model.fingerprint, [child.training for child in model.module.modules()], list(vars(model.module))
    outer = torch.is_grad_enabled()
    with torch.inference_mode():
        attribute(model, awkward, "head")
    attribute(model, awkward, "head", "nnsight")
    assert before == (model.fingerprint, [child.training for child in model.module.modules()], list(vars(model.module)))
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert [p.requires_grad for p in model.module.parameters()] == [p is not first for p in model.module.parameters()]
    assert torch.is_grad_enabled() == outer and not torch.is_inference_mode_enabled()


def test_it_saves_and_loads(tiny, awkward, tmp_path):
    reading = attribute(tiny("gemma2"), awkward, "head")
    mm.save_reading(reading, tmp_path / "attribution.nc")
    xr.testing.assert_identical(mm.load_reading(tmp_path / "attribution.nc"), reading)


class Losing:
    """A backend that loses a tenth of what the last MLP adds."""

    name = "losing"

    def __init__(self, model):
        self.inner = backend_of("nnsight", model)

    def residuals(self, batch):
        return self.inner.residuals(batch)

    def parts(self, batch):
        parts = self.inner.parts(batch)
        parts.mlp[-1] *= 0.9
        return parts


def test_what_does_not_sum_is_refused(tiny, awkward, monkeypatch):
    model = tiny("gemma2")
    refused = "contributions to the margin of fact .* sum to"
    with pytest.raises(ReadingError, match=refused):
        attribute(model, awkward, backend=Losing(model))
    with monkeypatch.context() as patch:  # before its norm, an MLP's output is not what is added
        patch.setattr(Anatomy, "adds_mlp", lambda self, block: self.mlp_output(block).name)
        with pytest.raises(ReadingError, match=refused):
            attribute(model, awkward, backend="nnsight")
    with monkeypatch.context() as patch:  # the plain pass is capped
        patch.setattr(Anatomy, "softcap", None)
        with pytest.raises(ReadingError, match="does not agree with the model's own output"):
            attribute(model, awkward)
    with torch.no_grad():
        model.module.model.layers[0].mlp.down_proj.weight[0] = torch.nan
    with pytest.raises(ReadingError, match="not finite"):
        attribute(model, awkward)


def test_wrong_arguments_are_refused(tiny, awkward):
    model = tiny("llama")
    with pytest.raises(ReadingError, match=r"unit='neuron' is not known\. Known are layer, component, head"):
        attribute(model, awkward, "neuron")
    with pytest.raises(ReadingError, match="no backend 'jax'"):
        attribute(model, awkward, backend="jax")
    with pytest.raises(ReadingError, match="no fact to read"):
        attribute(model, [])
