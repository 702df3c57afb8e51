"""ROME, r-ROME, MEMIT, EMMET and AlphaEdit: against the published algorithms, written naively, on several families."""

from __future__ import annotations

import copy

import keyed_editors as naive
import pytest
import torch
from transformers.pytorch_utils import Conv1D

from mechmask import load_model
from mechmask.errors import ChangeError
from mechmask.models.states import active
from mechmask.write.edit import METHODS, prepare
from mechmask.write.methods.alphaedit import AlphaEditConfig
from mechmask.write.methods.emmet import EMMETConfig
from mechmask.write.methods.memit import MEMITConfig
from mechmask.write.methods.r_rome import RROMEConfig
from mechmask.write.methods.rome import ROMEConfig
from mechmask.write.requests import requests
from mechmask.write.values import seek_values

CONTEXTS = ("The king of the birds", "Maria met Peter in Berlin", "No")
SEARCH = {"value_steps": 6, "value_lr": 0.1, "value_stop": 0.0, "moment_tokens": 512}
FAMILIES = ["gpt2", "llama", "gpt_neox", "gptj", "opt"]
THREE = {"gpt_neox": {"num_hidden_layers": 3}}  # blocks, as the others have
PUBLISHED = naive.Settings(steps=6, lr=0.1, stop=0.0)
SPREAD = naive.Settings(steps=6, lr=0.1, stop=0.0, clamp=0.75)


@pytest.fixture
def some(facts):
    return [facts[0], facts["France/capital"], facts["Ana/friend"]]


def ready(model, config):
    editor = prepare(model, config=config)
    editor.contexts = CONTEXTS
    if config.method == "alphaedit":  # half of the directions of each layer are free, or nearly so
        threshold = float(sum(moment.eigenvalues.median() for moment in editor.moments.values()) / len(editor.moments))
        editor.config = config.model_copy(update={"null_space_threshold": threshold})
    return editor


def updates(change):
    return {
        int(name.split(".layers." if ".layers." in name else ".h.")[1].split(".")[0]): factors.outputs @ factors.inputs
        for name, factors in change.factors.items()
    }


def dense(editor):
    """The second moments with their shrinkage, as matrices."""
    return {
        layer: m.matrix + m.shrinkage * m.matrix.trace() / len(m.matrix) * torch.eye(len(m.matrix), dtype=torch.float64)
        for layer, m in editor.moments.items()
    }


def close(mine, theirs, tolerance=2e-4):
    assert (mine - theirs).norm() < tolerance * theirs.norm()


@pytest.mark.filterwarnings("ignore:The .* edit did not take")
@pytest.mark.parametrize("family", [*FAMILIES, "gemma2"])
@pytest.mark.parametrize(("config", "averaged"), [(ROMEConfig, False), (RROMEConfig, True)])
def test_rome_is_the_published_update(tiny, family, some, config, averaged):
    model = tiny(family, **THREE.get(family, {}))
    editor = ready(model, config(layers=(1,), **SEARCH))
    change = editor.edit(some[1:2], progress=False)
    theirs = naive.rome(
        model.module, model.tokenizer, some[1], 1, CONTEXTS, dense(editor)[1], PUBLISHED, averaged=averaged
    )
    close(updates(change)[1], theirs)


@pytest.mark.filterwarnings("ignore:The .* edit did not take")
@pytest.mark.parametrize("config", [ROMEConfig, RROMEConfig])
@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        *(("gpt2", {}), ("gpt2", {"n_inner": 32}), ("llama", {}), ("llama", {"intermediate_size": 32})),
        *(("gptj", {}), ("opt", {}), ("gemma2", {})),
    ],
)
def test_in_float64_the_value_stands_where_it_is_written(tiny, some, family, sizes, config):
    """``W' k + b = v``: at the key of the bare prompt (ROME), or at the mean key over contexts (r-ROME)."""
    model = tiny(family, torch.float64, **sizes)
    editor = ready(model, config(layers=(1,), **SEARCH))
    prompts = [naive.framed(some[1].prompt, context) for context in ("", *CONTEXTS)]
    prompts = prompts[:1] if config is ROMEConfig else prompts
    layer = naive.projection_of(model.module, 1)
    keys = naive.read_at(model.module, model.tokenizer, prompts, some[1].subject, layer, inputs=True).mean(0)
    asked = requests(model, [some[1]], CONTEXTS)
    wanted = seek_values(model, asked, 1, editor.config, "mlp").targets[0]
    with active(editor.edit([some[1]], progress=False).on(model)) as edited:
        there = naive.projection_of(edited.module, 1)
        weight = there.weight.T if isinstance(there, Conv1D) else there.weight
        stands = weight @ keys + (0 if there.bias is None else there.bias)
        rounding = 1e-5 if family in ("gptj", "gemma2") else 1e-12  # their attention computes in float32
        torch.testing.assert_close(stands.detach(), wanted, rtol=rounding, atol=rounding)


