"""A variant is the changed model while it is active, and nothing at any other time."""

from __future__ import annotations

import signal
import sys
from contextlib import nullcontext

import pytest
import torch

from mechmask import FinetuneConfig, FTLConfig, edit, finetune, read_logits
from mechmask.models.states import Variant, active, unchanged, unlike


@pytest.fixture(scope="module")
def adapted(tiny, facts):
    model = tiny("llama")
    return model, finetune(model, facts[:4].contradiction_examples(), FinetuneConfig(steps=2, lr=1e-2))


def test_it_is_the_changed_model_under_its_own_name(adapted, facts):
    model, lora = adapted
    before, fingerprint = read_logits(model, facts), model.fingerprint
    with lora.applied(model):
        wanted, inside = read_logits(model, facts), model.fingerprint
    variant = lora.on(model)
    assert isinstance(variant, Variant)
    with variant.active() as changed:
        found = read_logits(changed, facts)
        assert changed.module is model.module
    assert found.logprob.equals(wanted.logprob)
    assert (found.attrs["model"], found.attrs["fingerprint"]) == ("LlamaForCausalLM + lora", inside)
    assert not found.logprob.equals(before.logprob)
    assert model.fingerprint == fingerprint
    assert repr(variant) == "Variant('LlamaForCausalLM + lora')"


def test_changes_are_stacked(adapted, facts):
    model, lora = adapted
    with lora.applied(model):
        edited = edit(model, [facts[0]], "ft_l", FTLConfig(layer=1, clamp=1e-2, steps=2))
        with edited.applied(model):
            wanted = read_logits(model, facts)
    both = edited.on(lora.on(model))
    with active(both) as changed:
        assert read_logits(changed, facts).logprob.equals(wanted.logprob)
        assert changed.name == "LlamaForCausalLM + lora + ft_l"
    assert unchanged(both) is model


def test_a_model_is_its_own_variant(tiny):
    model = tiny("gpt2")
    with active(model) as same:
        assert same is model
    assert unchanged(model) is model


def test_an_error_inside_takes_the_change_off(adapted):
    model, lora = adapted
    fingerprint = model.fingerprint
    with pytest.raises(RuntimeError, match="inside"), lora.on(model).active():
        raise RuntimeError("inside")
    assert model.fingerprint == fingerprint


@pytest.mark.parametrize("setting", [{"num_hidden_layers": 2}, {"rms_norm_eps": 1e-3}, {"num_key_value_heads": 4}])
def test_a_setting_that_blocks_compute_by_is_found(tiny, setting):
    (name,) = setting
    assert name in unlike(tiny("llama"), tiny("llama", **setting))


def test_families_differ(tiny):
    assert " is " in unlike(tiny("llama"), tiny("qwen2", num_hidden_layers=3))
    assert " is " in unlike(tiny("gpt2"), tiny("gptj"))


def test_what_no_block_computes_is_no_difference(tiny, family):
    other = tiny(family, torch.bfloat16, 1, attention_dropout=0.5, tie_word_embeddings=True, use_cache=False)
    other.module.config._name_or_path = "elsewhere"
    assert unlike(tiny(family), other) == ""


def test_a_variant_knows_what_no_change_touches(adapted):
    model, lora = adapted
    variant = lora.on(lora.on(model))
    assert variant.base is model and variant.changes == (lora, lora)
    for name in ("tokenizer", "family", "n_layers", "width", "vocab_size", "device", "dtype"):
        assert getattr(variant, name) == getattr(model, name)


def test_the_changes_are_innermost_first(adapted, facts):
    model, lora = adapted
    with lora.applied(model):
        edited = edit(model, [facts[0]], "ft_l", FTLConfig(layer=1, clamp=1e-2, steps=2))
    assert edited.on(lora.on(model)).changes == (lora, edited)


@pytest.mark.parametrize("state", [True, False])
def test_tab_completion_shows_no_internals(adapted, state):
    model, lora = adapted
    shown = [name for name in dir(lora.on(model) if state else model) if not name.startswith("__")]
    assert [name for name in shown if name.startswith("_")] == ["_repr_html_"]  # Jupyter's own protocol


def interrupted(context, number):
    """SIGINT at the ``number``-th line of entering, body and leaving; whether there were so many."""
    counted = 0

    def trace(frame, event, _argument):
        nonlocal counted
        if event == "line" and ("mechmask" in frame.f_code.co_filename or "peft" in frame.f_code.co_filename):
            counted += 1
            if counted == number:
                signal.raise_signal(signal.SIGINT)
        return trace

    sys.settrace(trace)
    try:
        with context:
            pass
    finally:
        sys.settrace(None)
    return counted >= number


@pytest.mark.parametrize("kind", ["evaluation", "inference", "without_adapter", "active"])
def test_ctrl_c_at_any_moment_leaves_the_model_as_it_was(adapted, facts, kind):
    """At evenly spread lines of each context, the lines of the change that it applies among them."""
    model, lora = adapted
    edited = edit(model, [facts[0]], "ft_l", FTLConfig(layer=1, clamp=1e-2, steps=2))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with nullcontext() if kind != "without_adapter" else lora.applied(model):
        model.module.train()
        state = model.fingerprint, [child.training for child in model.module.modules()]
        number, raised = 1, 0
        try:
            while True:
                context = edited.on(model).active() if kind == "active" else getattr(model, kind)()
                try:
                    if not interrupted(context, number):
                        break
                except KeyboardInterrupt:
                    raised += 1
                del context
                assert (model.fingerprint, [child.training for child in model.module.modules()]) == state, number
                assert not torch.is_inference_mode_enabled()
                number += max(1, number // 4)
        finally:
            signal.signal(signal.SIGINT, before)
            model.module.eval()
        assert raised > 12
