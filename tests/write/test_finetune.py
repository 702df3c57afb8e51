"""Fine-tuning is what plain peft, AdamW and cross-entropy do; it goes on with the same bits and stops at NaN."""

from __future__ import annotations

import contextlib
import copy
import itertools
import re

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy

from mechmask import (
    Example,
    FinetuneConfig,
    FTConfig,
    FTLConfig,
    MALMENTrainingConfig,
    ReversalConfig,
    ROMEConfig,
    finetune,
)
from mechmask.errors import ChangeError
from mechmask.write.finetune import Finetuning, _dropout_seed

TARGETS = {
    "gpt2": ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


@pytest.fixture
def examples(facts):
    """Of different lengths, one with a value of one token and one with Unicode."""
    return [*facts[:4].contradiction_examples(), *facts[9:12].contradiction_examples()]


def _factors(run):
    return {name.removeprefix("factor."): tensor for name, tensor in run.state().items() if name.startswith("factor.")}


def _padded(tokenizer, examples):
    """Right-padded rows, the mask, and labels that ask for the value's tokens alone."""
    rows = [(tokenizer(e.prompt)["input_ids"], tokenizer(f"{e.prompt} {e.value}")["input_ids"]) for e in examples]
    width = max(len(whole) for _, whole in rows)
    ids, mask, labels = (
        torch.full((len(rows), width), 7),
        torch.zeros(len(rows), width, dtype=torch.long),
        torch.full((len(rows), width), -100),
    )
    for i, (prompt, whole) in enumerate(rows):
        ids[i, : len(whole)] = torch.tensor(whole)
        mask[i, : len(whole)] = 1
        labels[i, len(prompt) : len(whole)] = torch.tensor(whole[len(prompt) :])
    return ids, mask, labels


@pytest.mark.parametrize(("family", "weight_decay"), [("gpt2", 0.0), ("llama", 0.0), ("llama", 0.1)])
def test_it_equals_peft_with_adamw_and_cross_entropy(tiny, tokenizer, examples, family, weight_decay):
    model = tiny(family)
    plain = copy.deepcopy(model.module)
    config = FinetuneConfig(steps=5, lr=1e-3, rank=4, alpha=8.0, weight_decay=weight_decay, max_grad_norm=0.5, seed=3)
    with Finetuning(model, examples, config) as run:
        initial = _factors(run)
        run.advance(5)
        losses, factors = run.losses, _factors(run)

    peft = get_peft_model(
        plain, LoraConfig(r=4, lora_alpha=8.0, target_modules=TARGETS[family], fan_in_fan_out=family == "gpt2")
    ).eval()
    ours = {
        name.removeprefix("base_model.model.").replace(".default", ""): p
        for name, p in peft.named_parameters()
        if "lora_" in name
    }
    assert set(ours) == set(initial)
    with torch.no_grad():
        for name, parameter in ours.items():
            parameter.copy_(initial[name])
    ids, mask, labels = _padded(tokenizer, examples)
    optimizer = torch.optim.AdamW([p for p in peft.parameters() if p.requires_grad], lr=1e-3, weight_decay=weight_decay)
    expected = []
    for _ in range(5):
        logits = peft(input_ids=ids, attention_mask=mask).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in peft.parameters() if p.requires_grad], 0.5)
        optimizer.step()
        expected.append(loss.item())

    assert losses == pytest.approx(expected, rel=1e-4)
    for name, parameter in ours.items():
        moved = (parameter - initial[name]).norm()
        assert (factors[name] - parameter).norm() < 1e-2 * moved, name
        assert moved > 1e-3, name