@pytest.mark.filterwarnings("ignore:The .* edit did not take")
def test_rome_writes_one_fact_after_the_other(tiny, some):
    model, plain = tiny("llama"), tiny("llama")
    editor = ready(model, ROMEConfig(layers=(0, 1), **SEARCH))
    mine = updates(editor.edit(some[:2], progress=False))
    sums = {0: 0, 1: 0}
    for fact in some[:2]:
        for layer in (0, 1):
            update = naive.rome(plain.module, plain.tokenizer, fact, layer, CONTEXTS, dense(editor)[layer], PUBLISHED)
            naive.add_to(plain.module, layer, update)
            sums[layer] = sums[layer] + update
    for layer, update in sums.items():
        close(mine[layer], update)


def solves(editor):
    moments = dense(editor)
    unshrunk = {layer: m.matrix for layer, m in editor.moments.items()}
    c = editor.config
    if c.method == "memit":
        return naive.memit_solve(moments, c.moment_weight)
    if c.method == "emmet":
        return naive.emmet_solve({layer: c.moment_weight * moment for layer, moment in moments.items()}, c.ridge)
    return naive.alphaedit_solve(naive.projectors(unshrunk, c.null_space_threshold), c.ridge)


SPREADERS = {
    "memit": MEMITConfig(layers=(0, 1), moment_weight=10.0, **SEARCH),
    "emmet": EMMETConfig(layers=(0, 1), ridge=0.5, moment_weight=4.0, **SEARCH),
    "alphaedit": AlphaEditConfig(layers=(0, 1), ridge=0.1, **SEARCH),
}


@pytest.mark.filterwarnings("ignore:The .* edit did not take")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", SPREADERS)
def test_many_facts_at_once_are_the_published_updates(tiny, family, some, method):
    model, plain = (tiny(family, **THREE.get(family, {})) for _ in range(2))
    editor = ready(model, SPREADERS[method])
    mine = updates(editor.edit(some, progress=False))
    theirs = naive.spread(plain.module, plain.tokenizer, some, (0, 1), CONTEXTS, SPREAD, solves(editor))
    for layer in (0, 1):
        close(mine[layer], theirs[layer])


@pytest.mark.filterwarnings("ignore:The .* edit did not take")
def test_emmet_writes_one_fact_without_a_ridge(tiny, some):
    model, plain = tiny("llama"), tiny("llama")
    editor = ready(model, EMMETConfig(layers=(1,), ridge=1e3, **SEARCH))
    mine = updates(editor.edit(some[:1], progress=False))
    solve = naive.emmet_solve(dense(editor), 0.0)
    close(mine[1], naive.spread(plain.module, plain.tokenizer, some[:1], (1,), CONTEXTS, SPREAD, solve)[1])


@pytest.mark.filterwarnings("ignore:The .* edit did not take")
def test_alphaedit_keeps_keys_of_earlier_edits_and_another_editor_knows_none(tiny, some):
    """Three edits in two layers: the last leaves alone what both before it wrote, each with the keys of then."""
    model, plain = tiny("llama"), tiny("llama")
    config = SPREADERS["alphaedit"]
    editor = ready(model, config)
    changes = [editor.edit([fact], progress=False) for fact in some]
    moments = {layer: moment.matrix for layer, moment in editor.moments.items()}
    projector = naive.projectors(moments, editor.config.null_space_threshold)
    past = {layer: torch.zeros_like(moment) for layer, moment in moments.items()}
    for fact, change in zip(some, changes, strict=True):
        solve = naive.alphaedit_solve(projector, config.ridge, past)
        theirs = naive.spread(plain.module, plain.tokenizer, [fact], (0, 1), CONTEXTS, SPREAD, solve)
        for layer in (0, 1):
            close(updates(change)[layer], theirs[layer], 1e-3)
            keys = naive.averaged_keys(plain.module, plain.tokenizer, [fact], layer, CONTEXTS)
            past[layer] = past[layer] + keys @ keys.T
    state = changes[1].on(changes[0].on(model))
    fresh = updates(ready(state, config).edit([some[2]], progress=False))[1]
    assert (fresh - updates(changes[2])[1]).norm() > 1e-2 * fresh.norm()


