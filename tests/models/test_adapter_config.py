"""An adapter's configuration builds a LoRA adapter and does nothing else to the base, whatever it says."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraModel
from safetensors.torch import load_file

import mechmask as mm
from mechmask.errors import ModelError
from mechmask.models.adapter_config import safe_lora_config
from mechmask.models.fingerprint import fingerprint

PLAIN = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "down_proj"]}


def saved(config, tmp_path):
    """The configuration as peft writes it."""
    config.save_pretrained(str(tmp_path))
    return json.loads((tmp_path / "adapter_config.json").read_text())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True, "lora_alpha": 7, "lora_dropout": 0.25},
        {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 3.5}},
        {"layers_to_transform": [0], "layers_pattern": "layers"},
        {"target_modules": r".*\.(q|v)_proj", "fan_in_fan_out": False},
        {"modules_to_save": ["lm_head"], "task_type": "CAUSAL_LM"},
        {"init_lora_weights": "gaussian"},
    ],
)
def test_what_peft_saves_builds_the_same_adapter(tiny_module, tmp_path, options):
    config = LoraConfig(**{"r": 2, "target_modules": ["q_proj", "down_proj"], **options})
    rebuilt = safe_lora_config(saved(config, tmp_path))
    wanted, built = (get_peft_model(tiny_module("llama"), c) for c in (config, rebuilt))
    shapes = [{name: tensor.shape for name, tensor in m.state_dict().items()} for m in (wanted, built)]
    assert shapes[0] == shapes[1]
    scales = [
        [c.scaling for c in m.modules() if hasattr(c, "scaling") and hasattr(c, "lora_A")] for m in (wanted, built)
    ]
    assert scales[0] == scales[1] and scales[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("init_lora_weights", kind) for kind in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", 3)],
        ("target_parameters", ["layers.0.mlp.down_proj.weight"]),
        ("layer_replication", [[0, 2], [1, 3]]),
        ("trainable_token_indices", [1, 2]),
        ("alora_invocation_tokens", [1]),
        ("bias", "all"),
        ("megatron_config", {"a": 1}),
        ("use_qalora", True),
        ("lora_bias", True),
        ("of_a_later_peft", "on"),
        *[("r", value) for value in (0, -1, "2", 2.5, True, 10**9, [2])],
        ("lora_alpha", float("nan")),
        ("lora_dropout", 2.0),
        ("target_modules", {"a": 1}),
        ("target_modules", [1]),
        ("rank_pattern", {"q_proj": "two"}),
        ("modules_to_save", "lm_head"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(field, value):
    with pytest.raises(ModelError, match=rf"^The adapter's {field} is .*not supported"):
        safe_lora_config({**PLAIN, field: value})


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "IA3", "OFT", "VERA", "", None, 3])
def test_other_kinds_are_refused_by_name(kind):
    with pytest.raises(ModelError, match=r"An adapter of kind .* is not supported: mechmask reads LoRA"):
        safe_lora_config({**PLAIN, "peft_type": kind})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
known = st.sampled_from(sorted({field for field in LoraConfig.__dataclass_fields__} | {"other"}))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(known, json_values, max_size=4))
def test_nothing_but_a_model_error_comes_out(raw):
    try:
        config = safe_lora_config({**PLAIN, **raw})
    except ModelError as error:
        assert "\n" not in str(error).strip() and "pydantic" not in str(error)
    else:
        assert config.init_lora_weights is True and config.target_parameters is None and config.bias == "none"


def test_no_initialisation_touches_the_base(tiny_module):
    """As ``init_lora_weights="pissa"`` does, which is why a file may not ask for it."""
    module = tiny_module("llama")
    before = fingerprint(module)
    LoraModel(module, safe_lora_config({**PLAIN, "init_lora_weights": False}), "default").unload()
    assert fingerprint(module) == before
    LoraModel(module, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="pissa"), "default").unload()
    assert fingerprint(module) != before


@pytest.mark.parametrize("fields", [{"init_lora_weights": "pissa"}, {"peft_type": "PREFIX_TUNING"}, {"r": "x" * 500}])
def test_an_adapter_directory_is_held_to_it(tiny_module, tokenizer, tmp_path, fields):
    tiny_module("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    wrapped = get_peft_model(tiny_module("llama"), LoraConfig(**{k: v for k, v in PLAIN.items() if k != "peft_type"}))
    wrapped.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    wrapped.save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(ModelError, match="not supported"):
        mm.load_model(tmp_path / "adapter")


@pytest.mark.parametrize("options", [{"use_dora": True}, {"use_rslora": True}, {"modules_to_save": ["lm_head"]}])
def test_the_lora_family_is_loaded_as_peft_loads_it(tiny_module, tokenizer, tmp_path, options):
    base = tiny_module("llama", tie_word_embeddings=False)
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False, **options)
    wrapped = get_peft_model(base, config).eval()
    ids = torch.tensor([[5, 9, 300, 17]])
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "modules_to_save" in name or "magnitude" in name:
                parameter.mul_(1.5)
        wanted = wrapped(ids).logits
        with wrapped.disable_adapter():
            wanted_base = wrapped(ids).logits
    wrapped.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    model = mm.load_model(tmp_path / "adapter")
    with model.inference():
        assert torch.equal(model.module(ids).logits, wanted)
        with model.without_adapter():
            assert torch.equal(model.module(ids).logits, wanted_base)
            assert model.fingerprint == mm.load_model(tmp_path / "base").fingerprint == model.base_fingerprint
        assert torch.equal(model.module(ids).logits, wanted)
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors")
