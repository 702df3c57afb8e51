"""Changes that other programs wrote: peft's adapters and whole checkpoints, held against peft and transformers."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from mechmask import load_change, load_model, read_logits
from mechmask.errors import ChangeError
from mechmask.write.adapter import AdapterChange
from mechmask.write.weights import Entries, WeightChange

IDS = torch.tensor([[5, 9, 11, 300, 17]])
ADAPTERS = {
    "lora": {"target_modules": ["q_proj", "down_proj"]},
    "rslora": {"target_modules": "all-linear", "use_rslora": True, "lora_alpha": 5},
    "dora": {"target_modules": r".*\.1\.mlp\.(up|down)_proj", "use_dora": True},
    "patterns": {
        "target_modules": ["q_proj", "v_proj", "o_proj"],
        "rank_pattern": {"1.self_attn.q_proj": 2, "v_proj": 3},
        "alpha_pattern": {"o_proj": 40},
        "layers_to_transform": [0, 1],
    },
}


def logits(module):
    with torch.inference_mode():
        return module(IDS.clamp(max=module.config.vocab_size - 1)).logits


def randomised(wrapped, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return wrapped.eval()


@pytest.fixture
def peft_directory(tiny_module, tmp_path):
    """``peft_directory(family, **config)``: what plain peft saves, and the logits with the adapter on."""

    def make(family="llama", name="default", directory="adapter", **config):
        wrapped = get_peft_model(tiny_module(family), LoraConfig(**config), adapter_name=name)
        wrapped = randomised(wrapped)
        wrapped.save_pretrained(tmp_path / directory)
        return tmp_path / directory, logits(wrapped)

    return make


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The adapter names .* as its base")
        yield


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_computes_as_in_peft(kind, peft_directory, tiny):
    directory, expected = peft_directory(**ADAPTERS[kind])
    model = tiny("llama")
    before = logits(model.module)
    change = load_change(directory, model)
    assert isinstance(change, AdapterChange)
    with change.applied(model):
        torch.testing.assert_close(logits(model.module), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(model.module), before)
    assert (expected - before).abs().max() > 1e-2


def test_every_family_takes_an_adapter(family, peft_directory, tiny):
    directory, expected = peft_directory(family, target_modules="all-linear")
    model = tiny(family)
    with load_change(directory).applied(model):
        torch.testing.assert_close(logits(model.module), expected, rtol=1e-4, atol=1e-4)


def test_it_is_bound_to_the_first_model(peft_directory, tiny, facts):
    directory, _ = peft_directory(**ADAPTERS["lora"])
    change = load_change(directory)
    model = tiny("llama")
    with pytest.raises(ChangeError, match="does not say which weights"):
        change.save(directory.parent / "saved")
    reading = read_logits(change.on(model), facts)
    assert read_logits(change.on(tiny("llama")), facts).logprob.equals(reading.logprob)
    with pytest.raises(ChangeError):
        read_logits(change.on(tiny("llama", seed=3)), facts)
    change.save(directory.parent / "saved")
    again = load_change(directory.parent / "saved", model)
    assert read_logits(again.on(model), facts).logprob.equals(reading.logprob)


def test_another_base_is_warned_of(peft_directory, tiny):
    directory, _ = peft_directory(**ADAPTERS["lora"])
    settings = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "lab/other"}))
    with pytest.warns(UserWarning, match="names lab/other as its base"):
        load_change(directory, tiny("llama"))


def test_two_adapters_by_name(tiny_module, tiny, tmp_path):
    wrapped = get_peft_model(tiny_module("llama"), LoraConfig(target_modules=["q_proj"]))
    wrapped.add_adapter("other", LoraConfig(target_modules=["down_proj"], r=4))
    randomised(wrapped).save_pretrained(tmp_path / "both")
    model = tiny("llama")
    with pytest.raises(ChangeError, match="Name one with adapter=: default, other"):
        load_change(tmp_path / "both")
    with pytest.raises(ChangeError, match="no adapter 'third'"):
        load_change(tmp_path / "both", adapter="third")
    for name in ("default", "other"):
        wrapped.set_adapter(name)
        expected = logits(wrapped)
        with load_change(tmp_path / "both", model, adapter=name).applied(model):
            torch.testing.assert_close(logits(model.module), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "lm_head.weight too"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
    ],
)
def test_what_is_more_than_factors_is_refused(config, said, peft_directory, tiny):
    directory, _ = peft_directory(**config)
    with pytest.raises(ChangeError, match=said):
        load_change(directory, tiny("llama"))


def test_damaged_adapters_are_refused(peft_directory, tiny):
    directory, _ = peft_directory(**ADAPTERS["lora"])
    model = tiny("llama")
    weights = directory / "adapter_model.safetensors"
    whole = weights.read_bytes()

    def refused(said):
        with pytest.raises(ChangeError, match=said) as caught:
            load_change(directory, model)
        assert "\n" not in str(caught.value)

    weights.write_bytes(whole[:-40])
    refused("is damaged")
    weights.write_bytes(whole)
    tensors = load_file(weights)
    name = next(name for name in tensors if "lora_A" in name)
    save_file({key: value for key, value in tensors.items() if key != name}, weights)
    refused("are not two of rank")
    weights.unlink()
    refused("pickled weights are refused")
    (directory / "adapter_config.json").write_text("[]")
    refused("is not an object")


def test_an_adapter_of_another_shape_is_refused(peft_directory, tiny):
    directory, _ = peft_directory("llama", **ADAPTERS["lora"])
    for family in ("gpt2", "phi"):
        with pytest.raises((ChangeError, ValueError)):
            load_change(directory, tiny(family))


@pytest.fixture
def checkpoint(tiny_module, tmp_path):
    """``checkpoint(family, edit)``: a directory of a whole model that ``edit`` changed."""

    def make(family, edit, directory="checkpoint", **options):
        module = tiny_module(family)
        with torch.no_grad():
            edit(module)
        module.save_pretrained(tmp_path / directory, **options)
        return tmp_path / directory, logits(module)

    return make


def _everything(module):
    for parameter in module.parameters():
        parameter.mul_(1.25)


def test_a_checkpoint_computes_as_in_transformers(family, checkpoint, tiny):
    directory, expected = checkpoint(family, _everything)
    model = tiny(family)
    before = logits(model.module)
    change = load_change(directory, model)
    assert isinstance(change, WeightChange)
    with change.applied(model):
        assert torch.equal(logits(model.module), expected)
    assert torch.equal(logits(model.module), before)


def test_shards_and_differences(checkpoint, tiny):
    def one_entry(module):
        module.model.layers[1].mlp.down_proj.weight[3, 5] += 1

    directory, expected = checkpoint("llama", one_entry, max_shard_size="20KB")
    assert len(list(directory.glob("*.safetensors"))) > 2
    model = tiny("llama")
    change = load_change(directory, model)
    assert change.weights == ("model.layers.1.mlp.down_proj.weight",)
    assert isinstance(change.after[change.weights[0]], Entries)
    with change.applied(model):
        assert torch.equal(logits(model.module), expected)
    next(directory.glob("model-00002*")).unlink()
    with pytest.raises(ChangeError, match="lacks model-00002"):
        load_change(directory, model)


def test_checkpoints_that_do_not_belong_are_refused(checkpoint, tiny):
    directory, _ = checkpoint("llama", _everything)
    with pytest.raises(ChangeError, match=r"does not compute as .* does: "):
        load_change(directory, tiny("qwen2"))
    with pytest.raises(ChangeError, match="num_hidden_layers"):
        load_change(directory, tiny("llama", num_hidden_layers=2))
    weights = directory / "model.safetensors"
    tensors = load_file(weights)
    name = "model.norm.weight"
    save_file({key: value for key, value in tensors.items() if key != name}, weights, {"format": "pt"})
    with pytest.raises(ChangeError, match=r"lacks 1 weights, such as model\.norm\.weight"):
        load_change(directory, tiny("llama"))
    save_file({**tensors, "model.extra": tensors[name].clone()}, weights, {"format": "pt"})
    with pytest.raises(ChangeError, match=r"holds model\.extra, which"):
        load_change(directory, tiny("llama"))
    save_file({**tensors, name: tensors[name][:3].clone()}, weights, {"format": "pt"})
    with pytest.raises(ChangeError, match=r"is \(3,\) there"):
        load_change(directory, tiny("llama"))
    weights.unlink()
    with pytest.raises(ChangeError, match="pickled weights are refused"):
        load_change(directory)


def test_a_checkpoint_of_the_models_own_weights_is_refused(checkpoint, tiny):
    directory, _ = checkpoint("llama", lambda module: None)
    with pytest.raises(ChangeError, match="changes nothing"):
        load_change(directory, tiny("llama"))


def test_another_type_is_taken_into_the_models(checkpoint, tiny_module, facts, tokenizer, tmp_path):
    tiny_module("llama").save_pretrained(tmp_path / "base")
    directory, _ = checkpoint("llama", _everything)
    base, half = (load_model(where, tokenizer=tokenizer, dtype="bfloat16") for where in (tmp_path / "base", directory))
    change = load_change(directory, base)
    assert change.details["stored_as"] == ["float32"]
    assert read_logits(change.on(base), facts).logprob.equals(read_logits(half, facts).logprob)


def test_peft_loads_what_was_saved_again(peft_directory, tiny, tiny_module, tmp_path):
    directory, expected = peft_directory(**ADAPTERS["patterns"])
    load_change(directory, tiny("llama")).save(tmp_path / "again")
    wrapped = PeftModel.from_pretrained(tiny_module("llama"), str(tmp_path / "again"))
    torch.testing.assert_close(logits(wrapped.eval()), expected, rtol=1e-5, atol=1e-5)
