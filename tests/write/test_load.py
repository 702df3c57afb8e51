"""A saved change is held against its digests, and nothing but one sentence comes out of a damaged or foreign one."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mechmask import FinetuneConfig, finetune, load_change
from mechmask.errors import ChangeError, MechmaskError
from mechmask.files import MANIFEST, seal
from mechmask.write.change import Change
from mechmask.write.low_rank import low_rank_change
from mechmask.write.weights import Entries, compact

DOWN = "model.layers.1.mlp.down_proj.weight"
KINDS = ("adapter", "weights", "entries", "low_rank")
FUZZ = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def saved(tiny, facts, reweighted, tmp_path_factory):
    """``saved(kind)``: the directory of a change of that kind."""
    model = tiny("llama")
    weight = dict(model.module.named_parameters())[DOWN].detach()
    one = weight.clone()
    one[3, 5] += 1
    changes = {
        "adapter": finetune(model, facts[:2], FinetuneConfig(steps=1, lr=1e-2, rank=1)),
        "weights": reweighted(model, {DOWN: weight + 1}),
        "entries": reweighted(model, {DOWN: compact(weight, one)}),
        "low_rank": low_rank_change(model, {DOWN: (torch.ones(32, 1), torch.ones(1, 64))}, "by hand", {}),
    }
    root = tmp_path_factory.mktemp("saved")
    for kind, change in changes.items():
        change.save(root / kind)
    return lambda kind: root / kind


@pytest.fixture
def copied(saved, tmp_path):
    def copy(kind):
        target = tmp_path / "change"
        shutil.rmtree(target, ignore_errors=True)
        return shutil.copytree(saved(kind), target)

    return copy


def _refused(directory, pattern=None):
    with pytest.raises(ChangeError, match=pattern) as caught:
        load_change(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_each_file_cut_emptied_flipped_or_missing_is_named(copied, kind):
    for name in sorted(path.name for path in copied(kind).iterdir()):
        for damage in (
            lambda content: content[: len(content) // 2],
            lambda content: b"",
            lambda content: content[:-9] + bytes([content[-9] ^ 4]) + content[-8:],
        ):
            path = copied(kind) / name
            path.write_bytes(damage(path.read_bytes()))
            _refused(path.parent, name)
        path = copied(kind) / name
        path.unlink()
        _refused(path.parent, name)


def test_a_file_too_many_is_named(copied):
    directory = copied("weights")
    shutil.copy(directory / "weights.safetensors", directory / "more.safetensors")
    _refused(directory, "more.safetensors")


def test_few_changed_entries_are_kept_as_such(tiny, saved, bits_of):
    model = tiny("llama")
    change = load_change(saved("entries"))
    assert isinstance(change.after[DOWN], Entries)
    assert sum(path.stat().st_size for path in saved("entries").iterdir()) < 2500 < 32 * 64 * 4
    weight = dict(model.module.named_parameters())[DOWN]
    wanted, before = weight.detach().clone(), bits_of(weight)
    wanted[3, 5] += 1
    with change.applied(model):
        assert bits_of(weight) == bits_of(wanted)
    assert bits_of(weight) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("n_changed", [0, 1, 20, 64])
def test_compact_takes_the_room_it_must(dtype, n_changed):
    before = torch.randn(8, 8).to(dtype)
    after = before.clone()
    after.view(-1)[torch.randperm(64, generator=torch.Generator().manual_seed(0))[:n_changed]] *= -1
    made = compact(before, after)
    if isinstance(made, Entries):
        assert len(made.positions) == n_changed
        assert torch.equal(before.put(made.positions.long(), made.values), after)
        assert n_changed * (4 + after.element_size()) < 64 * after.element_size()
    else:
        assert torch.equal(made, after)
        assert n_changed * (4 + after.element_size()) >= 64 * after.element_size()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(copied, kind, value):
    directory = copied(kind)
    (path,) = directory.glob("*.safetensors")
    tensors = load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].view(-1)[0] = value
    save_file(tensors, path)
    seal(directory)
    _refused(directory, "finite")


def test_a_directory_that_peft_may_read_too_is_held_against_its_digests(copied):
    directory = copied("adapter")
    (directory / "change.json").unlink()
    _refused(directory, "change.json")
    (directory / MANIFEST).unlink()
    assert load_change(directory).method == "adapter"  # nothing says that mechmask wrote it


def _config(directory, **fields):
    path = directory / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    seal(directory)


@pytest.mark.parametrize("initialisation", ["pissa", "olora", "gaussian", "eva", False, True])
def test_an_initialisation_is_not_taken_over(tiny, copied, initialisation, traced, logits_of):
    """PiSSA and OLoRA would rewrite the base for good."""
    model = tiny("llama")
    directory = copied("adapter")
    with load_change(directory).applied(model):
        wanted = logits_of(model)
    before = traced(model.module)
    _config(directory, init_lora_weights=initialisation)
    change = load_change(directory)
    assert change.config.init_lora_weights is True
    with change.applied(model):
        assert torch.equal(logits_of(model), wanted)
    assert traced(model.module) == before


@pytest.mark.parametrize(
    "field",
    [
        {"target_parameters": ["mlp.gate_proj.weight"]},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"lora_bias": True},
        {"layer_replication": [[0, 2], [1, 3]]},
        {"trainable_token_indices": [1, 2]},
        {"layers_to_transform": [0]},
        {"alora_invocation_tokens": [1]},
        {"use_qalora": True},
        {"exclude_modules": ["q_proj"]},
        {"a_field_of_a_later_peft": 1},
    ],
)
def test_what_reaches_beyond_the_factors_is_refused_by_name(copied, field):
    directory = copied("adapter")
    _config(directory, **field)
    _refused(directory, next(iter(field)))


@pytest.mark.parametrize(
    "field",
    [
        {"r": 0},
        {"r": "2"},
        {"r": True},
        {"r": 10**4500},
        {"lora_alpha": float("nan")},
        {"target_modules": ".*"},
        {"target_modules": []},
        {"rank_pattern": {"q_proj": -1}},
        {"lora_dropout": 2},
        {"peft_type": "IA3"},
    ],
)
def test_malformed_settings_are_refused(copied, field):
    directory = copied("adapter")
    if field == {"r": 10**4500}:
        text = (directory / "adapter_config.json").read_text()
        (directory / "adapter_config.json").write_text(text.replace('"r": 1', '"r": ' + "1" * 4500))
        seal(directory)
    else:
        _config(directory, **field)
    _refused(directory)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _comes_to_one_sentence(directory):
    try:
        assert isinstance(load_change(directory), Change)
    except MechmaskError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("file", ["change.json", "adapter_config.json"])
@FUZZ
@given(data=st.data())
def test_any_value_of_any_field_comes_to_one_sentence(copied, file, data):
    directory = copied(data.draw(st.sampled_from(KINDS)) if file == "change.json" else "adapter")
    header = json.loads((directory / file).read_text())
    field = data.draw(st.sampled_from(sorted(header)) | st.text(max_size=6))
    header[field] = data.draw(JSON)
    (directory / file).write_text(json.dumps(header))
    seal(directory)
    _comes_to_one_sentence(directory)


@FUZZ
@given(data=st.data())
def test_any_bytes_in_any_file_come_to_one_sentence(copied, data):
    directory = copied(data.draw(st.sampled_from(KINDS)))
    path = directory / data.draw(st.sampled_from(sorted(p.name for p in directory.iterdir() if p.name != MANIFEST)))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 600) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(data.draw(st.sampled_from([bytes(content), bytes(content[: len(content) // 2]), b"[" * 200_000])))
    seal(directory)
    _comes_to_one_sentence(directory)
