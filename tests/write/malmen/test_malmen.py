"""MALMEN's edit, against its equations written naively on plain transformers, and a directory of networks."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch import nn

from mechmask import FactSet, edit, load_model, synthetic_facts
from mechmask.errors import ChangeError, RouteError
from mechmask.write.edit import prepare
from mechmask.write.low_rank import LowRankChange
from mechmask.write.malmen.networks import hypernetworks_for, load_hypernetworks
from mechmask.write.methods.malmen import MALMENConfig
from mechmask.write.weights import WeightChange

LAYERS = (0, 1)
FAMILIES = ["gpt2", "llama", "gpt_neox", "gptj", "opt"]
PLAIN = MALMENConfig(layers=LAYERS, hypernetwork="identity", lr=0.05, ridge=2.0)

pytestmark = pytest.mark.filterwarnings("ignore:The .* edit did not take")


def randomised(networks, seed=0):
    """Every parameter moved, and statistics that are neither zero nor one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in networks.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * (0.1 if parameter.ndim > 1 else 0.3))
        for network in networks.networks():
            pairs = 0.3 + torch.rand(len(network.mean), generator=generator) * torch.randn(
                50, len(network.mean), generator=generator
            )
            network.observe(*pairs.split(network.widths, 1))
            network.lr.abs_()
    return networks


def naive_signals(model, facts, layers):
    """Keys and gradients at answer tokens: each fact alone through the plain module, one backward pass each."""
    keys, gradients = ({layer: [] for layer in layers} for _ in range(2))
    for fact in facts:
        prompt = model.tokenizer(fact.prompt)["input_ids"]
        ids = model.tokenizer(f"{fact.prompt} {fact.new}")["input_ids"]
        seen, hooks = {}, []
        for layer in layers:

            def keep(_module, args, output, layer=layer, seen=seen):
                output.retain_grad()
                seen[layer] = args[0], output

            projection = model.module.get_submodule(model.anatomy.mlp_output(layer).name)
            hooks.append(projection.register_forward_hook(keep))
        logits = model.module(input_ids=torch.tensor([ids])).logits[0]
        asked = range(len(prompt) - 1, len(ids) - 1)
        loss = -sum(logits[i].log_softmax(-1)[ids[i + 1]] for i in asked)
        loss.backward()
        for hook in hooks:
            hook.remove()
        for layer, (key, value) in seen.items():
            keys[layer].append(key.reshape(len(ids), -1)[list(asked)].detach().double())
            gradients[layer].append(value.grad.reshape(len(ids), -1)[list(asked)].double())
        model.module.zero_grad(set_to_none=True)
    return {layer: (torch.cat(keys[layer]), torch.cat(gradients[layer])) for layer in layers}


def naive_update(keys, gradients, lr, ridge, new_keys, new_gradients):
    differences = torch.stack([-lr * (k @ nk) * ng for k, nk, ng in zip(keys, new_keys, new_gradients, strict=True)])
    return torch.linalg.solve(keys.mT @ keys + ridge * torch.eye(keys.shape[1]).double(), keys.mT @ differences)


def naive_network(network, number, keys, gradients):
    pairs = torch.cat([keys, gradients], 1)
    pairs = (pairs - network.mean) / (network.deviations / (network.n_seen - 1)).sqrt()
    for block in network.blocks:
        hidden = torch.relu(pairs @ (block.down.double() @ block.up.double()) + block.bias.double())
        pairs = pairs + block.scale[number].double() * hidden + block.shift[number].double()
    return pairs[:, : keys.shape[1]].detach(), pairs[:, keys.shape[1] :].detach()


def updates(change):
    return {
        int(name.split("s." if "s." in name else "h.")[1].split(".")[0]): f.outputs @ f.inputs
        for name, f in change.factors.items()
    }


def close(mine, theirs, tolerance=1e-4):
    assert (mine - theirs).norm() < tolerance * theirs.norm()


@pytest.fixture
def some(facts):
    return FactSet([facts[0], facts["France/capital"], facts["Ana/friend"]])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_identity_is_the_closed_form(tiny, family, some):
    model = tiny(family, **({"num_hidden_layers": 3} if family == "gpt_neox" else {}))
    mine = updates(edit(model, some, config=PLAIN))
    for layer, (keys, gradients) in naive_signals(model, some, LAYERS).items():
        close(mine[layer], naive_update(keys, gradients, 0.05, 2.0, keys, gradients).mT)


