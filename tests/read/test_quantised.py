"""Readings of quantised models are those of the module itself, one beginning at a time, whatever else is read."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.ao.quantization import quantize_dynamic

import mechmask as mm
from mechmask.errors import ModelError, WeightsError
from mechmask.facts.fact_set import FactSet
from mechmask.models.decoding import sampled
from mechmask.models.packing import batches
from mechmask.models.routes import encode_contests
from mechmask.read.checkpoint import read_logits_and_depth
from mechmask.study.proof import prove

pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per")


@pytest.fixture(scope="session")
def codes(tiny_module, tokenizer):
    def make(name="llama", seed=0, spec=None):
        module = quantize_dynamic(tiny_module(name, seed=seed), spec or {nn.Linear}, dtype=torch.qint8)
        return mm.load_model(module, tokenizer=tokenizer)

    return make


@pytest.fixture(scope="session")
def few(facts):
    """Two facts of several tokens, the second with a common prefix, one distractor each."""
    return FactSet([fact.model_copy(update={"distractors": fact.distractors[:1]}) for fact in facts[9:11]])


def next_logprobs(model, ids):
    """What transformers says of the next token after these, when it reads nothing else."""
    with torch.inference_mode():
        logits = model.module(torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits
    return logits[0, -1].float().log_softmax(-1)


def by_hand(model, fact, route):
    prompt, value = (model.tokenizer(text)["input_ids"] for text in (fact.prompt, f" {fact.values[route]}"))
    return sum(float(next_logprobs(model, prompt + value[:i])[token]) for i, token in enumerate(value))


def test_what_stands_beside_a_text_or_behind_it_moves_it(codes):
    """Why such models are read alone: by nats, where float32 is the same to 1e-6."""
    module = codes().module
    one, other = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[5, 6, 7, 400]])
    with torch.inference_mode():
        alone = module(one).logits[0, 2].log_softmax(-1)
        behind = module(other).logits[0, 2].log_softmax(-1)
        beside = module(torch.cat([one, other])).logits[0, 2].log_softmax(-1)
    assert (alone - behind).abs().max() > 0.1
    assert (alone - beside).abs().max() > 0.1


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_logits_are_those_of_transformers_one_beginning_at_a_time(name, codes, few):
    model = codes(name)
    reading = mm.read_logits(model, few)
    assert reading.check_error_nats < 1e-5
    for fact in few:
        for route in fact.values:
            found = float(reading.logprob.sel(fact=fact.id, route=route))
            assert found == pytest.approx(by_hand(model, fact, route), abs=1e-4)
    # routes share the distribution behind each beginning, so they exclude each other as they do in float32
    assert (reading.logprob.sel(route="old") <= reading.ceiling + 1e-4).all()


@pytest.mark.parametrize("read", [mm.read_logits, mm.read_depth, mm.read_margin], ids=lambda read: read.__name__)
def test_a_reading_does_not_depend_on_what_else_is_read(read, codes, few):
    model = codes()
    together = read(model, few, batch_size=8)
    for fact in few:
        alone = read(model, [fact], batch_size=1)
        for name in {"logprob", "margin", "entropy", "rank"} & set(alone.data_vars):
            expected = together[name].sel(fact=[fact.id])
            if "route" in expected.dims:
                expected = expected.sel(route=alone.route)
            np.testing.assert_array_equal(alone[name].values, expected.values)


def residuals_by_hooks(model, ids):
    """The residual stream of a pass over these tokens alone, before the first block and behind each."""
    seen = []
    blocks = model.module.gpt_neox.layers
    hooks = [blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))]
    for block in blocks:
        hooks.append(block.register_forward_hook(lambda _, __, out: seen.append(out[0] if type(out) is tuple else out)))
    try:
        next_logprobs(model, ids)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight"])
def test_depth_is_what_plain_hooks_see(backend, codes, few):
    model = codes("gpt_neox")
    reading = mm.read_depth(model, few, backend=backend)
    module = model.module
    for fact in few:
        ids = {route: model.tokenizer(f" {value}")["input_ids"] for route, value in fact.values.items()}
        common = next(i for i, pair in enumerate(zip(ids["old"], ids["new"], strict=False)) if pair[0] != pair[1])
        beginning = model.tokenizer(fact.prompt)["input_ids"] + ids["old"][:common]
        seen = residuals_by_hooks(model, beginning)
        for layer, residual in enumerate(seen):
            with torch.inference_mode():
                logits = module.lm_head(module.gpt_neox.final_layer_norm(residual)[0, -1:])
            logprobs = logits[0].log_softmax(-1)
            for route in ("old", "new"):
                found = float(reading.logprob.sel(fact=fact.id, route=route, layer=layer))
                assert found == pytest.approx(float(logprobs[ids[route][common]]), abs=1e-4)


def test_generation_is_greedy_over_whole_beginnings(codes, few):
    model = codes()
    said = mm.generate(model, few)
    checkpoint, _ = read_logits_and_depth(model, few, generation=True)
    for fact in few:
        ids = model.tokenizer(fact.prompt)["input_ids"]
        longest = max(len(model.tokenizer(f" {value}")["input_ids"]) for value in (fact.old, fact.new))
        more = []
        for _ in range(longest):
            more.append(int(next_logprobs(model, ids + more).argmax()))
        expected = model.tokenizer.decode(more)
        assert str(said.sel(fact=fact.id).values).strip() == expected.strip()
        assert str(checkpoint.generation.sel(fact=fact.id).values).strip() == expected.strip()


def test_sampling_reads_each_text_alone(codes):
    model = codes()
    prompts = [[5, 6, 7], [9, 10, 11, 12, 13]]
    with model.inference():
        drawn = sampled(model, prompts, 3, torch.Generator().manual_seed(0), top_k=4)
    generator, texts = torch.Generator().manual_seed(0), [list(prompt) for prompt in prompts]
    for _ in range(3):
        best = torch.stack([next_logprobs(model, text) for text in texts]).topk(4)
        choice = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
        for text, token in zip(texts, best.indices.gather(1, choice)[:, 0].tolist(), strict=True):
            text.append(token)
    assert drawn == [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]


def test_a_patch_ends_where_each_model_stands(codes, few):
    source, target = codes(), codes(seed=1)
    for positions in ("divergence", "all"):
        patched = mm.patch_residual(source, target, few, positions=positions, progress=False)
        assert patched.check_error_nats < 1e-4
        for route in ("old", "new"):
            alone = mm.read_logits(source, few, "divergence").logprob.sel(route=route)
            np.testing.assert_allclose(patched.logprob_source.sel(route=route), alone, atol=1e-5)


def test_a_text_is_read_by_itself(codes):
    model, texts = codes(), ["Ana met Maria in the year", "The capital of France is Paris, that of Italy is Rome"]
    both, one = (mm.read_text(model, mm.held_out_text(model, some)) for some in (texts, texts[:1]))
    assert float(both.nll[0]) == float(one.nll[0])


def test_attribution_goes_where_no_code_is_in_the_way(codes, few):
    """Only attention outputs are quantised: components sum to the margin, heads cannot be told apart."""
    model = codes(spec={"model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"})
    assert model.is_read_alone
    assert mm.attribute(model, few, backend="nnsight").check_error_nats < 1e-4
    with pytest.raises(WeightsError, match=r"Attribution needs .*o_proj of .* is quantised"):
        mm.attribute(model, few, unit="head", backend="nnsight")


def test_a_batch_that_stands_apart_is_not_read_as_one_row(codes, few):
    model = codes()
    (batch,) = batches(encode_contests(model.tokenizer, few[:1]), score="sequence", alone=True)
    with pytest.raises(ModelError, match="in a pass each"):
        batch.inputs(model.device, model.dtype)
    passes = list(batch.passes())
    assert len(passes) == len(batch.rows) > 1
    assert all(one.input_ids.shape == (1, int(one.columns) + 1) for one in passes)
    beginnings = {tuple(one.input_ids[0].tolist()) for one in passes}
    assert len(beginnings) == len(passes)  # one that several routes share is read once


def test_the_proof_marks_what_is_not_offered(codes, few):
    checks = {check.name: check for check in prove(codes("gemma2"), few)}
    assert [name for name, check in checks.items() if check.is_needed and not check.passed] == []
    refused = {name for name, check in checks.items() if not check.passed}
    assert refused == {
        *("attributions sum, by transformer_lens", "attributions sum, by nnsight"),
        *("patch ends", "change undone", "projection for editors"),
    }
    assert all("is quantised" in checks[name].why for name in refused)


def test_torchao_weights(tiny_module, tokenizer, few):
    torchao = pytest.importorskip("torchao.quantization")
    for config, alone in (
        (torchao.Int8WeightOnlyConfig(), False),
        (torchao.Int8DynamicActivationInt8WeightConfig(), True),
    ):
        module = tiny_module("llama")
        torchao.quantize_(module, config)
        model = mm.load_model(module, tokenizer=tokenizer)
        assert model.is_read_alone == alone
        reading = mm.read_logits(model, few)
        assert float(reading.logprob.sel(route="old")[0]) == pytest.approx(by_hand(model, few[0], "old"), abs=1e-4)
        assert [check.name for check in prove(model, few) if check.is_needed and not check.passed] == []
        before = model.fingerprint
        with torch.no_grad():
            module.model.layers[0].mlp.down_proj.weight.qdata[0, 0] += 1
        assert model.fingerprint != before


@pytest.mark.parametrize("kind", ["Linear4bit", "Linear8bitLt"])
def test_bitsandbytes_weights(kind, tiny_module, tokenizer, few, tmp_path):
    bnb = pytest.importorskip("bitsandbytes")
    module = tiny_module("llama")
    for name, child in list(module.named_modules()):
        if type(child) is nn.Linear and "lm_head" not in name:
            if kind == "Linear4bit":
                new = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=False, quant_type="nf4")
                new.weight = bnb.nn.Params4bit(child.weight.data, requires_grad=False, quant_type="nf4", module=new)
            else:
                new = bnb.nn.Linear8bitLt(child.in_features, child.out_features, bias=False, has_fp16_weights=False)
                new.weight = bnb.nn.Int8Params(child.weight.data, requires_grad=False, has_fp16_weights=False)
            new.weight = new.weight.to("cpu")  # quantises
            setattr(module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], new)
    model = mm.load_model(module.eval(), tokenizer=tokenizer)
    assert model.is_read_alone == (kind == "Linear8bitLt")
    before = model.fingerprint
    reading = mm.read_logits(model, few[:1])
    assert model.fingerprint == before
    assert float(reading.logprob.sel(route="old")[0]) == pytest.approx(by_hand(model, few[0], "old"), abs=1e-3)
    assert [check.name for check in prove(model, few[:1]) if check.is_needed and not check.passed] == []
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = get_peft_model(copy.deepcopy(module), config).eval()
    adapted.save_pretrained(tmp_path)
    after = mm.read_logits(mm.load_change(tmp_path, model).on(model), few)
    assert after.logprob.equals(mm.read_logits(mm.load_model(adapted, tokenizer=tokenizer), few).logprob)
    assert not after.logprob.equals(mm.read_logits(model, few).logprob)
    assert model.fingerprint == before
    layer = module.model.layers[0].mlp.down_proj
    scales = layer.weight.quant_state.absmax if kind == "Linear4bit" else layer.state.SCB
    with torch.no_grad():
        scales.view(-1)[0] += 1
    assert model.fingerprint != before
