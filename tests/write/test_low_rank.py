"""Changes of low rank against dense sums made by hand; undone bit for bit; stored in factors."""

from __future__ import annotations

import pytest
import torch

from mechmask import graft, load_change, scaled
from mechmask.write.low_rank import Factors, LowRankChange, low_rank_change, writing

# Written from the architectures: which weight, how wide, and whether it is stored [in, out].
MAPS = {
    "gpt2": [("transformer.h.1.mlp.c_proj", 64, 32, True), ("transformer.h.0.attn.c_attn", 32, 96, True)],
    "gpt_neox": [("gpt_neox.layers.1.mlp.dense_4h_to_h", 64, 32, False)],
    "llama": [("model.layers.2.mlp.down_proj", 64, 32, False), ("model.layers.0.self_attn.k_proj", 32, 16, False)],
    "opt": [("model.decoder.layers.0.fc2", 64, 32, False)],
}


def factors(family, rank=2, dtype=torch.float32, maps=MAPS):
    generator = torch.Generator().manual_seed(1)
    return {
        f"{name}.weight": tuple(torch.randn(shape, generator=generator).to(dtype) for shape in ((o, rank), (rank, i)))
        for name, i, o, _ in maps[family]
    }


def dense(module, family, pairs, maps=MAPS):
    """The sums by hand, in float64."""
    stored = {f"{name}.weight": input_first for name, _, _, input_first in maps[family]}
    state = module.state_dict()
    update = {name: u.double() @ v.double() for name, (u, v) in pairs.items()}
    return {
        name: (state[name].double() + (product.T if stored[name] else product)).to(state[name].dtype)
        for name, product in update.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", MAPS)
def test_inside_it_is_the_dense_sum_and_outside_nothing_is_left(tiny, family, dtype, traced, bits_of):
    model = tiny(family, dtype)
    pairs = factors(family)
    wanted, before = dense(model.module, family, pairs), traced(model.module)
    change = low_rank_change(model, pairs, "by hand", {})
    assert traced(model.module) == before
    with change.applied(model):
        inside = traced(model.module)
        for name, weight in wanted.items():
            assert inside["bits"].pop(name) == bits_of(weight)
            del before["bits"][name]
        assert inside == before
    assert model.fingerprint == change.base


def test_what_it_adds_is_what_a_map_of_rank_r_beside_it_adds(tiny):
    """The output of the layer moves by U V x, whichever way round the weight is stored."""
    for family in ("gpt2", "llama"):
        model = tiny(family)
        (name, width, _, _), *_ = MAPS[family]
        layer, x = model.module.get_submodule(name), torch.randn(5, width)
        u, v = factors(family)[f"{name}.weight"]
        before = layer(x)
        with low_rank_change(model, {f"{name}.weight": (u, v)}, "by hand", {}).applied(model):
            torch.testing.assert_close(layer(x), before + x @ v.T @ u.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_square_weight_is_no_special_case(tiny, family, bits_of):
    maps = {
        "gpt2": [("transformer.h.1.mlp.c_proj", 32, 32, True)],
        "llama": [("model.layers.1.mlp.down_proj", 32, 32, False)],
    }
    model = tiny(family, **{"n_inner" if family == "gpt2" else "intermediate_size": 32})
    pairs = factors(family, maps=maps)
    (name, wanted), *_ = dense(model.module, family, pairs, maps).items()
    with low_rank_change(model, pairs, "by hand", {}).applied(model):
        assert bits_of(model.module.state_dict()[name]) == bits_of(wanted)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_over_an_adapter_it_changes_the_weight_under_it(tiny, family, facts, traced, bits_of):
    from mechmask import FinetuneConfig, finetune

    model = tiny(family)
    pairs = factors(family)
    wanted = dense(model.module, family, pairs)
    install = finetune(model, facts[:2], FinetuneConfig(steps=1, lr=1e-2, rank=2))
    with install.applied(model):
        adapted = traced(model.module)
        change = low_rank_change(model, pairs, "by hand", {})
        with change.applied(model):
            state = {name.replace(".base_layer", ""): tensor for name, tensor in model.module.state_dict().items()}
            assert all(bits_of(state[name]) == bits_of(weight) for name, weight in wanted.items())
        assert traced(model.module) == adapted


def test_it_is_undone_when_the_body_raises_or_writes(tiny, traced):
    model = tiny("gpt2")
    change = low_rank_change(model, factors("gpt2"), "by hand", {})
    before = traced(model.module)
    with pytest.raises(ZeroDivisionError), change.applied(model):
        with torch.no_grad():
            model.module.transformer.h[1].mlp.c_proj.weight.zero_()
        raise ZeroDivisionError
    assert traced(model.module) == before


def test_it_is_saved_in_factors_and_comes_back_bit_for_bit(tiny, tmp_path, logits_of):
    model = tiny("gpt2", n_inner=4096)
    maps = {"gpt2": [("transformer.h.1.mlp.c_proj", 4096, 32, True)]}
    change = low_rank_change(model, factors("gpt2", 1, maps=maps), "by hand", {"losses_nats": [0.5]})
    change.save(tmp_path / "change")
    loaded = load_change(tmp_path / "change")
    assert isinstance(loaded, LowRankChange)
    assert (loaded.method, loaded.details, loaded.blocks) == ("by hand", {"losses_nats": [0.5]}, (1,))
    assert sum(path.stat().st_size for path in (tmp_path / "change").iterdir()) < 20_000 < 4096 * 32 * 4
    with change.applied(model):
        wanted = logits_of(model)
    with loaded.applied(model):
        assert torch.equal(logits_of(model), wanted)


def test_a_part_and_a_multiple(tiny, bits_of):
    model = tiny("llama")
    pairs = factors("llama")
    change = low_rank_change(model, pairs, "by hand", {})
    down, key = pairs
    assert change.blocks == (0, 2)
    for part, kept in ((graft(None, change, [2]), {down: pairs[down]}), (scaled(change, 0.0, [2]), {key: pairs[key]})):
        wanted = dense(model.module, "llama", kept)
        with part.applied(model):
            state = model.module.state_dict()
            assert all(bits_of(state[name]) == bits_of(weight) for name, weight in wanted.items())
            assert bits_of(state[down]) == bits_of(wanted[down]) if down in kept else True
    half = dense(model.module, "llama", {name: (u * 0.5, v) for name, (u, v) in pairs.items()})
    for each in (scaled(change, 0.5), graft(None, change, [0, 2], 0.5)):
        with each.applied(model):
            assert all(bits_of(model.module.state_dict()[name]) == bits_of(weight) for name, weight in half.items())


def test_tied_weights_and_what_is_no_linear_map_are_refused(tiny, refused, traced):
    model = tiny("llama", tie_word_embeddings=True)
    before = traced(model.module)
    pair = torch.ones(512, 1), torch.ones(1, 32)
    names = ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight", "model.layers.1.mlp.down_proj", "")
    for name in names:
        with refused("not the weight of a linear map of its own"):
            low_rank_change(model, {name: pair}, "by hand", {})
    untied = tiny("llama")
    with low_rank_change(untied, {"lm_head.weight": pair}, "by hand", {}).applied(untied):
        pass
    with low_rank_change(model, factors("llama"), "by hand", {}).applied(model):
        assert model.module.lm_head.weight is model.module.model.embed_tokens.weight
    assert traced(model.module) == before


def test_factors_that_do_not_go_together_are_refused(tiny, refused):
    name = "model.layers.2.mlp.down_proj.weight"
    model, (u, v) = tiny("llama"), factors("llama")[name]
    for pair, message in [
        ((v.T, u.T), "lead from 32 inputs to 64 outputs, its map from 64 to 32"),
        ((u, v[:1]), "The factors of .* are"),
        ((u[:, 0], v[0]), "The factors of .* are"),
        ((u[:, :0], v[:0]), "The factors of .* are"),
        ((u.long(), v.long()), "The factors of .* are"),
        ((u * float("nan"), v), "not finite"),
        ((u, v * float("inf")), "not finite"),
        ((u * 0, v), "changes nothing"),
        ((u * 1e-30, v), "changes nothing: what it adds is less than"),
    ]:
        with refused(message):
            low_rank_change(model, {name: pair}, "by hand", {})
    with refused("changes nothing"):
        low_rank_change(model, {}, "by hand", {})
    half = tiny("llama", torch.float16)
    with refused("leaves the range of torch.float16"):
        low_rank_change(half, {name: (u * 1e5, v)}, "by hand", {})


def test_writing_takes_names_that_can_be_gone_through_once(tiny):
    model = tiny("llama")
    name = "model.layers.1.mlp.down_proj.weight"
    before = model.module.get_parameter(name).detach().clone()
    with writing(model, iter([name])) as add:
        add(name, Factors(torch.ones(32, 1), torch.ones(1, 64)))
        assert torch.equal(model.module.get_parameter(name), before + 1)
    assert torch.equal(model.module.get_parameter(name), before)