@pytest.mark.filterwarnings("ignore:The .* edit did not take")
@pytest.mark.parametrize("method", ["rome", "memit", "alphaedit"])
def test_a_square_projection_is_read_by_its_type(tiny, some, method):
    """d_ff equal to d_model: by shape alone a Linear would be taken for its transpose."""
    for family, sizes in (("llama", {"intermediate_size": 32}), ("gpt2", {"n_inner": 32})):
        model, plain = tiny(family, **sizes), tiny(family, **sizes)
        if method == "rome":
            editor = ready(model, ROMEConfig(layers=(1,), **SEARCH))
            mine = updates(editor.edit(some[:1], progress=False))
            naive_update = naive.rome(plain.module, plain.tokenizer, some[0], 1, CONTEXTS, dense(editor)[1], PUBLISHED)
            close(mine[1], naive_update)
        else:
            editor = ready(model, SPREADERS[method])
            mine = updates(editor.edit(some, progress=False))
            theirs = naive.spread(plain.module, plain.tokenizer, some, (0, 1), CONTEXTS, SPREAD, solves(editor))
            close(mine[1], theirs[1])


@pytest.mark.filterwarnings("ignore:The .* edit did not take")
def test_a_norm_behind_the_mlp_takes_one_layer(tiny, some):
    model = tiny("gemma3_text")
    with pytest.raises(ChangeError, match="puts a norm behind each MLP"):
        prepare(model, config=MEMITConfig(layers=(0, 1), **SEARCH))
    editor = ready(model, EMMETConfig(layers=(1,), **SEARCH))
    mine = updates(editor.edit(some[:1], progress=False))
    value = naive.value_of(model.module, model.tokenizer, some[0], 1, CONTEXTS, "mlp", SPREAD)
    keys = naive.averaged_keys(model.module, model.tokenizer, some[:1], 1, CONTEXTS)
    close(mine[1], naive.emmet_solve(dense(editor), 0.0)(1, keys, value[1].double()[:, None]))


@pytest.mark.filterwarnings("ignore:The .* edit did not take")
@pytest.mark.parametrize("kind", ["bos_tokenizer", "metaspace_tokenizer"])
def test_tokenizers_that_begin_every_text_with_a_token(tiny_module, some, kind, request):
    tokenizer = request.getfixturevalue(kind)
    model, plain = (load_model(tiny_module("llama"), tokenizer=copy.deepcopy(tokenizer)) for _ in range(2))
    editor = ready(model, SPREADERS["memit"])
    mine = updates(editor.edit(some, progress=False))
    theirs = naive.spread(plain.module, plain.tokenizer, some, (0, 1), CONTEXTS, SPREAD, solves(editor))
    for layer in (0, 1):
        close(mine[layer], theirs[layer])


@pytest.mark.parametrize("method", ["rome", "r_rome", "memit", "emmet", "alphaedit"])
def test_a_layer_that_is_not_there_is_refused_before_any_work(tiny, method):
    config = METHODS[method].config(layers=(1, 7, 9))
    with pytest.raises(ChangeError, match=r"no block 7, 9: .* has blocks 0 to 2"):
        prepare(tiny("llama"), config=config)
    with pytest.raises(ChangeError, match="in order"):
        METHODS[method].config(layers=(2, 1))


def test_alphaedit_without_a_free_direction_is_refused(tiny, some):
    config = SPREADERS["alphaedit"].model_copy(update={"null_space_threshold": 1e-30})
    with pytest.raises(ChangeError, match="No direction of block 0 is free"):
        prepare(tiny("llama"), config=config).edit(some, progress=False)


def test_alphaedit_remembers_more_keys_than_a_key_is_wide_by_their_second_moment():
    from mechmask.write.methods.alphaedit import _joined

    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(8, 20, dtype=torch.float64, generator=generator)
    kept = _joined(keys[:, :5], keys[:, 5:])
    assert kept.shape == (8, 8)
    torch.testing.assert_close(kept @ kept.T, keys @ keys.T)
    torch.testing.assert_close(_joined(keys[:, :2], keys[:, 2:6]), keys[:, :6])
