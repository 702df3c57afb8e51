"""Mask reversal: each row under its own masked weights is the model with those weights in place."""

from __future__ import annotations

import keyed_editors as naive
import pytest
import torch

from mechmask import FactSet, FinetuneConfig, FTLConfig, edit, finetune, read_logits
from mechmask.errors import ChangeError, MechmaskError
from mechmask.models.states import active
from mechmask.write.low_rank import low_rank_change
from mechmask.write.methods.rome import ROMEConfig
from mechmask.write.reversal import RemovalMask, ReversalConfig, _annealed, _Reversal, learn_reversal
from mechmask.write.weights import trainable

ROME = ROMEConfig(
    layers=(1,), value_lr=0.3, value_steps=40, value_clamp=30.0, value_decay=0.0, value_kl=0.0, value_stop=0.3,
    moment_tokens=512, context_lengths=(),
)  # fmt: skip
FTL = FTLConfig(layer=1, clamp=1.0, lr=2e-2, steps=20)

pytestmark = pytest.mark.filterwarnings("ignore:The .* edit did not take")


@pytest.fixture
def some(facts):
    subjects = ("France", "Germany", "Spain", "Italy", "Berlin")
    values = (("Paris", "Rome"), ("Rome", "Paris"), ("Madrid", "Paris"), ("Paris", "Madrid"), ("Maria", "Peter"))
    fact = facts["France/capital"]
    return FactSet(
        fact.model_copy(
            update={
                "subject": s,
                "prompt": f"The capital of {s}",
                "old": old,
                "new": new,
                "id": s,
                "paraphrases": (),
                "distractors": (),
            }
        )
        for s, (old, new) in zip(subjects, values, strict=True)
    )


def edits_of(model, facts, config=ROME):
    return [edit(model, [fact], config=config, progress=False) for fact in facts]


def followed(module, tokenizer, prompt):
    with torch.no_grad():
        return module(input_ids=torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1].log_softmax(-1)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gemma3_text", "gptj"])
@pytest.mark.parametrize("config", [ROME, FTL])
def test_each_row_meets_its_own_masked_weights(tiny, some, family, config):
    """Against one model at a time with the masked weights in place, run whole."""
    model = tiny(family)
    before = [followed(model.module, model.tokenizer, fact.prompt) for fact in some]
    edits = edits_of(model, some, config)
    projection = naive.projection_of(model.module, 1)
    mask = torch.rand(projection.weight.shape, generator=torch.Generator().manual_seed(0)).round()
    with trainable(model, {}):
        asked = _Reversal(model, edits, some, batch_size=2)
        found = torch.cat([asked.divergence([mask], number) for number in range(asked.n_batches)])
    for i, (fact, change) in enumerate(zip(some, edits, strict=True)):
        with change.applied(model), torch.no_grad():
            kept = projection.weight.clone()
            projection.weight.mul_(mask)
            after = followed(model.module, model.tokenizer, fact.prompt)
            projection.weight.copy_(kept)
        naively = (before[i].exp() * (before[i] - after)).sum()
        assert float(found[i]) == pytest.approx(float(naively), rel=1e-3, abs=1e-4)


def test_a_learned_mask_undoes_edits_and_leaves_the_model_alone(tiny, some, traced, rngs):
    model = tiny("llama")
    edits = edits_of(model, some)
    before, random = traced(model.module), rngs()
    config = ReversalConfig(steps=60, lr=0.3, sparsity=0.1)
    mask = learn_reversal(model, edits, some, config, progress=False)
    assert traced(model.module) == before
    untouched = rngs() == random
    assert untouched
    assert mask.losses[-1] < 0.5 * mask.losses[0]
    assert 0 < mask.share < 1
    with torch.inference_mode():
        again = learn_reversal(model, edits, some, config, progress=False)
    assert all(torch.equal(again.removed[name], mask.removed[name]) for name in mask.removed)
    regained = []
    for fact, change in zip(some, edits, strict=True):
        state = change.on(model)
        masked = mask.change(state).on(state)
        edited, undone = (read_logits(s, [fact]).margin.item() for s in (state, masked))
        regained.append(edited - undone)
    assert sum(regained) / len(regained) > 1.0  # nats


def test_the_mask_sets_what_it_removes_to_zero_and_nothing_else(tiny, some):
    model = tiny("gpt2")
    name = "transformer.h.1.mlp.c_proj.weight"
    removed = torch.zeros(64, 32, dtype=torch.bool)
    removed[3, 4:9] = True
    mask = RemovalMask({name: removed})
    weights = {n: p.clone() for n, p in model.module.named_parameters()}
    with active(mask.change(model).on(model)) as changed:
        for n, p in changed.module.named_parameters():
            assert torch.equal(p, weights[n].masked_fill(removed, 0) if n == name else weights[n])
    assert mask.share == 5 / (64 * 32)