def test_networks_that_begin_are_the_identity_on_normalised_pairs(tiny, some, tmp_path):
    model = tiny("llama")
    networks = hypernetworks_for(model, LAYERS, rank=8, n_blocks=2, lr=0.05, ridge=2.0)
    networks.draw(0)
    network, _ = networks.of(0)
    pairs = torch.randn(40, 96) * torch.rand(96) + 0.2
    network.observe(*pairs.split((64, 32), 1))
    networks.save(tmp_path / "networks")
    mine = updates(edit(model, some, config=MALMENConfig(layers=LAYERS, hypernetwork=str(tmp_path / "networks"))))
    for layer, (keys, gradients) in naive_signals(model, some, LAYERS).items():
        normed = (torch.cat([keys, gradients], 1) - pairs.double().mean(0)) / pairs.double().std(0)
        close(mine[layer], naive_update(keys, gradients, 0.05, 2.0, normed[:, :64], normed[:, 64:]).mT)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_trained_edit_is_the_published_equations(tiny, family, some, tmp_path):
    model = tiny(family)
    networks = randomised(hypernetworks_for(model, LAYERS, rank=8, n_blocks=2))
    networks.save(tmp_path / "networks")
    change = edit(model, some, config=MALMENConfig(layers=LAYERS, hypernetwork=str(tmp_path / "networks")))
    for layer, (keys, gradients) in naive_signals(model, some, LAYERS).items():
        network, number = networks.of(layer)
        lr, ridge = network.lr[number].item(), network.log_ridge[number].exp().item()
        pseudo = naive_network(network, number, keys, gradients)
        close(updates(change)[layer], naive_update(keys, gradients, lr, ridge, *pseudo).mT)


def test_statistics_are_those_of_all_pairs_however_they_came(tiny):
    network, _ = hypernetworks_for(tiny("llama"), (1,)).of(1)
    pairs = torch.randn(31, 96).double() * 3 + 5
    for part in pairs.split([1, 10, 20]):
        network.observe(*part.split((64, 32), 1))
    assert int(network.n_seen) == 31
    assert torch.allclose(network.mean, pairs.mean(0))
    assert torch.allclose((network.deviations / 30).sqrt(), pairs.std(0))


def test_an_edit_leaves_the_networks_as_they_are(tiny, some, tmp_path):
    model = tiny("llama")
    randomised(hypernetworks_for(model, LAYERS, rank=8, n_blocks=1)).save(tmp_path / "networks")
    editor = prepare(model, config=MALMENConfig(layers=LAYERS, hypernetwork=str(tmp_path / "networks")))
    before = editor.networks.digest
    changes = [editor.edit(some, progress=False) for _ in range(2)]
    assert editor.networks.digest == before == changes[0].details["hypernetwork"]["digest"]


@pytest.mark.parametrize("size", [1, 2])
def test_facts_that_are_read_together_do_not_count(tiny, some, size):
    model = tiny("llama")
    mine, wide = (updates(edit(model, some, config=PLAIN.model_copy(update={"micro_batch": n}))) for n in (size, 64))
    for layer in LAYERS:
        close(mine[layer], wide[layer], 1e-5)


@pytest.mark.parametrize("inner", [64, 32])
def test_a_map_stored_the_other_way_round_gets_the_same_numbers(tiny_module, tokenizer, some, inner):
    conv, linear = (tiny_module("gpt2", n_inner=inner) for _ in range(2))
    for block in linear.transformer.h:
        old = block.mlp.c_proj
        block.mlp.c_proj = nn.Linear(inner, 32)
        with torch.no_grad():
            block.mlp.c_proj.weight.copy_(old.weight.mT)
            block.mlp.c_proj.bias.copy_(old.bias)
    weights = []
    for module in (conv, linear.eval()):
        model = load_model(module, tokenizer=tokenizer)
        with edit(model, some, config=PLAIN).applied(model):
            weights.append([model.anatomy.mlp_output(layer).weight.detach().clone() for layer in LAYERS])
    for stored, turned in zip(*weights, strict=True):
        assert torch.allclose(stored, turned.mT, atol=1e-6)


def test_very_many_answer_tokens_are_kept_as_weights(tiny, traced, tmp_path):
    model = tiny("llama")
    before = traced(model.module)
    many = synthetic_facts(12, seed=5)
    config = PLAIN.model_copy(update={"lr": 1e-3})
    change = edit(model, many, config=config)
    assert isinstance(change, WeightChange)
    assert isinstance(edit(model, many[:1], config=config), LowRankChange)
    assert traced(model.module) == before
    with change.applied(model):
        inside = [model.anatomy.mlp_output(layer).weight.detach().clone() for layer in LAYERS]
    for layer, (keys, gradients) in naive_signals(model, many, LAYERS).items():
        update = naive_update(keys, gradients, 1e-3, 2.0, keys, gradients).mT
        assert len(keys) * 96 >= 64 * 32
        close(inside[layer] - model.anatomy.mlp_output(layer).weight.detach(), update, 1e-3)


