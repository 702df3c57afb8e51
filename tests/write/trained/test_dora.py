"""DoRA is peft's: trained, on disk, and with dropout."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.nn.functional import cross_entropy

from mechmask import FinetuneConfig, finetune, load_change, scaled
from mechmask.models.routes import encode_examples
from mechmask.write.finetune import Finetuning, lora_config

DORA = FinetuneConfig(method="dora", steps=4, lr=1e-2, rank=3, alpha=5.0)


@pytest.fixture
def examples(facts):
    return facts[:5].contradiction_examples()


def _of_peft(plain):
    return {
        name.removeprefix("base_model.model.").replace(".default", "").replace("vector.weight", "vector"): parameter
        for name, parameter in plain.named_parameters()
        if "lora_" in name
    }


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_it_equals_peft_with_adamw_and_cross_entropy(tiny, examples, tokenizer, family):
    model = tiny(family)
    plain = get_peft_model(copy.deepcopy(model.module), lora_config(model, DORA)).eval()
    factors = _of_peft(plain)
    with Finetuning(model, examples, DORA) as run:
        initial = {name: parameter.detach().clone() for name, parameter in run._parameters.items()}
        assert initial.keys() == factors.keys()
        run.advance(4)
        trained = {name: parameter.detach().clone() for name, parameter in run._parameters.items()}
    with torch.no_grad():
        for name, factor in factors.items():
            factor.copy_(initial[name])
    optimizer = torch.optim.AdamW(factors.values(), lr=DORA.lr, weight_decay=0.0)
    losses = []
    for _ in range(4):
        each = []
        for e in encode_examples(tokenizer, examples):
            logits = plain(input_ids=torch.tensor([[*e.prompt, *e.value]])).logits[0, len(e.prompt) - 1 : -1]
            each.append(cross_entropy(logits, torch.tensor(e.value), reduction="none"))
        loss = torch.cat(each).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(factors.values(), DORA.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    assert run.losses == pytest.approx(losses, rel=1e-4)
    for name, factor in factors.items():
        moved = (factor - initial[name]).norm()
        assert moved > 1e-4, name
        assert (trained[name] - factor).norm() < 2e-2 * moved, name


def test_magnitudes_begin_at_the_norms_of_the_weights_rows(tiny, examples):
    model = tiny("gpt2")
    with Finetuning(model, examples, DORA) as run:
        magnitudes = run._parameters["transformer.h.0.mlp.c_fc.lora_magnitude_vector"].detach()
    wanted = model.module.transformer.h[0].mlp.c_fc.weight.norm(dim=0)  # stored [in, out]
    assert torch.allclose(magnitudes, wanted)


def test_what_is_saved_loads_in_plain_peft_with_the_same_logits(tiny, family, examples, logits_of, tmp_path):
    model = tiny(family)
    base = copy.deepcopy(model.module)
    change = finetune(model, examples, DORA)
    change.save(tmp_path / "dora")
    with change.applied(model):
        wanted = logits_of(model)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "dora")).eval()
    assert torch.equal(logits_of(loaded), wanted)


def test_a_file_that_names_the_magnitudes_by_their_weight_is_read(tiny, examples, logits_of, tmp_path):
    """As peft's module names them, and some of its versions wrote them."""
    from safetensors.torch import load_file, save_file

    from mechmask.write.adapter import AdapterChange

    model = tiny("llama")
    change = finetune(model, examples, DORA)
    change.save(tmp_path / "dora")
    path = tmp_path / "dora" / "adapter_model.safetensors"
    stored = {n.replace("magnitude_vector", "magnitude_vector.weight"): t.clone() for n, t in load_file(path).items()}
    save_file(stored, path)
    header = {"base": change.base, "method": "dora", "details": {}}
    read = AdapterChange.read(tmp_path / "dora", header)
    assert read.tensors.keys() == change.tensors.keys()
    with change.applied(model):
        wanted = logits_of(model)
    with read.applied(model):
        assert torch.equal(logits_of(model), wanted)


def test_dropout_drops(tiny, examples):
    plain, dropped, again = (
        finetune(tiny("llama"), examples, DORA.model_copy(update={"dropout": dropout})) for dropout in (0.0, 0.5, 0.5)
    )
    assert any(not torch.equal(plain.tensors[name], tensor) for name, tensor in dropped.tensors.items())
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in dropped.tensors.items())


def test_magnitudes_alone_are_a_change(tiny, examples, logits_of):
    from mechmask.write.adapter import AdapterChange

    model = tiny("llama")
    trained = finetune(model, examples, DORA)
    tensors = {n: torch.zeros_like(t) if "lora_B" in n else t for n, t in trained.tensors.items()}
    bare = logits_of(model)
    with AdapterChange(trained.config, tensors, trained.base, "by hand", {}).applied(model):
        assert (logits_of(model) - bare).abs().max() > 1e-4


def test_its_update_is_not_scaled(tiny, examples, refused, tmp_path):
    change = finetune(tiny("llama"), examples, DORA)
    change.save(tmp_path / "dora")
    with refused("does not scale"):
        scaled(load_change(tmp_path / "dora"), 0.5)