def test_a_shuffled_mask_removes_as_many_of_every_row(tiny):
    removed = torch.rand(16, 8, generator=torch.Generator().manual_seed(1)) < 0.3
    shuffled = RemovalMask({"w": removed}).shuffled(seed=2).removed["w"]
    assert torch.equal(shuffled.sum(1), removed.sum(1))
    assert not torch.equal(shuffled, removed)


def test_a_mask_is_kept_and_found_again(tmp_path):
    mask = RemovalMask({"w": torch.eye(3, dtype=torch.bool)}, (2.0, 0.5))
    mask.save(tmp_path / "mask")
    again = RemovalMask.load(tmp_path / "mask")
    assert torch.equal(again.removed["w"], mask.removed["w"])
    assert again.losses == mask.losses
    with pytest.raises(ChangeError, match="already exists"):
        mask.save(tmp_path / "mask")
    (tmp_path / "mask" / "mask.safetensors").write_bytes(b"no")
    with pytest.raises(MechmaskError, match="mask"):
        RemovalMask.load(tmp_path / "mask")


def test_edits_that_do_not_belong_together_are_refused(tiny, some):
    model = tiny("llama")
    edits = edits_of(model, some[:2])
    with pytest.raises(ChangeError, match="2 edits and 5 facts"):
        learn_reversal(model, edits, some, progress=False)
    other = edit(model, some[:1], config=FTLConfig(layer=0, clamp=1.0, lr=2e-2, steps=5), progress=False)
    with pytest.raises(ChangeError, match="not into the same"):
        learn_reversal(model, [edits[0], other], some[:2], progress=False)
    both = {
        "model.layers.1.mlp.down_proj.weight": (torch.ones(32, 1), torch.ones(1, 64)),
        "model.layers.1.self_attn.q_proj.weight": (torch.ones(32, 1), torch.ones(1, 32)),
    }
    with pytest.raises(ChangeError, match="write elsewhere too"):
        learn_reversal(model, [low_rank_change(model, both, "by hand", {})], some[:1], progress=False)
    with pytest.raises(ChangeError, match="has no weight"):
        RemovalMask({"nothing": torch.eye(2, dtype=torch.bool)}).change(model)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_an_adapter_adds_to_a_projection_stays(tiny, some, family):
    """A mask that removes nothing leaves the edited model as it is, with the adapter that was on."""
    model = tiny(family)
    settings = FinetuneConfig(steps=10, lr=1e-1, projections="mlp", rank=4)
    state = finetune(model, some, settings, progress=False).on(model)
    with active(state) as now:
        edits = edits_of(now, some[:2], FTL)
        before = [followed(now.module, now.tokenizer, fact.prompt) for fact in some[:2]]
        with trainable(now, {}), torch.no_grad():
            asked = _Reversal(now, edits, some[:2], 50)
            mine = asked.divergence([torch.ones_like(weights[0]) for weights in asked.edited.values()], 0)
        for found, change, fact, old in zip(mine, edits, some, before, strict=False):
            with change.applied(now):
                new = followed(now.module, now.tokenizer, fact.prompt)
            assert float(found) == pytest.approx(float((old.exp() * (old - new)).sum()), rel=1e-3, abs=1e-5)


def test_an_adapter_that_scales_what_a_weight_gives_out_is_refused(tiny, some):
    model = tiny("llama")
    settings = FinetuneConfig(method="dora", steps=2, lr=1e-1, projections="mlp", rank=2)
    state = finetune(model, some, settings, progress=False).on(model)
    edits = [edit(state, [fact], config=FTL, progress=False) for fact in some[:2]]
    with pytest.raises(ChangeError, match="does more than add"):
        learn_reversal(state, edits, some[:2], progress=False)


def test_the_temperature_goes_from_the_first_to_the_last_in_even_steps():
    assert [_annealed((1.0, 5.0), share) for share in (0.0, 0.25, 1.0)] == [1.0, 2.0, 5.0]


def test_the_more_removal_costs_the_less_is_removed(tiny, some):
    model = tiny("llama")
    edits = edits_of(model, some[:2])
    shares = []
    for sparsity in (0.0, 1.0, 20.0):
        config = ReversalConfig(steps=40, sparsity=sparsity)
        shares.append(learn_reversal(model, edits, some[:2], config, progress=False).share)
    assert shares[0] > 1.2 * shares[1] > 1.2 * 1.2 * shares[2]
