"""``load_model``: every door, and what is turned away at it."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
import xarray as xr
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

import mechmask as mm
from mechmask.errors import ModelError


@pytest.fixture
def saved(tiny_module, tokenizer, tmp_path):
    """A directory as ``save_pretrained`` writes it."""
    directory = tmp_path / "model"
    tiny_module("llama").save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def adapter(saved, tmp_path):
    """A PEFT adapter directory beside its base; its B is random."""
    base = AutoModelForCausalLM.from_pretrained(saved)
    torch.manual_seed(0)
    wrapped = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    wrapped.peft_config["default"].base_model_name_or_path = str(saved)
    wrapped.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def refused(*args, **options):
    """The message of a refusal: sentences that name a remedy, and no traceback of others."""
    with pytest.raises(ModelError) as caught:
        mm.load_model(*args, **options)
    message = str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert message[-1] in ".)" and len(message) < 900 and message.count("\n") == 0, message
    return message


def logits(module):
    with torch.no_grad():
        return module(torch.tensor([[5, 9, 300, 17]])).logits


def test_a_local_directory(saved, tiny_module):
    model = mm.load_model(saved)
    assert torch.equal(logits(model.module), logits(tiny_module("llama")))
    assert model.name == str(saved)
    assert (model.family, model.n_layers, model.width, model.vocab_size) == ("llama", 3, 32, 512)
    assert model.dtype == torch.float32 and str(model.device) == "cpu"
    assert not model.module.training
    assert mm.load_model(str(saved)).fingerprint == model.fingerprint
    assert repr(model).startswith("Model(") and "3 layers" in repr(model)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("bfloat16", torch.bfloat16), ("float16", torch.float16), (torch.bfloat16, torch.bfloat16)]
)
def test_dtype(saved, dtype, expected):
    assert {p.dtype for p in mm.load_model(saved, dtype=dtype).module.parameters()} == {expected}


def test_dtype_auto_is_as_stored(tiny_module, tokenizer, tmp_path):
    tiny_module("llama", torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert mm.load_model(tmp_path).dtype == torch.bfloat16
    assert mm.load_model(tmp_path, dtype="float32").dtype == torch.float32


def test_device_map(saved, facts):
    pytest.importorskip("accelerate")
    model, plain = mm.load_model(saved, device_map="cpu"), mm.load_model(saved)
    xr.testing.assert_equal(mm.read_logits(model, facts).logprob, mm.read_logits(plain, facts).logprob)
    assert str(mm.load_model(saved, device="cpu").device) == "cpu"


def test_a_loaded_module_is_taken_as_it_is(tiny_module, tokenizer):
    module = tiny_module("gpt2")
    model = mm.load_model(module, tokenizer=tokenizer)
    assert model.module is module
    assert model.tokenizer is tokenizer
    assert model.name == "GPT2LMHeadModel"


def test_another_tokenizer_than_the_directorys(saved, bos_tokenizer):
    assert mm.load_model(saved, tokenizer=bos_tokenizer).tokenizer is bos_tokenizer


def test_an_adapter_directory_on_its_base(adapter, saved):
    model = mm.load_model(adapter)
    by_peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(saved), str(adapter)).eval()
    assert not isinstance(model.module, PeftModel)
    assert torch.equal(logits(model.module), logits(by_peft))
    assert not torch.equal(logits(model.module), logits(AutoModelForCausalLM.from_pretrained(saved)))
    assert model.n_layers == 3


def test_without_adapter_is_the_base_bit_for_bit(adapter, saved, facts):
    model, base = mm.load_model(adapter), mm.load_model(saved)
    adapted = mm.read_logits(model, facts)
    with model.without_adapter():
        off = mm.read_logits(model, facts)
        assert model.fingerprint == base.fingerprint
    xr.testing.assert_equal(off, mm.read_logits(base, facts))
    assert abs(off.logprob - adapted.logprob).max() > 0.1
    xr.testing.assert_identical(mm.read_logits(model, facts), adapted)


def test_the_adapter_comes_back_after_an_error(adapter, facts):
    model = mm.load_model(adapter)
    before = logits(model.module)
    with pytest.raises(RuntimeError), model.without_adapter():
        raise RuntimeError
    assert torch.equal(logits(model.module), before)
    with model.without_adapter(), model.without_adapter():
        inside = logits(model.module)
    assert not torch.equal(inside, before)
    assert torch.equal(logits(model.module), before)


def test_a_model_without_adapter_has_none_to_switch_off(saved):
    model = mm.load_model(saved)
    with pytest.raises(ModelError, match=r"no adapter to switch off. Load"), model.without_adapter():
        pass


def test_a_peft_model_is_unwrapped(tiny_module, tokenizer, facts):
    wrapped = get_peft_model(tiny_module("gpt_neox"), LoraConfig(r=2, init_lora_weights=False)).eval()
    model = mm.load_model(wrapped, tokenizer=tokenizer)
    assert model.module is wrapped.base_model.model
    assert model.family == "gpt_neox"
    assert torch.equal(logits(model.module), logits(wrapped))
    mm.read_logits(model, facts)


def test_an_adapter_that_is_zero(adapter):
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file({name: t.zero_() if "lora_B" in name else t for name, t in load_file(path).items()}, path)
    assert "every lora_B is zero" in refused(adapter)


def test_an_adapter_whose_names_fit_nothing(adapter):
    """peft warns and leaves the factors as they were made: here at random, by default as the identity."""
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file({name.replace("layers", "blocks"): t for name, t in load_file(path).items()}, path)
    refused(adapter)


def test_an_adapter_that_lacks_some_of_its_factors(adapter):
    """Half of an adapter is another model than the one that was trained: refused, not read."""
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file({name: t for name, t in load_file(path).items() if ".layers.1." not in name}, path)
    refused(adapter)


def test_an_adapter_that_names_no_base(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    assert "does not name its base model. Load the base" in refused(adapter)


def test_an_adapter_whose_base_is_gone(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": str(adapter / "gone")})
    )
    assert "No model can be loaded from" in refused(adapter)


def test_a_pickled_adapter(adapter):
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({}, adapter / "adapter_model.bin")
    assert "pickled weights are refused" in refused(adapter)


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_an_adapter_config_that_is_no_json_object(adapter, text):
    (adapter / "adapter_config.json").write_text(text)
    refused(adapter)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_type": "no-such"}'])
def test_a_config_that_cannot_be_used(saved, text):
    (saved / "config.json").write_text(text)
    refused(saved)


class Trap:
    def __reduce__(self):
        return (open, ("/tmp/mechmask-was-here", "w"))


def test_pickled_weights_are_not_opened(saved, tmp_path):
    from pathlib import Path

    weights = AutoModelForCausalLM.from_pretrained(saved).state_dict()
    (saved / "model.safetensors").unlink()
    torch.save(weights, saved / "pytorch_model.bin")
    assert "pickled ones are refused" in refused(saved)
    (saved / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    refused(saved)
    assert not Path("/tmp/mechmask-was-here").exists()


def test_truncated_weights(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    refused(saved)


def test_weights_of_another_shape(saved, tiny_module):
    tiny_module("llama", intermediate_size=48).save_pretrained(saved / "other")
    (saved / "other" / "model.safetensors").rename(saved / "model.safetensors")
    refused(saved)


def test_weights_that_are_missing_are_not_made_up(saved):
    """transformers fills what it does not find with random numbers and warns: every number read would be noise."""
    from safetensors.torch import load_file, save_file

    path = saved / "model.safetensors"
    save_file(
        {name: t for name, t in load_file(path).items() if "layers.1.mlp.down_proj" not in name}, path, {"format": "pt"}
    )
    assert "down_proj" in refused(saved)


def test_an_empty_directory(tmp_path):
    assert "neither config.json nor adapter_config.json" in refused(tmp_path)


@pytest.mark.parametrize("name", ["not/there", "/not/there/at/all", "no-such-model"])
def test_a_path_that_is_not_there(name):
    message = refused(name)
    assert name in message and "smollm2-135m" in message


def test_a_directory_without_tokenizer(tiny_module, tokenizer, tmp_path):
    """As a Trainer leaves a checkpoint that it was given no tokenizer for."""
    tiny_module("llama").save_pretrained(tmp_path)
    assert "has no tokenizer. Pass tokenizer=AutoTokenizer" in refused(tmp_path)
    assert mm.load_model(tmp_path, tokenizer=tokenizer).n_layers == 3


@pytest.mark.parametrize("kernel", ["someone/kernel", "kernels-community/flash-attn", "flash_attention_2", "no-such"])
def test_an_attention_that_would_be_downloaded_is_overridden(saved, tiny_module, kernel):
    config = json.loads((saved / "config.json").read_text())
    for field in ("attn_implementation", "_attn_implementation"):
        (saved / "config.json").write_text(json.dumps({**config, field: kernel}))
        model = mm.load_model(saved)
        assert model.module.config._attn_implementation == "sdpa"
        assert torch.equal(logits(model.module), logits(tiny_module("llama")))


def test_every_family_is_loaded_by_an_attention_of_its_own(tiny_module, tokenizer, family, tmp_path):
    module = tiny_module(family)
    module.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = mm.load_model(tmp_path)
    assert model.module.config._attn_implementation == module.config._attn_implementation
    assert torch.equal(logits(model.module), logits(module))


@pytest.mark.parametrize("name", ["x" * 300, "x/" + "y" * 300, "a\0b", "x" * 5000 + ".gguf"])
def test_a_name_that_no_file_can_have(name):
    assert "Check it." in refused(name)


def test_prompt_learning_is_refused_not_dropped(tiny_module, tokenizer):
    from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig

    for config in (PromptTuningConfig, PrefixTuningConfig, PromptEncoderConfig):
        wrapped = get_peft_model(tiny_module("gpt2"), config(task_type="CAUSAL_LM", num_virtual_tokens=3))
        assert f"An adapter of kind '{wrapped.active_peft_config.peft_type.value}'" in refused(
            wrapped, tokenizer=tokenizer
        )


def test_adapters_of_other_kinds_on_a_module(tiny_module, tokenizer):
    from peft import IA3Config, OFTConfig

    for config in (
        IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
        OFTConfig(target_modules=["q_proj"], oft_block_size=4, r=0),
    ):
        wrapped = get_peft_model(tiny_module("llama"), config)
        assert "An adapter of kind" in refused(wrapped, tokenizer=tokenizer)
        assert "mechmask reads LoRA adapters" in refused(wrapped.base_model.model, tokenizer=tokenizer)
    trained_tokens = LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[1, 2])
    wrapped = get_peft_model(tiny_module("llama"), trained_tokens)
    assert "mechmask reads LoRA adapters" in refused(wrapped, tokenizer=tokenizer)


def weights_of(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def test_a_merged_adapter_is_read_and_never_unmerged(tiny_module, tokenizer, facts):
    wrapped = get_peft_model(tiny_module("llama"), LoraConfig(r=2, init_lora_weights=False)).eval()
    apart = logits(wrapped)
    wrapped.merge_adapter()
    before = weights_of(wrapped)
    model = mm.load_model(wrapped, tokenizer=tokenizer)
    assert torch.allclose(logits(model.module), apart, atol=1e-4)
    mm.read_logits(model, facts[:2])
    with pytest.raises(ModelError, match=r"An adapter is merged into .* Unmerge it before"), model.without_adapter():
        pass
    after = weights_of(wrapped)
    assert all(torch.equal(before[name], after[name]) for name in before)
    wrapped.base_model.disable_adapter_layers()
    assert "merged and switched off" in refused(wrapped, tokenizer=tokenizer)


def test_modules_to_save_are_switched_off_too(tiny_module, tokenizer):
    base = logits(tiny_module("llama", tie_word_embeddings=False))
    config = LoraConfig(r=2, init_lora_weights=False, modules_to_save=["lm_head"])
    wrapped = get_peft_model(tiny_module("llama", tie_word_embeddings=False), config).eval()
    wrapped.base_model.model.lm_head.modules_to_save["default"].weight.data.mul_(2)
    model = mm.load_model(wrapped, tokenizer=tokenizer)
    on, asked = logits(wrapped), {name: p.requires_grad for name, p in wrapped.named_parameters()}
    with model.without_adapter():
        assert torch.equal(logits(model.module), base)
    assert torch.equal(logits(wrapped), on)
    assert {name: p.requires_grad for name, p in wrapped.named_parameters()} == asked


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"peft_type": "LORA", "r": ' + "1" * 5000 + "}", "\udcff", '"LORA"', "NaN"]
)
def test_an_adapter_config_that_would_upset_a_parser(adapter, text):
    (adapter / "adapter_config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(adapter)


def test_an_adapter_on_an_adapter(adapter, tmp_path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(adapter)}))
    assert "was made on another adapter" in refused(adapter)


def test_loading_says_nothing(adapter, saved, capfd, recwarn):
    mm.load_model(saved)
    mm.load_model(adapter)
    mm.load_model(saved, dtype="bfloat16")
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []


def test_arguments_that_contradict_each_other(saved, tiny_module, tokenizer):
    assert "Pass one of them" in refused(saved, device="cpu", device_map="cpu")
    for option in ({"revision": "main"}, {"dtype": "float32"}, {"device_map": "cpu"}):
        assert "loaded already. Leave them out" in refused(tiny_module("llama"), tokenizer=tokenizer, **option)


@pytest.mark.parametrize("dtype", ["float8", "int8", "fp32", ""])
def test_a_dtype_that_is_none(saved, dtype):
    assert "float32, bfloat16, float16" in refused(saved, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.complex64])
def test_a_torch_dtype_that_no_reading_knows(saved, dtype):
    refused(saved, dtype=dtype)
    assert torch.get_default_dtype() == torch.float32


def test_a_device_that_is_none(saved):
    refused(saved, device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_a_device_that_is_not_here(saved):
    refused(saved, device="cuda")
    refused(saved, device_map="cuda")


def test_a_module_without_its_tokenizer(tiny_module):
    assert "Pass tokenizer=" in refused(tiny_module("llama"))


def test_a_tokenizer_larger_than_the_embedding(tiny_module, tokenizer):
    assert "knows 420 tokens and the model 400" in refused(tiny_module("llama", vocab_size=400), tokenizer=tokenizer)


def test_a_slow_tokenizer(tiny_module, tmp_path):
    from transformers import ByT5Tokenizer

    slow = ByT5Tokenizer()
    assert not slow.is_fast
    assert "character offsets" in refused(tiny_module("llama"), tokenizer=slow)


def test_a_module_of_an_unknown_family(tokenizer):
    from transformers import MambaConfig

    module = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=512, hidden_size=32, num_hidden_layers=1))
    assert "'mamba' family of models is not known" in refused(module, tokenizer=tokenizer)
    assert "not a transformers model" in refused(torch.nn.Linear(2, 2), tokenizer=tokenizer)


def test_code_that_comes_with_a_model_does_not_run(saved):
    config = json.loads((saved / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (saved / "config.json").write_text(json.dumps(config))
    (saved / "own.py").write_text("raise SystemExit('the code of the model ran')")
    refused(saved)


def test_progress_bars_of_transformers_are_as_they_were(saved):
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    mm.load_model(saved)
    refused("not/there")
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == before
