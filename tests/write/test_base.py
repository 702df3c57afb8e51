"""A change goes on what it was made on and on nothing else: every other state is refused in one sentence."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mechmask import FinetuneConfig, FTLConfig, edit, finetune, graft, load_change, load_model, scaled
from mechmask.errors import ChangeError
from mechmask.write.adapter import AdapterChange
from mechmask.write.low_rank import low_rank_change

FAST = FinetuneConfig(steps=2, lr=1e-2, rank=2)
EDIT = FTLConfig(layer=1, clamp=5e-2, lr=1e-2, steps=3)
DOWN = "model.layers.1.mlp.down_proj.weight"
KINDS = ["weights", "low_rank", "adapter"]

pytestmark = pytest.mark.filterwarnings("ignore:The .* edit did not take")


def make(kind, model, facts):
    if kind == "weights":
        return edit(model, facts[:1], config=EDIT)
    if kind == "adapter":
        return finetune(model, facts[:2], FAST)
    return low_rank_change(model, {DOWN: (torch.ones(32, 1), torch.ones(1, 64))}, "by hand", {})


def _tiny_change(model, reweighted):
    name = "model.layers.0.self_attn.q_proj.weight"
    weight = dict(model.module.named_parameters())[name].detach().clone()
    weight[0, 0] += 1
    return reweighted(model, {name: weight})


def _refused(change, model, traced):
    before, fingerprint = traced(model.module), model.fingerprint
    sentence = r"not those that this change was made on|has an adapter already"
    with pytest.raises(ChangeError, match=sentence) as caught, change.applied(model):
        pytest.fail("applied")
    assert "\n" not in str(caught.value)
    assert traced(model.module) == before
    assert model.fingerprint == fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_it_carries_the_fingerprint_of_its_base_and_leaves_it(tiny, facts, kind, tmp_path):
    model = tiny("llama")
    base = model.fingerprint
    change = make(kind, model, facts)
    change.save(tmp_path / "change")
    loaded = load_change(tmp_path / "change")
    assert change.base == loaded.base == model.fingerprint == base
    for each in (change, loaded):
        with each.applied(model):
            assert model.fingerprint != base
        assert model.fingerprint == base


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("other", "options"),
    [
        ("another model of the same shapes", {"seed": 1}),
        ("another dtype", {"dtype": torch.bfloat16}),
        ("tied embeddings", {"tie_word_embeddings": True}),
    ],
)
def test_another_model_is_refused(tiny, facts, kind, other, options, traced):
    _refused(make(kind, tiny("llama"), facts), tiny("llama", **options), traced)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_another_change_on_is_refused(tiny, facts, kind, reweighted, traced):
    """Of another block, so that what the change replaces is as it was."""
    model = tiny("llama")
    change, other = make(kind, model, facts), _tiny_change(model, reweighted)
    with other.applied(model):
        _refused(change, model, traced)
        stacked = make(kind, model, facts)
        with stacked.applied(model):
            pass
    _refused(stacked, model, traced)


@pytest.mark.parametrize("kind", ["weights", "low_rank"])
def test_an_adapter_counts_in_both_orders(tiny, facts, kind, traced, logits_of):
    """An edit made over an unmerged adapter is not one of the bare base, nor the other way round."""
    model = tiny("llama")
    install = finetune(model, facts[:2], FAST)
    bare = make(kind, model, facts)
    with install.applied(model):
        above = make(kind, model, facts)
        _refused(bare, model, traced)
    _refused(above, model, traced)
    with above.on(install.on(model)).active() as changed:
        assert logits_of(changed).isfinite().all()


@pytest.mark.parametrize("kind", ["weights", "low_rank"])
def test_a_second_adapter_or_another_scale_is_another_base(tiny, facts, kind, traced):
    model = tiny("llama")
    install, second = (finetune(model, facts[i : i + 2], FAST) for i in (0, 2))
    with install.applied(model):
        change = make(kind, model, facts)
    for other in (second, scaled(install, 2.0)):
        with other.applied(model):
            _refused(change, model, traced)


@pytest.mark.parametrize("kind", ["weights", "low_rank"])
def test_the_same_factors_at_another_scale_are_another_base(tiny, facts, kind, traced):
    model = tiny("llama")
    install = finetune(model, facts[:2], FAST)
    config = copy.deepcopy(install.config)
    config.lora_alpha *= 2
    stronger = AdapterChange(config, install.tensors, install.base, "by hand", {})
    with install.applied(model):
        change = make(kind, model, facts)
    with stronger.applied(model):
        _refused(change, model, traced)


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_adapter_is_another_base(tiny, tokenizer, facts, kind, traced):
    model = tiny("llama")
    change = make(kind, model, facts)
    wrapped = get_peft_model(
        copy.deepcopy(model.module), LoraConfig(r=2, target_modules=["down_proj"], init_lora_weights=False)
    )
    merged = load_model(wrapped.merge_and_unload(), tokenizer=tokenizer)
    _refused(change, merged, traced)


@pytest.mark.parametrize("kind", ["weights", "low_rank"])
def test_stacking_on_purpose_works(tiny, facts, kind, logits_of, traced, tmp_path):
    """The edit was made with the installation on; both are loaded from their directories."""
    model = tiny("llama")
    before = traced(model.module)
    install = finetune(model, facts[:2], FAST)
    with install.applied(model):
        change = make(kind, model, facts)
        with change.applied(model):
            wanted = logits_of(model)
    install.save(tmp_path / "install")
    change.save(tmp_path / "change")
    stacked = load_change(tmp_path / "change").on(load_change(tmp_path / "install").on(model))
    with stacked.active() as changed:
        assert torch.equal(logits_of(changed), wanted)
    assert traced(model.module) == before


def test_edits_and_fine_tuning_take_states(tiny, facts, logits_of, traced):
    model = tiny("llama")
    before = traced(model.module)
    install = finetune(model, facts[:2], FAST)
    by_state = edit(install.on(model), facts[:1], config=EDIT)
    with install.applied(model):
        by_hand = edit(model, facts[:1], config=EDIT)
    assert by_state.base == by_hand.base
    assert by_state.details == by_hand.details

    edited = edit(model, facts[:1], config=EDIT)
    on_state = finetune(edited.on(model), facts[:2], FAST)
    with edited.applied(model):
        wanted = finetune(model, facts[:2], FAST)
    assert on_state.base == wanted.base
    assert all(torch.equal(on_state.tensors[name], tensor) for name, tensor in wanted.tensors.items())
    with on_state.on(edited.on(model)).active() as changed:
        assert logits_of(changed).isfinite().all()
    assert traced(model.module) == before


def test_a_state_with_an_adapter_is_continued_by_start(tiny, facts, traced, refused):
    model = tiny("llama")
    install = finetune(model, facts[:2], FAST)
    before = traced(model.module)
    with refused("pass it as start="):
        finetune(install.on(model), facts[:2], FAST)
    by_state = finetune(model, facts[:2], FAST, start=install.on(model))
    by_change = finetune(model, facts[:2], FAST, start=install)
    assert all(torch.equal(by_state.tensors[name], tensor) for name, tensor in by_change.tensors.items())
    assert by_state.base == install.base
    for state in (install.on(tiny("llama")), edit(model, facts[:1], config=EDIT).on(model)):
        with refused("cannot be continued there"):
            finetune(model, facts[:2], FAST, start=state)
    assert traced(model.module) == before


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_change_have_its_base(tiny, facts, kind, traced):
    model = tiny("llama")
    change = make(kind, model, facts)
    for part in (graft(None, change, change.blocks[-1:]), graft(model, change.on(model), change.blocks[-1:])):
        assert part.base == change.base
        with part.applied(model):
            pass
        _refused(part, tiny("llama", seed=1), traced)
    if kind != "weights":
        assert scaled(change, 0.5).base == change.base


def test_states_are_grafted(tiny, facts, traced, logits_of):
    model, other = tiny("llama"), tiny("llama", seed=1)
    before = traced(model.module), traced(other.module)
    edited, theirs = edit(model, facts[:1], config=EDIT), edit(other, facts[:1], config=EDIT)
    change = graft(edited.on(model), theirs.on(other), [1])
    with edited.applied(model), theirs.applied(other):
        wanted = graft(model, other, [1])
        assert change.base == wanted.base == model.fingerprint
        with wanted.applied(model):
            logits = logits_of(model)
    assert (traced(model.module), traced(other.module)) == before
    with change.on(edited.on(model)).active() as grafted:
        assert torch.equal(logits_of(grafted), logits)
    back = graft(edited.on(model), model, [1])
    with back.on(edited.on(model)).active() as undone:
        assert torch.equal(logits_of(undone), logits_of(tiny("llama")))
    install, second = (finetune(model, facts[i : i + 2], FAST) for i in (0, 2))
    by_states, by_adapters = graft(install.on(model), second.on(model), [1]), graft(install, second, [1])
    assert all(torch.equal(by_states.tensors[name], tensor) for name, tensor in by_adapters.tensors.items())