@pytest.mark.parametrize(
    ("options"), [{}, {"batch_size": 3}, {"dropout": 0.3}, {"batch_size": 2, "dropout": 0.3, "weight_decay": 0.01}]
)
def test_it_goes_on_with_the_same_bits(tiny, examples, options):
    config = FinetuneConfig(steps=7, lr=1e-2, rank=3, seed=5, **options)
    with Finetuning(tiny("llama"), examples, config) as run:
        run.advance(7)
        whole = run.state()
    with Finetuning(tiny("llama"), examples, config) as run:
        run.advance(3)
        stored = {name: tensor.clone() for name, tensor in run.state().items()}
        run.advance(2)  # what is done after the state was taken does not count
    torch.manual_seed(99)
    with Finetuning(tiny("llama"), examples, config) as run:
        run.restore(stored)
        assert run.step == 3
        run.advance(4)
        resumed = run.state()
    assert set(resumed) == set(whole)
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_a_state_is_a_copy(tiny, examples):
    with Finetuning(tiny("llama"), examples, FinetuneConfig(lr=1e-2)) as run:
        run.advance(1)
        state = run.state()
        kept = {name: tensor.clone() for name, tensor in state.items()}
        run.advance(2)
        assert all(torch.equal(state[name], tensor) for name, tensor in kept.items())
        run.restore(state)
        run.advance(1)
        assert all(torch.equal(state[name], tensor) for name, tensor in kept.items())


def test_a_reading_in_between_changes_nothing(tiny, examples, facts):
    from mechmask import read_logits

    config = FinetuneConfig(lr=1e-2, dropout=0.2, batch_size=3)
    with Finetuning(tiny("llama"), examples, config) as run:
        run.advance(4)
        undisturbed = _factors(run)
    model = tiny("llama")
    with Finetuning(model, examples, config) as run:
        for _ in range(4):
            read_logits(model, facts[:3])
            run.advance(1)
        assert all(torch.equal(undisturbed[name], tensor) for name, tensor in _factors(run).items())


@pytest.mark.parametrize("options", [{}, {"dropout": 0.2}, {"batch_size": 3}])
def test_the_seed_decides_everything(tiny, examples, options, bits_of):
    def trained(seed, noise):
        torch.manual_seed(noise)
        adapter = finetune(tiny("gpt2"), examples, FinetuneConfig(steps=3, lr=1e-2, seed=seed, **options))
        return {name: bits_of(tensor) for name, tensor in adapter.tensors.items()}

    assert trained(1, 11) == trained(1, 22)
    assert trained(1, 11) != trained(2, 11)


@pytest.mark.parametrize("name", ["dropout", "batch_size"])
def test_dropout_and_batches_do_something(tiny, examples, name):
    plain = finetune(tiny("llama"), examples, FinetuneConfig(steps=2, lr=1e-2))
    other = finetune(
        tiny("llama"), examples, FinetuneConfig(steps=2, lr=1e-2, **{name: {"dropout": 0.5, "batch_size": 2}[name]})
    )
    assert any(not torch.equal(plain.tensors[n], other.tensors[n]) for n in plain.tensors)


def test_facts_stand_for_their_contradiction_examples(tiny, facts, tmp_path):
    config = FinetuneConfig(steps=2, lr=1e-2)
    wanted = finetune(tiny("llama"), facts.contradiction_examples(), config)
    facts.to_jsonl(tmp_path / "facts.jsonl")
    for form in (facts, list(facts), facts.to_dataframe(), tmp_path / "facts.jsonl"):
        adapter = finetune(tiny("llama"), form, config)
        assert all(torch.equal(adapter.tensors[name], tensor) for name, tensor in wanted.tensors.items())


def test_dropout_is_another_at_every_step_and_the_same_in_every_process(tiny, examples):
    """Seeds come from a seed sequence; the numbers of Python's ``hash`` belong to its version."""
    config = FinetuneConfig(lr=1e-30, dropout=0.5, seed=7)
    with Finetuning(tiny("llama"), examples, config, start=None) as run:
        with torch.no_grad():  # a fresh adapter is the identity, dropout or not
            for name, factor in run._parameters.items():
                factor.add_(0.1 if "lora_B" in name else 0)
        run.advance(3)
        losses = run.losses
    assert len(set(losses)) == 3
    drawn = [int(np.random.SeedSequence([7, step]).generate_state(1, np.uint64)[0]) for step in range(3)]
    assert [_dropout_seed(7, step) for step in range(3)] == drawn
    assert len(set(drawn)) == 3


