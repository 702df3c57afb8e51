"""Full fine-tuning is plain AdamW on every weight of the blocks, and touches nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from mechmask import FinetuneConfig, WeightChange, finetune, graft
from mechmask.models.routes import encode_examples
from mechmask.write.finetune import Finetuning

FULL = FinetuneConfig(method="full", steps=4, lr=1e-3, weight_decay=0.1, max_grad_norm=0.5)
BLOCKS = {"gpt2": "transformer.h.", "llama": "model.layers.", "opt": "model.decoder.layers."}


@pytest.fixture
def examples(facts):
    return facts[:5].contradiction_examples()


@pytest.mark.parametrize("family", BLOCKS)
def test_it_equals_adamw_on_the_blocks(tiny, examples, tokenizer, family):
    model = tiny(family)
    plain = copy.deepcopy(model.module)
    initial = {name: parameter.detach().clone() for name, parameter in plain.named_parameters()}
    with Finetuning(model, examples, FULL) as run:
        run.advance(4)
        trained = {name: parameter.detach().clone() for name, parameter in model.module.named_parameters()}
    blocks = [parameter for name, parameter in plain.named_parameters() if name.startswith(BLOCKS[family])]
    optimizer = torch.optim.AdamW(blocks, lr=FULL.lr, weight_decay=FULL.weight_decay)
    losses = []
    for _ in range(4):
        each = []
        for e in encode_examples(tokenizer, examples):
            logits = plain(input_ids=torch.tensor([[*e.prompt, *e.value]])).logits[0, len(e.prompt) - 1 : -1]
            each.append(cross_entropy(logits, torch.tensor(e.value), reduction="none"))
        loss = torch.cat(each).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(blocks, FULL.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    assert run.losses == pytest.approx(losses, rel=1e-4)
    for name, parameter in plain.named_parameters():
        moved = (parameter - initial[name]).norm()
        if name.startswith(BLOCKS[family]):
            # an entry without a gradient of its own, as of a key's bias, goes where rounding sends it
            assert (trained[name] - parameter).norm() < 2e-2 * moved or "k_proj.bias" in name or "c_attn" in name, name
            assert moved > 0, name
        else:
            assert torch.equal(trained[name], initial[name]), name


def test_tied_embeddings_stay(tiny, examples):
    model = tiny("llama", tie_word_embeddings=True)
    change = finetune(model, examples, FULL)
    assert isinstance(change, WeightChange)
    assert all(name.startswith("model.layers.") for name in change.after)
    assert {name.split(".", 3)[3] for name in change.after} >= {"input_layernorm.weight", "self_attn.q_proj.weight"}


def test_it_is_grafted_by_blocks(tiny, examples, logits_of):
    model = tiny("llama")
    change = finetune(model, examples, FULL)
    part = graft(None, change, [1])
    assert part.blocks == (1,)
    with part.applied(model):
        assert logits_of(model).isfinite().all()


def test_a_start_that_changes_other_blocks_is_refused(tiny, examples, refused, traced):
    model = tiny("llama")
    first = finetune(model, examples, FULL.model_copy(update={"layers": (0, 1)}))
    before = traced(model.module)
    with refused("leaves as it is. Name its block in layers"):
        finetune(model, examples, FULL.model_copy(update={"layers": (1,)}), start=first)
    assert traced(model.module) == before
    assert finetune(model, examples, FULL, start=first).blocks == (0, 1, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_refused(tiny, examples, dtype, refused):
    with refused("lose most of every step to rounding. Load the model in float32"):
        finetune(tiny("llama", dtype), examples, FULL)


@pytest.mark.parametrize("idle", [{"rank": 4}, {"alpha": 8.0}, {"dropout": 0.1}, {"projections": "mlp"}])
def test_settings_of_adapters_are_refused(idle, refused):
    with refused(f"the method full trains the weights themselves, so that {next(iter(idle))} would do nothing"):
        FinetuneConfig(method="full", **idle)
    assert FinetuneConfig.model_validate(FULL.model_dump()) == FULL


def test_an_error_in_the_middle_leaves_no_trace(tiny, examples, traced, monkeypatch):
    model = tiny("llama")
    before = traced(model.module)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finetune(model, examples, FULL)
    assert traced(model.module) == before
