"""Whatever a fine-tuning trains: it leaves no trace, is undone bit for bit, goes on with the same bits, continues."""

from __future__ import annotations

import pytest
import torch

import mechmask as mm
from mechmask import FinetuneConfig, finetune, load_change
from mechmask.errors import ChangeError
from mechmask.write.finetune import Finetuning
from mechmask.write.trained import METHODS

FAST = {
    "lora": FinetuneConfig(steps=3, lr=1e-2, rank=3),
    "dora": FinetuneConfig(method="dora", steps=3, lr=1e-2, rank=3),
    "full": FinetuneConfig(method="full", steps=3, lr=1e-3),
}


@pytest.fixture(params=METHODS)
def config(request):
    return FAST[request.param]


@pytest.fixture
def examples(facts):
    return [*facts[:4].contradiction_examples(), *facts[9:12].contradiction_examples()]


def _tensors(change):
    if hasattr(change, "tensors"):
        return change.tensors
    return {name: new if isinstance(new, torch.Tensor) else new.values for name, new in change.after.items()}


def _same(one, other):
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_it_leaves_no_trace_and_is_undone_bit_for_bit(tiny, family, examples, config, traced, logits_of):
    model = tiny(family)
    model.anatomy.blocks[0].train()
    for index, parameter in enumerate(model.module.parameters()):
        parameter.requires_grad_(index % 2 == 0)
        parameter.grad = torch.ones_like(parameter) if index % 4 == 0 else None
    before, fingerprint = traced(model.module), model.fingerprint
    change = finetune(model, examples, config)
    assert traced(model.module) == before
    assert change.method == config.method
    assert change.base == fingerprint
    bare = logits_of(model)
    with change.applied(model):
        assert (logits_of(model) - bare).abs().max() > 1e-3
        assert model.fingerprint != fingerprint
    assert traced(model.module) == before


def test_what_is_saved_is_what_was_trained(tiny, family, examples, config, logits_of, tmp_path):
    model = tiny(family)
    with Finetuning(model, examples, config) as run:
        run.advance(3)
        inside = logits_of(model)
        change = run.change()
    with change.applied(model):
        assert torch.equal(logits_of(model), inside)
    change.save(tmp_path / "change")
    loaded = load_change(tmp_path / "change")
    assert (loaded.method, loaded.base, loaded.blocks) == (change.method, change.base, change.blocks)
    with loaded.applied(model):
        assert torch.equal(logits_of(model), inside)


def test_it_goes_on_with_the_same_bits(tiny, examples, config):
    config = config.model_copy(update={"batch_size": 3, "seed": 5})
    with Finetuning(tiny("llama"), examples, config) as run:
        run.advance(6)
        whole = run.state()
    with Finetuning(tiny("llama"), examples, config) as run:
        run.advance(2)
        stored = run.state()
        run.advance(2)
    torch.manual_seed(99)
    with Finetuning(tiny("llama"), examples, config) as run:
        run.restore(stored)
        run.advance(4)
        resumed = run.state()
    assert _same(whole, resumed)


def test_the_seed_decides_everything(tiny, examples, config):
    config = config.model_copy(update={"batch_size": 3})
    first, again = (_tensors(finetune(tiny("gpt2"), examples, config)) for _ in range(2))
    other = _tensors(finetune(tiny("gpt2"), examples, config.model_copy(update={"seed": 1})))
    assert _same(first, again)
    assert not _same(first, other)


def test_continuing_goes_on_from_the_change(tiny, examples, config, logits_of, traced):
    model = tiny("llama")
    before = traced(model.module)
    first = finetune(model, examples, config)
    with first.applied(model):
        wanted = logits_of(model)
    with Finetuning(model, examples, config, start=first) as run:
        assert torch.equal(logits_of(model), wanted)
        run.advance(1)
        inside, second = logits_of(model), run.change()
    assert second.base == first.base == model.fingerprint
    assert not torch.equal(inside, wanted)
    with second.applied(model):
        assert torch.equal(logits_of(model), inside)
    by_state = finetune(model, examples, config.model_copy(update={"steps": 1}), start=first.on(model))
    assert _same(_tensors(by_state), _tensors(second))
    assert traced(model.module) == before


def test_continuing_that_changes_nothing_is_an_error(tiny, examples, config, refused, traced):
    model = tiny("llama")
    still = config.model_copy(update={"steps": 1, "lr": 1e-50})
    before = traced(model.module)
    with refused("change[sd] nothing"):
        finetune(model, examples, still)
    first = finetune(model, examples, config)
    with refused("changed nothing"):
        finetune(model, examples, still, start=first)
    assert traced(model.module) == before


@pytest.mark.parametrize("other", ["lora", "dora", "full"])
def test_what_another_method_made_is_not_continued(tiny, examples, config, other, refused, traced):
    if other == config.method:
        return
    model = tiny("llama")
    first = finetune(model, examples, FAST[other])
    before = traced(model.module)
    with refused("to start from is"):
        finetune(model, examples, config, start=first)
    assert traced(model.module) == before


def test_it_is_made_on_a_state_and_on_nothing_else(tiny, facts, config, traced, reweighted, logits_of):
    model = tiny("llama")
    name = "model.layers.1.mlp.down_proj.weight"
    edited = reweighted(model, {name: dict(model.module.named_parameters())[name].detach() + 0.01})
    before = traced(model.module)
    change = finetune(edited.on(model), facts[:3], config)
    assert traced(model.module) == before
    with pytest.raises(ChangeError, match="not those that this change was made on"), change.applied(model):
        pytest.fail("applied")
    with change.on(edited.on(model)).active() as changed:
        assert logits_of(changed).isfinite().all()
    assert traced(model.module) == before


def test_layers_choose_the_blocks(tiny, examples, config, refused):
    model = tiny("llama")
    assert finetune(model, examples, config.model_copy(update={"layers": (1,)})).blocks == (1,)
    with refused("no block 3: the model has blocks 0 to 2"):
        finetune(model, examples, config.model_copy(update={"layers": (3,)}))


def test_a_run_continues_it(tiny, facts, config, tmp_path):
    """Installed, then contradicted: as a study does it, and stopped in between."""
    chosen = facts.select(facts.ids[:4])

    def both(root, install, contradict):
        with mm.Run(root, tiny("llama"), chosen) as run:
            first = mm.train(run, "install", chosen.install_examples(), install)
            return mm.train(run, "contradict", chosen.contradiction_examples(), contradict, start=first)

    whole = both(tmp_path / "whole", config, config)
    both(tmp_path / "grown", config, config.model_copy(update={"steps": 2}))
    grown = both(tmp_path / "grown", config, config)
    assert _same(_tensors(whole.change), _tensors(grown.change))
    assert whole.change.base == tiny("llama").fingerprint


def test_nan_leaves_no_trace(tiny, examples, config, refused, traced):
    model = tiny("llama")
    with torch.no_grad():
        model.module.get_input_embeddings().weight.fill_(float("nan"))
    before = traced(model.module)
    with refused("is not a number at step 1, on fact"):
        finetune(model, examples, config)
    assert traced(model.module) == before