def test_no_network_is_an_error_and_the_identity_says_so(tiny, some, refused):
    model = tiny("llama")
    with refused("networks that were trained on the model, and none are named.*train_malmen"):
        prepare(model, config=MALMENConfig(layers=(1,)))
    said = edit(model, some, config=PLAIN).details["hypernetwork"]
    assert (said["trained"], said["trained_on"]) == (False, "nothing")
    with refused("There is no block 7"):
        prepare(model, config=MALMENConfig(layers=(7,), hypernetwork="identity"))


def test_a_prompt_that_the_model_cannot_read_is_refused(tiny, some):
    long = some[0].model_copy(update={"prompt": "the king of the birds " * 100 + some[0].prompt})
    with pytest.raises(RouteError, match="reads 256 at most"):
        edit(tiny("llama"), [long], config=PLAIN)


@pytest.fixture
def saved(tiny, tmp_path):
    model = tiny("llama")
    networks = randomised(hypernetworks_for(model, LAYERS, rank=8, n_blocks=2))
    networks.training = {"steps": 3}
    networks.save(tmp_path / "networks")
    return model, networks, tmp_path / "networks"


def test_what_is_saved_is_read_back_bit_for_bit(saved, bits_of):
    _, networks, directory = saved
    read = load_hypernetworks(directory)
    assert read.digest == networks.digest
    assert (read.layers, read.widths, read.base, read.training) == (
        LAYERS,
        networks.widths,
        networks.base,
        {"steps": 3},
    )
    for mine, theirs in zip(read.parameters(), networks.parameters(), strict=True):
        assert bits_of(mine) == bits_of(theirs)
        assert mine.requires_grad
    with pytest.raises(ChangeError, match="already exists"):
        networks.save(directory)


def test_damaged_and_foreign_directories_are_refused(saved, tmp_path, refused):
    from mechmask.files import seal

    _, _, directory = saved

    def copied(name):
        return shutil.copytree(directory, tmp_path / name)

    with refused("holds no hypernetworks"):
        load_hypernetworks(tmp_path)
    with refused("is damaged: networks.safetensors is cut"):
        path = copied("cut") / "networks.safetensors"
        path.write_bytes(path.read_bytes()[:-8])
        load_hypernetworks(path.parent)
    with refused("has no digests.json"):
        (copied("unsealed") / "digests.json").unlink()
        load_hypernetworks(tmp_path / "unsealed")
    for number, (edited, said) in enumerate(
        [
            ({"schema_version": 2}, "its schema is 2"),
            ({"rank": 9}, "not whole"),
            ({"base": "x"}, "not whole"),
            ({"widths": {"0": [64, 32]}}, "not whole"),
            ({"more": 1}, "not whole"),
            ({"rank": 10**15}, "not whole"),
        ]
    ):
        path = copied(f"header{number}") / "hypernetworks.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | edited))
        seal(path.parent)
        with refused(said):
            load_hypernetworks(path.parent)


def test_networks_belong_to_the_model_that_they_were_trained_on(saved, tiny, some, refused):
    model, _, directory = saved
    config = MALMENConfig(layers=LAYERS, hypernetwork=str(directory))
    assert MALMENConfig(layers=LAYERS, hypernetwork=directory) == config
    change = edit(model, some, config=config)
    assert change.details["hypernetwork"]["trained_on"] == "this model"
    assert change.details["hypernetwork"]["training"] == {"steps": 3}
    again = edit(change.on(model), some, config=config)
    assert again.details["hypernetwork"]["trained_on"] == "an earlier state of this model"
    other = tiny("llama", seed=1)
    with refused("were not trained on .*other_base='accept'"):
        edit(other, some, config=config)
    accepted = edit(other, some, config=config.model_copy(update={"other_base": "accept"}))
    assert accepted.details["hypernetwork"]["trained_on"] == "another model"
    with refused(r"are for the blocks 0, 1, not 1. Give layers=\[0, 1\]"):
        edit(model, some, config=MALMENConfig(layers=(1,), hypernetwork=str(directory)))
    with refused("for a map from 64 to 32 in block 0, and here it leads from 48 to 32"):
        edit(tiny("llama", intermediate_size=48), some, config=config)