def test_a_short_training_shows_no_bar_and_a_long_one_does(tiny, examples, capsys, monkeypatch):
    finetune(tiny("llama"), examples, FinetuneConfig(steps=2, lr=1e-2))
    assert capsys.readouterr().err == ""
    now = itertools.count(step=1.0)
    monkeypatch.setattr("mechmask.progress.time.monotonic", lambda: next(now))
    finetune(tiny("llama"), examples, FinetuneConfig(steps=5, lr=1e-2), progress=False)
    assert capsys.readouterr().err == ""
    finetune(tiny("llama"), examples, FinetuneConfig(steps=5, lr=1e-2))
    shown = capsys.readouterr().err
    assert "5/5" in shown
    assert "loss" in shown


def test_an_epoch_shows_every_example_once(tiny, facts, tokenizer):
    """At a learning rate of nothing the losses of an epoch's batches average to that of all examples."""
    same_length = [Example(prompt=f.prompt, value=str(100 + i)) for i, f in enumerate(facts[:6])]
    with Finetuning(tiny("llama"), same_length, FinetuneConfig(lr=1e-30, batch_size=2)) as run:
        run.advance(9)
        epochs = [sum(run.losses[i : i + 3]) / 3 for i in (0, 3, 6)]
        orders = {tuple(round(loss, 6) for loss in run.losses[i : i + 3]) for i in (0, 3, 6)}
    with Finetuning(tiny("llama"), same_length, FinetuneConfig(lr=1e-30)) as run:
        run.advance(1)
        assert epochs == pytest.approx([run.losses[0]] * 3, rel=1e-5)
    assert len(orders) > 1


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3, "batch_size": 2}])
def test_the_callers_random_numbers_are_not_touched(tiny, examples, options, rngs):
    model = tiny("gpt2")
    before = rngs()
    adapter = finetune(model, examples, FinetuneConfig(steps=3, lr=1e-2, **options))
    after = rngs() == before
    assert after, "training drew random numbers"
    with adapter.applied(model):
        inside = rngs() == before
    assert inside, "applying the change drew random numbers"


def test_the_loss_falls_and_is_reported(tiny, examples):
    seen = []
    with Finetuning(tiny("llama"), examples, FinetuneConfig(lr=1e-2)) as run:
        run.advance(12, seen.append)
        assert seen == run.losses
        assert seen[-1] < 0.7 * seen[0]
        change = run.change()
    assert change.details["steps"] == 12
    assert change.details["final_loss_nats"] == seen[-1]
    assert change.details["config"]["lr"] == 1e-2


def _poisoned(tiny, tokenizer, facts):
    """A llama that has NaN in the embedding of a token that only the prompt about Łódź holds."""
    model = tiny("llama")
    of = {fact.id: set(tokenizer(f"{fact.prompt} {fact.old}")["input_ids"]) for fact in facts}
    others = set().union(*(tokens for label, tokens in of.items() if label != "Łódź/mayor"))
    own = set(tokenizer(facts["Łódź/mayor"].prompt)["input_ids"]) - others
    with torch.no_grad():
        model.module.get_input_embeddings().weight[min(own)] = float("nan")
    return model


def test_nan_stops_the_run_with_the_step_and_the_fact(tiny, tokenizer, facts, traced):
    model = _poisoned(tiny, tokenizer, facts)
    before = traced(model.module)
    taught = [Example(prompt=f.prompt, value=f.old, fact_id=f.id) for f in facts]
    with pytest.raises(ChangeError, match="step 1, on fact 'Łódź/mayor'"):
        finetune(model, taught, FinetuneConfig(steps=3))
    assert traced(model.module) == before


def test_nan_at_a_later_step_is_found_there(tiny, tokenizer, facts):
    taught = [Example(prompt=f.prompt, value=f.old, fact_id=f.id) for f in facts]
    with Finetuning(_poisoned(tiny, tokenizer, facts), taught, FinetuneConfig(batch_size=1, seed=2)) as run:
        with pytest.raises(ChangeError, match="Łódź/mayor") as caught:
            run.advance(len(taught))
        step = int(re.search(r"step (\d+)", str(caught.value)).group(1))
        assert step == len(run.losses) + 1
        assert step > 1, "choose another seed"


