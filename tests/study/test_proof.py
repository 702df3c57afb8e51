"""The proof behind ``mechmask doctor``: every family passes it, and what is broken on purpose does not."""

from __future__ import annotations

import importlib.util
import subprocess
import warnings
from pathlib import Path

import pytest
import torch

import mechmask as mm
from mechmask.errors import ModelError, ReadingError
from mechmask.models.anatomy import LAYOUTS, anatomy_of
from mechmask.models.layout_search import layout_of
from mechmask.study.proof import prove

_SPEC = importlib.util.spec_from_file_location("shared", Path(__file__).parents[1] / "conftest.py")
_SHARED = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_SHARED)
MIXTURES = (
    *("deepseek_v2", "deepseek_v3", "glm4_moe", "gpt_oss", "llama4_text", "mixtral", "qwen3_moe", "qwen3_next"),
)
SCALED = {"cohere": "logit_factor", "cohere2": "logit_factor", "granite": "logit_divisor"}


@pytest.fixture(scope="module")
def few():
    return mm.synthetic_facts(3, seed=0, n_never=0)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_family_passes(name, tiny, few):
    model = tiny(name)
    before = {key: tensor.clone() for key, tensor in model.module.state_dict().items()}
    checks = {check.name: check for check in prove(model, few)}
    failed = {check.name: check.why for check in checks.values() if check.is_needed and not check.passed}
    assert not failed
    assert len(checks) == 11
    offered = checks["projection for editors"].passed
    assert offered == (name not in (*MIXTURES, "granite"))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.module.state_dict().items())


@pytest.mark.parametrize("name", sorted(_SHARED.MORE_FAMILIES))
def test_the_output_is_that_of_plain_transformers(name, tiny, few):
    """Shares nothing with mechmask but the tokenizer: a sum of log-probabilities over the value's tokens."""
    model = tiny(name)
    reading = mm.read_logits(model, few)
    for fact in few:
        prompt, value = (model.tokenizer(text)["input_ids"] for text in (fact.prompt, f" {fact.new}"))
        with torch.inference_mode():
            logprobs = model.module(torch.tensor([prompt + value])).logits[0].float().log_softmax(-1)
        expected = sum(float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(value))
        assert float(reading.logprob.sel(fact=fact.id, route="new")) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("name", sorted(name for name in LAYOUTS if not LAYOUTS[name].adds_more))
def test_a_layout_is_worked_out_as_it_was_written_by_hand(name, tiny_module):
    assert layout_of(tiny_module(name)) == LAYOUTS[name]


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("gemma4_text", r"the final norm: model\.norm, model\.per_layer_projection_norm"),
        ("qwen3_next", r"a block's attention: linear_attn, self_attn"),
    ],
)
def test_a_family_whose_blocks_add_more_is_not_guessed(name, candidates, tiny_module, tiny, few):
    with pytest.raises(ModelError, match=candidates):
        layout_of(tiny_module(name))
    with pytest.raises(ReadingError, match="no sum over attentions and MLPs"):
        mm.attribute(tiny(name), few)


def test_facts_do_not_see_each_other_in_a_recurrent_model(tiny, few):
    """Linear attention has no mask: what stands in a row before a fact would be read as its past."""
    model = tiny("qwen3_next")
    together = mm.read_logits(model, few).logprob
    alone = [mm.read_logits(model, [fact]).logprob for fact in few]
    for fact, reading in zip(few, alone, strict=True):
        shared = together.sel(fact=[fact.id], route=reading.route)
        assert float(abs(shared - reading).max()) < 1e-4


def test_a_family_that_is_not_known_is_read_with_a_warning(tiny, few, monkeypatch):
    known = tiny("qwen3")
    monkeypatch.delitem(LAYOUTS, "qwen3")
    with pytest.warns(UserWarning, match=r"'qwen3' family is not known.*blocks model\.layers"):
        model = tiny("qwen3")
    assert all(check.passed for check in prove(model, few))
    assert mm.read_depth(model, few).logprob.equals(mm.read_depth(known, few).logprob)


def test_two_candidates_are_refused_by_name(tiny_module, monkeypatch):
    monkeypatch.delitem(LAYOUTS, "llama")
    module = tiny_module("llama")
    module.model.other_norm = torch.nn.LayerNorm(32)
    with pytest.raises(ModelError, match=r"2 candidates for the final norm: model\.norm, model\.other_norm") as caught:
        anatomy_of(module)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SCALED)
def test_a_scale_that_is_left_out_fails(name, tiny, few, monkeypatch):
    monkeypatch.setitem(LAYOUTS, name, LAYOUTS["llama"])
    failed = {check.name for check in prove(tiny(name), few) if not check.passed}
    assert {"output", "every layer by nnsight"} <= failed


def test_a_model_that_a_hook_rewrites_fails_with_a_cause(tiny, few):
    model = tiny("llama")
    handle = model.module.lm_head.register_forward_hook(lambda module, args, output: output * 1.5)
    try:
        checks = prove(model, few)
    finally:
        handle.remove()
    failed = [check for check in checks if not check.passed]
    assert "output" in {check.name for check in failed}
    assert any("forward hook" in check.why for check in failed)


def test_positions_that_a_model_does_not_take_show(tiny, few):
    """MPT counts columns, not positions, so routes that share a row are read wrongly: refused, not silently wrong."""
    config = {"vocab_size": 512, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256}
    with pytest.warns(UserWarning, match="'mpt' family is not known"):
        model = tiny("mpt", **config)
    assert not {check.name: check for check in prove(model, few)}["output"].passed


def test_doctor_prints_the_proof(mechmask, tiny, tmp_path):
    model = tiny("llama")
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    shown = mechmask("doctor", tmp_path / "model")
    assert shown.code == 0, shown.err
    assert "attributions sum, by nnsight" in shown.out
    assert "FAILED" not in shown.out
    assert shown.out.count("passed") == 11


@pytest.mark.parametrize("kind", ["gemma3", "mistral3"])
def test_a_text_model_inside_a_multimodal_one_is_read(kind, tokenizer, few, monkeypatch):
    """And nothing is installed for it: TransformerLens would fetch torchvision by pip, and with it another torch."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    for name in ("check_call", "run", "Popen"):
        monkeypatch.setattr(subprocess, name, lambda *command, **_: pytest.fail(f"a process was started: {command}"))

    text = {
        "vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    config = AutoConfig.for_model(kind)
    config = type(config)(
        text_config=type(config.text_config)(**text), vision_config=type(config.vision_config)(**vision)
    )
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the family is known
        module = AutoModelForImageTextToText.from_config(config).eval()
        model = mm.load_model(module, tokenizer=tokenizer)
    failed = {check.name: check.why for check in prove(model, few) if check.is_needed and not check.passed}
    assert not failed
