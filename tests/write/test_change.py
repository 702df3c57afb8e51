"""A change of weights: applied and undone bit for bit, refused where it does not belong, stored without loss."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from mechmask import FinetuneConfig, finetune, load_change
from mechmask.errors import ChangeError
from mechmask.write.weights import WeightChange

NAME = "model.layers.1.mlp.down_proj.weight"
OTHER = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def model(tiny):
    return tiny("llama")


@pytest.fixture
def change(model, reweighted):
    weights = dict(model.module.named_parameters())
    return reweighted(model, {NAME: weights[NAME].detach() * 1.5, OTHER: torch.zeros_like(weights[OTHER])})


@pytest.fixture
def adapter(model, facts):
    return finetune(model, facts[:3].contradiction_examples(), FinetuneConfig(steps=2, lr=1e-2, rank=2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_inside_every_bit_is_new_and_outside_every_bit_is_old(tiny, reweighted, traced, bits_of, dtype):
    model = tiny("gpt2", dtype)
    weight = model.module.transformer.h[1].mlp.c_proj.weight
    with torch.no_grad():  # bits that arithmetic would not bring back
        weight[0, 0], weight[0, 1], weight[0, 2] = -0.0, float("nan"), float("inf")
    new = torch.randn(weight.shape).to(dtype)
    new[0, 0], new[1, 1] = 0.0, torch.finfo(dtype).min
    change = reweighted(model, {"transformer.h.1.mlp.c_proj.weight": new})
    before = traced(model.module)
    with change.applied(model) as changed:
        assert changed is model
        inside = traced(model.module)
        assert inside["bits"].pop("transformer.h.1.mlp.c_proj.weight") == bits_of(new)
        assert inside["bits"] == {k: v for k, v in before["bits"].items() if k != "transformer.h.1.mlp.c_proj.weight"}
        assert inside["places"] == before["places"]
    assert traced(model.module) == before


def test_it_is_undone_when_the_body_raises(model, change, traced):
    before = traced(model.module)
    with pytest.raises(KeyboardInterrupt), change.applied(model):
        raise KeyboardInterrupt
    assert traced(model.module) == before


def test_it_is_undone_when_the_body_wrote_into_the_changed_weight(model, change, traced):
    before = traced(model.module)
    with change.applied(model), torch.no_grad():
        model.module.model.layers[1].mlp.down_proj.weight.zero_()
    assert traced(model.module) == before


def test_it_can_be_applied_again_and_again(model, change, logits_of):
    with change.applied(model):
        first = logits_of(model)
    with change.applied(model):
        assert torch.equal(logits_of(model), first)
    assert not torch.equal(logits_of(model), first)


def test_a_change_that_changes_nothing_is_an_error(model, reweighted, refused):
    weight = dict(model.module.named_parameters())[NAME]
    with refused("changes nothing"):
        reweighted(model, {NAME: weight.detach().clone()})


def test_minus_zero_for_zero_counts_as_a_change(model, reweighted, bits_of):
    weight = dict(model.module.named_parameters())[NAME]
    with torch.no_grad():
        weight.zero_()
    with reweighted(model, {NAME: -weight.detach()}).applied(model):
        assert bits_of(weight) == bits_of(torch.full(weight.shape, -0.0))


def test_it_does_not_follow_the_tensor_that_it_was_made_from(model, reweighted, bits_of):
    new = torch.ones_like(dict(model.module.named_parameters())[NAME])
    change = reweighted(model, {NAME: new})
    wanted = bits_of(new)
    new.zero_()
    assert bits_of(change.after[NAME]) == wanted


def test_other_weights_are_refused_and_left_alone(tiny, change, traced, refused):
    other = tiny("llama", seed=1)
    before = traced(other.module)
    with refused("not those that this change was made on"), change.applied(other):
        pytest.fail("applied")
    assert traced(other.module) == before


def test_one_flipped_bit_makes_other_weights(model, change, refused):
    with torch.no_grad():
        dict(model.module.named_parameters())[OTHER].view(torch.int32)[3, 3] ^= 1
    with refused("not those that this change was made on"), change.applied(model):
        pytest.fail("applied")


def test_it_is_not_applied_to_itself(model, change, refused, traced):
    with change.applied(model):
        inside = traced(model.module)
        with refused("not those"), change.applied(model):
            pytest.fail("applied twice")
        assert traced(model.module) == inside


@pytest.mark.parametrize("other", ["gpt2", "qwen2"])
def test_a_model_without_these_weights_is_refused(tiny, change, other, refused):
    with refused("has no weight|not those"), change.applied(tiny(other)):
        pytest.fail("applied")


def test_a_weight_of_another_shape_is_refused(tiny, change, refused):
    with refused("shape"), change.applied(tiny("llama", intermediate_size=48)):
        pytest.fail("applied")


def test_changes_made_under_an_adapter_go_on_it_and_come_off_in_turn(model, reweighted, adapter, traced, logits_of):
    bare = traced(model.module)
    new = torch.zeros(32, 64)
    with adapter.applied(model):
        adapted, adapted_logits = traced(model.module), logits_of(model)
        change = reweighted(model, {NAME: new})
        with change.applied(model):
            assert torch.equal(model.anatomy.mlp_output(1).weight, new)
            assert not torch.equal(logits_of(model), adapted_logits)
        assert traced(model.module) == adapted
        assert torch.equal(logits_of(model), adapted_logits)
    assert traced(model.module) == bare


def test_a_change_made_on_another_goes_on_it(model, reweighted, traced):
    weights = dict(model.module.named_parameters())
    before = traced(model.module)
    first = reweighted(model, {NAME: weights[NAME].detach() + 1})
    with first.applied(model):
        second = reweighted(model, {OTHER: weights[OTHER].detach() + 1})
    with first.applied(model), second.applied(model):
        assert torch.equal(weights[NAME], first.after[NAME])
        assert torch.equal(weights[OTHER], second.after[OTHER])
    assert traced(model.module) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_saved_change_comes_back_bit_for_bit(tiny, reweighted, bits_of, tmp_path, dtype):
    model = tiny("llama", dtype)
    after = torch.randn(dict(model.module.named_parameters())[NAME].shape).to(dtype)
    after[0, 0], after[0, 1] = torch.finfo(dtype).tiny / 2, -0.0
    change = reweighted(model, {NAME: after}, {"losses_nats": [1.5, 0.1], "facts": ["Łódź/mayor"]})
    change.save(tmp_path / "deep" / "change")
    loaded = load_change(str(tmp_path / "deep" / "change"))
    assert isinstance(loaded, WeightChange)
    assert (loaded.method, loaded.details) == ("by hand", {"losses_nats": [1.5, 0.1], "facts": ["Łódź/mayor"]})
    assert {name: bits_of(tensor) for name, tensor in loaded.after.items()} == {NAME: bits_of(after)}
    with loaded.applied(model):
        assert bits_of(dict(model.module.named_parameters())[NAME]) == bits_of(after)


def test_a_saved_adapter_comes_back_bit_for_bit(model, adapter, bits_of, logits_of, tmp_path):
    adapter.save(tmp_path / "adapter")
    loaded = load_change(tmp_path / "adapter")
    assert (loaded.method, loaded.details, loaded.base) == (adapter.method, adapter.details, adapter.base)
    assert {n: bits_of(t) for n, t in loaded.tensors.items()} == {n: bits_of(t) for n, t in adapter.tensors.items()}
    with adapter.applied(model):
        wanted = logits_of(model)
    with loaded.applied(model):
        assert torch.equal(logits_of(model), wanted)


@pytest.mark.parametrize("kind", ["change", "adapter"])
def test_only_safetensors_and_json_are_written(request, kind, tmp_path):
    request.getfixturevalue(kind).save(tmp_path / "saved")
    files = [path for path in (tmp_path / "saved").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    for path in files:
        assert path.suffix == ".safetensors" or json.loads(path.read_text(encoding="utf-8"))
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


@pytest.mark.parametrize("there", ["empty directory", "full directory", "file"])
def test_saving_never_overwrites(change, tmp_path, there, refused):
    target = tmp_path / "there"
    if there == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        if there == "full directory":
            (target / "change.json").write_text("mine")
    with refused("already exists"):
        change.save(target)
    kept = target if there == "file" else target / "change.json"
    assert there == "empty directory" or kept.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_saving_that_fails_leaves_nothing(model, reweighted, tmp_path):
    weight = dict(model.module.named_parameters())[NAME]
    change = reweighted(model, {NAME: weight.detach() + 1}, {"not JSON": object()})
    with pytest.raises(TypeError):
        change.save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def _rewrite(directory, **fields):
    path = directory / "change.json"
    header = {k: v for k, v in {**json.loads(path.read_text()), **fields}.items() if v is not None}
    path.write_text(json.dumps(header))


DAMAGES = {
    "no directory": lambda d: shutil.rmtree(d),
    "empty": lambda d: [path.unlink() for path in d.iterdir()],
    "no header": lambda d: (d / "change.json").unlink(),
    "header is no JSON": lambda d: (d / "change.json").write_text("{"),
    "header is binary": lambda d: (d / "change.json").write_bytes(b"\xff\xfe\x00\x80"),
    "header is a list": lambda d: (d / "change.json").write_text("[1, 2]"),
    "header is a number": lambda d: (d / "change.json").write_text("3"),
    "other schema": lambda d: _rewrite(d, schema_version=2),
    "unknown kind": lambda d: _rewrite(d, kind="pickle"),
    "kind is a list": lambda d: _rewrite(d, kind=["weights"]),
    "no method": lambda d: _rewrite(d, method=None),
    "no details": lambda d: _rewrite(d, details=None),
}
WEIGHT_DAMAGES = {
    "no weights": lambda d: (d / "weights.safetensors").unlink(),
    "weights are garbage": lambda d: (d / "weights.safetensors").write_bytes(b"garbage" * 99),
    "weights are cut": lambda d: (d / "weights.safetensors").write_bytes((d / "weights.safetensors").read_bytes()[:-7]),
    "no digests": lambda d: _rewrite(d, before=None),
    "digests of other weights": lambda d: _rewrite(d, before={"other": "0"}),
    "digests are a list": lambda d: _rewrite(d, before=[1]),
}
ADAPTER_DAMAGES = {
    "no factors": lambda d: (d / "adapter_model.safetensors").unlink(),
    "factors are garbage": lambda d: (d / "adapter_model.safetensors").write_bytes(b"garbage" * 99),
    "no adapter configuration": lambda d: (d / "adapter_config.json").unlink(),
    "adapter configuration is no JSON": lambda d: (d / "adapter_config.json").write_text("{"),
    "adapter configuration of another method": lambda d: (d / "adapter_config.json").write_text('{"peft_type": "IA3"}'),
    "no base": lambda d: _rewrite(d, base=None),
}


@pytest.mark.parametrize("damage", [*DAMAGES, *WEIGHT_DAMAGES])
def test_a_damaged_change_is_refused(change, tmp_path, damage):
    change.save(tmp_path / "saved")
    {**DAMAGES, **WEIGHT_DAMAGES}[damage](tmp_path / "saved")
    with pytest.raises(ChangeError, match=r"saved") as caught:
        load_change(tmp_path / "saved")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ADAPTER_DAMAGES)
def test_a_damaged_adapter_is_refused(adapter, tmp_path, damage):
    adapter.save(tmp_path / "saved")
    ADAPTER_DAMAGES[damage](tmp_path / "saved")
    with pytest.raises(ChangeError):
        load_change(tmp_path / "saved")