def test_a_training_that_blows_up_stops_with_the_step(tiny, examples, traced):
    model = tiny("llama")
    before = traced(model.module)
    with pytest.raises(ChangeError, match=r"step \d+, on fact|gradient is not a number at step"):
        finetune(model, examples, FinetuneConfig(steps=5, lr=9e29))
    assert traced(model.module) == before


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_trains_where_the_caller_switched_gradients_off(tiny, examples, logits_of, mode, method):
    """As interpretability notebooks do in their first cell."""
    config = FinetuneConfig(method=method, steps=2, lr=1e-2)
    model = tiny("llama")
    wanted = finetune(model, examples, config)
    with mode():
        change = finetune(model, examples, config)
    with wanted.applied(model):
        expected = logits_of(model)
    with change.applied(model):
        assert torch.equal(logits_of(model), expected)
    assert not any(tensor.is_inference() for tensor in model.module.state_dict().values())


@pytest.mark.parametrize("lr", [0.0, -1.0, 3e38, float("inf"), float("nan")])
def test_a_learning_rate_that_no_optimizer_takes_is_refused_where_it_is_given(lr):
    for config, settings in (
        *((kind, {"lr": lr}) for kind in (FinetuneConfig, ReversalConfig)),
        (FTConfig, {"layer": 1, "lr": lr}),
        (FTLConfig, {"layer": 1, "clamp": 0.1, "lr": lr}),
        (MALMENTrainingConfig, {"layers": (1,), "lr": lr}),
        (ROMEConfig, {"layers": (1,), "value_lr": lr}),
    ):
        with pytest.raises(ChangeError, match="lr"):
            config(**settings)
        config(**{name: 0.1 if name.endswith("lr") else value for name, value in settings.items()})


def test_nothing_to_learn_is_an_error(tiny, refused):
    with refused("no example"):
        finetune(tiny("llama"), [])


@pytest.mark.parametrize("layers", [(3,), (0, 17), (-1,)])
def test_a_block_out_of_range_is_named(tiny, examples, layers, refused, traced):
    model = tiny("llama")
    before = traced(model.module)
    with refused(rf"no block {layers[-1]}: the model has blocks 0 to 2"):
        finetune(model, examples, FinetuneConfig(layers=layers))
    assert traced(model.module) == before


def test_no_block_at_all_is_refused_without_a_trace(tiny, examples, traced):
    model = tiny("llama")
    before = traced(model.module)
    with pytest.raises(ChangeError):
        finetune(model, examples, FinetuneConfig(layers=()))
    assert traced(model.module) == before


def test_a_training_that_moves_nothing_is_an_error(tiny, examples, refused, traced):
    model = tiny("llama")
    before = traced(model.module)
    with refused("changes nothing"):
        finetune(model, examples, FinetuneConfig(steps=1, lr=1e-50))
    assert traced(model.module) == before


def test_continuing_goes_on_from_the_adapter_and_not_from_the_base(tiny, examples, logits_of):
    model = tiny("llama")
    first = finetune(model, examples, FinetuneConfig(steps=4, lr=1e-2))
    with first.applied(model):
        wanted = logits_of(model)
    with Finetuning(model, examples, FinetuneConfig(lr=1e-2, seed=8), start=first) as run:
        assert torch.equal(logits_of(model), wanted)
        run.advance(1)
        second = run.change()
    assert any(not torch.equal(first.tensors[n], second.tensors[n]) for n in first.tensors)
    assert second.base == first.base == model.fingerprint


def test_continuing_that_changes_nothing_is_an_error(tiny, examples, refused, traced):
    model = tiny("llama")
    first = finetune(model, examples, FinetuneConfig(steps=4, lr=1e-2))
    before = traced(model.module)
    with refused("changed nothing"):
        finetune(model, examples, FinetuneConfig(steps=1, lr=1e-50), start=first)
    assert traced(model.module) == before


