"""Where things are in each family, found by what they do: a projection has to compute what its module computes."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, MambaConfig
from transformers.pytorch_utils import Conv1D

from mechmask.errors import ModelError
from mechmask.models.anatomy import LAYOUTS, anatomy_of


def output_of(module, run):
    """Input and output of a module while ``run`` runs."""
    kept = []
    hook = module.register_forward_hook(
        lambda m, args, kwargs, output: kept.append((args, kwargs, output)), with_kwargs=True
    )
    try:
        with torch.no_grad():
            run()
    finally:
        hook.remove()
    assert len(kept) == 1
    return kept[0]


def test_the_tests_know_every_family(family, tiny_module):
    assert tiny_module(family).config.model_type == family
    assert family in LAYOUTS


def test_no_family_is_left_out(request):
    import importlib.util

    spec = importlib.util.spec_from_file_location("shared", request.config.rootpath / "tests" / "conftest.py")
    shared = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shared)
    assert set(shared.FAMILIES | shared.MORE_FAMILIES) == set(LAYOUTS)


def test_blocks_norm_and_unembedding_make_the_logits(tiny, family):
    """Final norm of the last block's output, unembedded and capped, is the module's output."""
    model = tiny(family)
    anatomy = model.anatomy
    ids = torch.tensor([[5, 9, 300, 17]])
    run = lambda: model.module(ids)  # noqa: E731
    _, _, last = output_of(anatomy.blocks[-1], run)
    last = last[0] if isinstance(last, tuple) else last
    with torch.no_grad():
        logits = anatomy.unembedding(anatomy.final_norm(last))
        if anatomy.softcap:
            logits = anatomy.softcap * (logits / anatomy.softcap).tanh()
        assert torch.equal(anatomy.decoder(ids).last_hidden_state, anatomy.final_norm(last))
        torch.testing.assert_close(logits, model.module(ids).logits, atol=1e-5, rtol=0)
    assert (anatomy.softcap == 3.0) == (family == "gemma2")
    assert anatomy.n_layers == model.n_layers == model.module.config.num_hidden_layers == len(anatomy.blocks)


def test_attention_and_mlp_of_every_block(tiny, family):
    model = tiny(family)
    anatomy = model.anatomy
    for i, block in enumerate(anatomy.blocks):
        inside = list(block.modules())
        assert anatomy.attention(i) in inside and anatomy.mlp(i) in inside
        assert "attention" in type(anatomy.attention(i)).__name__.lower()
        kinds = [type(child) for child in anatomy.attention(i).children() if isinstance(child, (nn.Linear, Conv1D))]
        assert kinds, "no linear map in what is called attention"
        assert anatomy.mlp_output(i).linear in list(anatomy.mlp(i).modules())


def test_mlp_output_by_its_orientation(tiny, family):
    """A key through the weight, in the orientation that is claimed, is the module's own output."""
    model = tiny(family)
    for i in range(model.n_layers):
        projection = model.anatomy.mlp_output(i)
        (key,), _, output = output_of(projection.linear, lambda: model.module(torch.tensor([[5, 9, 300]])))
        weight = projection.weight if projection.input_first else projection.weight.T
        assert key.shape[-1] == 64 and output.shape[-1] == 32
        torch.testing.assert_close(key @ weight + (0 if projection.bias is None else projection.bias), output)
        assert model.module.get_parameter(f"{projection.name}.weight") is projection.weight


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("gpt2", {"n_inner": 32}),
        ("llama", {"intermediate_size": 32}),
        ("gptj", {"n_inner": 32}),
        ("opt", {"ffn_dim": 32}),
    ],
)
def test_square_matrices_are_not_read_the_wrong_way_round(tiny, family, config):
    model = tiny(family, **config)
    projection = model.anatomy.mlp_output(1)
    assert projection.weight.shape == (32, 32)
    assert projection.input_first == (family == "gpt2")
    (key,), _, output = output_of(projection.linear, lambda: model.module(torch.tensor([[5, 9, 300]])))
    bias = 0 if projection.bias is None else projection.bias
    right, wrong = (
        (projection.weight, projection.weight.T) if projection.input_first else (projection.weight.T, projection.weight)
    )
    torch.testing.assert_close(key @ right + bias, output)
    assert not torch.allclose(key @ wrong + bias, output, atol=0.1)


def test_projections_are_every_linear_map_of_the_blocks(tiny, family):
    model = tiny(family)
    linear = {
        name
        for name, child in model.module.named_modules()
        if isinstance(child, (nn.Linear, Conv1D)) and child is not model.anatomy.unembedding
    }
    found = list(model.anatomy.projections())
    assert [p.name for p in found] == sorted(
        (p.name for p in found), key=[n for n, _ in model.module.named_modules()].index
    )
    assert {p.name for p in found} == linear
    assert len(found) == len(linear)
    for projection in found:
        assert projection.linear is model.module.get_submodule(projection.name)
        assert projection.input_first == isinstance(projection.linear, Conv1D)


def test_an_adapter_changes_no_name_and_no_weight(tiny, family):
    model = tiny(family)
    before = {p.name: (p.weight.data_ptr(), p.input_first) for p in model.anatomy.projections()}
    outputs = [model.anatomy.mlp_output(i).name for i in range(model.n_layers)]
    get_peft_model(model.module, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    adapted = anatomy_of(model.module)
    assert {p.name: (p.weight.data_ptr(), p.input_first) for p in adapted.projections()} == before
    assert [adapted.mlp_output(i).name for i in range(adapted.n_layers)] == outputs


def test_a_block_that_is_not_there(tiny):
    anatomy = tiny("llama").anatomy
    for block in (-1, 3):
        with pytest.raises(ModelError, match=r"no block .* blocks 0 to 2"):
            anatomy.mlp_output(block)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (
            MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4),
            ("backbone.layers (2 x MambaBlock)", "backbone.norm_f", "lm_head"),
        ),
    ],
)
def test_an_unknown_family_is_refused_with_what_was_found(config, names):
    module = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError) as caught:
        anatomy_of(module)
    message = str(caught.value)
    assert f"{config.model_type!r} family of models is not known" in message
    assert all(name in message for name in names)
    assert "LAYOUTS" in message and "llama" in message


def test_a_known_family_built_otherwise_is_refused(tiny_module):
    module = tiny_module("llama")
    for layer in module.model.layers:
        layer.mlp.down = layer.mlp.down_proj
        del layer.mlp.down_proj
    with pytest.raises(ModelError, match=r"not built as its family is .*down_proj.*Found in LlamaForCausalLM"):
        anatomy_of(module)


def test_a_projection_of_another_kind_is_refused(tiny_module):
    module = tiny_module("llama")
    module.model.layers[0].mlp.down_proj = nn.Bilinear(64, 64, 32)
    with pytest.raises(ModelError, match="is a Bilinear: mechmask knows the orientation of Linear and Conv1D only"):
        anatomy_of(module)


def test_what_is_no_transformers_model_is_refused(tiny_module):
    with pytest.raises(ModelError, match=r"Sequential is not a transformers model. Load it with AutoModelForCausalLM"):
        anatomy_of(nn.Sequential(nn.Linear(2, 2)))


def test_a_model_without_unembedding_is_refused(tiny_module):
    with pytest.raises(ModelError, match="unembedding none"):
        anatomy_of(tiny_module("llama").model)


@pytest.mark.parametrize(("family", "window"), [("mistral", 8), ("gemma2", 8), ("llama", None), ("gpt2", None)])
def test_sliding_window(tiny, family, window):
    assert tiny(family, **({"sliding_window": window} if window else {})).anatomy.sliding_window == window