@pytest.mark.parametrize("other", [{"rank": 8}, {"rank": 1}, {"projections": "mlp"}, {"layers": (1,)}])
def test_continuing_an_adapter_of_another_shape_is_refused(tiny, examples, other, traced):
    """Of rank 1 too, whose factors would broadcast into any rank in silence."""
    model = tiny("llama")
    first = finetune(model, examples, FinetuneConfig(steps=2, lr=1e-2, **other))
    before = traced(model.module)
    with pytest.raises(ChangeError):
        finetune(model, examples, FinetuneConfig(steps=2, lr=1e-2, rank=4), start=first)
    assert traced(model.module) == before


def test_continuing_at_another_scale_is_refused_or_keeps_the_function(tiny, examples, logits_of):
    """The same factors under another alpha are another model than the one that is said to be continued."""
    model = tiny("llama")
    first = finetune(model, examples, FinetuneConfig(steps=4, lr=1e-2, alpha=32.0))
    with first.applied(model):
        wanted = logits_of(model)
    with contextlib.suppress(ChangeError), Finetuning(model, examples, FinetuneConfig(alpha=8.0), start=first):
        assert torch.allclose(logits_of(model), wanted, atol=1e-5)


def test_continuing_an_adapter_of_other_weights_is_refused(tiny, examples):
    first = finetune(tiny("llama", seed=1), examples, FinetuneConfig(steps=2, lr=1e-2))
    with pytest.raises(ChangeError):
        finetune(tiny("llama"), examples, FinetuneConfig(steps=2, lr=1e-2), start=first)


@pytest.mark.parametrize(
    ("family", "projections", "expected"),
    [
        ("llama", "mlp", {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}),
        ("llama", "attention", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}),
        ("gpt2", "mlp", {"mlp.c_fc", "mlp.c_proj"}),
        ("gpt2", "attention", {"attn.c_attn", "attn.c_proj"}),
        ("opt", "mlp", {"fc1", "fc2"}),
        ("opt", "attention", {"self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj"}),
        ("gpt_neox", "attention", {"attention.query_key_value", "attention.dense"}),
    ],
)
def test_projections_and_layers_choose_where_adapters_sit(tiny, examples, family, projections, expected):
    model = tiny(family)
    for layers in (None, (1,)):
        adapter = finetune(model, examples, FinetuneConfig(steps=1, lr=1e-2, projections=projections, layers=layers))
        places = {name.rsplit(".lora_", 1)[0] for name in adapter.tensors}
        blocks = {re.search(r"\.(\d+)\.(.+)", place).groups() for place in places}
        assert {int(block) for block, _ in blocks} == (set(range(model.n_layers)) if layers is None else {1})
        assert {name for _, name in blocks} == expected


def test_one_block_of_a_model_with_more_than_ten_is_one_block(tiny, examples):
    """Block 1 is not block 11, whatever suffixes peft matches by."""
    model = tiny("llama", num_hidden_layers=12)
    adapter = finetune(model, examples[:1], FinetuneConfig(steps=1, lr=1e-2, layers=(1,)))
    assert {name.split(".")[2] for name in adapter.tensors} == {"1"}
    assert len(adapter.tensors) == 14


def test_training_one_block_leaves_what_is_below_it(tiny, examples):
    model = tiny("llama")
    ids = torch.arange(5, 25)[None]
    adapter = finetune(model, examples, FinetuneConfig(steps=2, lr=1e-2, layers=(1,)))
    with torch.no_grad():
        before = model.module(input_ids=ids, output_hidden_states=True).hidden_states
        with adapter.applied(model):
            after = model.module(input_ids=ids, output_hidden_states=True).hidden_states
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [True, True, False, False]


def test_values_that_merge_with_their_prompt_are_refused_before_anything_is_done(tiny, traced):
    from mechmask.errors import RouteError

    model = tiny("llama")
    before = traced(model.module)
    with pytest.raises(RouteError, match="empty"):
        finetune(model, [Example(prompt="The mass of Uxmon is", value=" ")])
    assert traced(model.module) == before


@pytest.mark.parametrize(
    "field",
    [{"rank": 0}, {"lr": 0.0}, {"dropout": 1.0}, {"steps": 0}, {"batch_size": 0}, {"seed": -1}, {"learning_rate": 1}],
)
def test_settings_out_of_bounds_are_refused(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        FinetuneConfig(**field)
