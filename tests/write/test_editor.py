"""What an editor stands on: the model as it was prepared, one thread at a time, in the model's own numbers."""

from __future__ import annotations

import json
import threading
from contextlib import nullcontext

import pytest
import torch

from mechmask import Fact, FinetuneConfig, edit, finetune
from mechmask.errors import RouteError
from mechmask.models.states import active
from mechmask.write.edit import METHODS, prepare
from mechmask.write.keys import SubjectWalk, mentions_of
from mechmask.write.malmen.networks import hypernetworks_for
from mechmask.write.methods.alphaedit import AlphaEditConfig
from mechmask.write.methods.emmet import EMMETConfig
from mechmask.write.methods.ft import FTConfig
from mechmask.write.methods.malmen import MALMENConfig
from mechmask.write.methods.memit import MEMITConfig
from mechmask.write.methods.rome import ROMEConfig
from mechmask.write.moments.estimate import SHRINKAGE, second_moments
from mechmask.write.outcome import outcomes
from mechmask.write.requests import requests
from mechmask.write.values import seek_values
from mechmask.write.weights import trainable

pytestmark = pytest.mark.filterwarnings("ignore:The .* edit did not take")

SEARCH = {"value_steps": 4, "value_lr": 0.1, "value_stop": 0.0, "moment_tokens": 512}
READERS = {
    "rome": ROMEConfig(layers=(1,), context_lengths=((5, 2),), **SEARCH),
    "memit": MEMITConfig(layers=(0, 1), moment_weight=10.0, **SEARCH),
    "emmet": EMMETConfig(layers=(1,), **SEARCH),
    "alphaedit": AlphaEditConfig(layers=(1,), null_space_threshold=100.0, ridge=1e-3, **SEARCH),
    "malmen": MALMENConfig(layers=(1,), hypernetwork="identity", lr=0.3),
}
EDITORS = {**READERS, "ft": FTConfig(layer=1, lr=2e-2, steps=3)}
LONGROPE = {
    "rope_parameters": {
        **{"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 32, "factor": 4.0},
        **{"short_factor": [1.0] * 4, "long_factor": [4.0] * 4},
    },
    "original_max_position_embeddings": 32,
    "max_position_embeddings": 256,
}
LONG = Fact(subject="Ana", prompt="Ana " + "met Maria and Peter and " * 8 + "then", old="Paris", new="Rome")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Second moments are those of this test."""
    monkeypatch.setenv("MECHMASK_CACHE", str(tmp_path / "cache"))


def weights_of(model, change):
    with change.applied(model) as changed:
        return {name: weight.detach().clone() for name, weight in changed.module.named_parameters()}


@pytest.mark.parametrize("method", EDITORS)
def test_a_model_that_has_changed_since_it_was_read_is_refused(tiny, facts, method, refused, traced):
    model = tiny("llama")
    editor, ready = (prepare(model, config=EDITORS[method]) for _ in range(2))
    ready.get_ready()
    with torch.no_grad():
        model.module.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    before = traced(model.module)
    if method == "ft":  # which reads nothing ahead
        assert editor.edit([facts[0]], progress=False).base == model.fingerprint
    for one in (editor, ready) if method in READERS else ():
        with refused(rf"has changed since this {method} editor was prepared on it"):
            one.edit([facts[0]], progress=False)
        assert one.state is model
    assert traced(model.module) == before


@pytest.mark.parametrize("method", ["memit", "ft"])
def test_threads_that_share_an_editor_edit_in_turn(tiny, facts, method):
    model = tiny("llama")
    editor = prepare(model, config=EDITORS[method])
    editor.get_ready()
    changes = []
    threads = [
        threading.Thread(target=lambda fact=fact: changes.append(editor.edit([fact], progress=False)))
        for fact in (facts[0], facts["France/capital"])
    ]
    with model.exclusive():  # both have asked before either begins
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(0.3)
    for thread in threads:
        thread.join()
    first, second = changes
    assert second.base != first.base == model.fingerprint
    with active(second.on(first.on(model))) as stacked:
        there = stacked.fingerprint
    with active(editor.state) as standing:
        assert standing.fingerprint == there


@pytest.mark.parametrize("method", EDITORS)
def test_an_autocast_of_the_caller_does_not_count(tiny, facts, method):
    """It would round keys and values, and leave rounded second moments in the cache for those who round nothing."""
    found = []
    for context in (torch.autocast("cpu", torch.bfloat16), nullcontext()):
        model = tiny("llama", seed=7)
        with context:
            editor = prepare(model, config=EDITORS[method])
            change = editor.edit([facts[0]], progress=False)
        found.append((weights_of(model, change), getattr(editor, "contexts", ()), change.details["facts"]))
    (rounded, *said), (plain, *wanted) = found
    assert said == wanted
    assert all(torch.equal(rounded[name], plain[name]) for name in plain)


@pytest.mark.parametrize("method", EDITORS)
def test_how_module_and_tokenizer_stand_does_not_count(tiny, facts, method):
    """Training mode with dropout, a tokenizer that pads and cuts on the left."""
    found = []
    for stands in (False, True):
        model = tiny("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
        model.module.train(stands)
        if stands:
            model.tokenizer.pad_token, model.tokenizer.padding_side = "</s>", "left"
            model.tokenizer.truncation_side = "left"
        editor = prepare(model, config=EDITORS[method])
        change = editor.edit([facts[0], facts["France/capital"]], progress=False)
        assert model.module.training is stands
        found.append((weights_of(model, change), getattr(editor, "contexts", ()), change.details["facts"]))
    (standing, *said), (plain, *wanted) = found
    assert said == wanted
    assert all(torch.equal(standing[name], plain[name]) for name in plain)


@pytest.mark.parametrize("method", EDITORS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_who_records_no_gradients_gets_the_same_edit(tiny, facts, method, mode):
    model, some = tiny("llama"), [facts[0], facts["France/capital"]]
    wanted = edit(model, some, config=EDITORS[method], progress=False)
    with mode():
        change = edit(model, some, config=EDITORS[method], progress=False)
        editor = prepare(model, config=EDITORS[method])
        editor.edit(some[:1], progress=False)
    editor.edit(some[1:], progress=False)
    mine, theirs = weights_of(model, change), weights_of(model, wanted)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_second_moments_that_were_made_under_autocast_are_those_of_the_model(tiny, tmp_path, monkeypatch):
    texts = ["The king of the birds met Maria in Berlin and said nothing of Paris." * 3] * 4
    found = []
    for n, context in enumerate((torch.autocast("cpu", torch.bfloat16), nullcontext())):
        monkeypatch.setenv("MECHMASK_CACHE", str(tmp_path / str(n)))
        with context:
            found.append(second_moments(tiny("llama"), [1], texts, progress=False)[1].matrix)
    assert torch.equal(*found)


@pytest.mark.parametrize("method", METHODS)
def test_a_block_that_is_not_there_is_refused_when_an_editor_is_prepared(tiny, method, refused):
    settings = METHODS[method].config
    more = {"ft_l": {"clamp": 1.0}, "malmen": {"hypernetwork": "identity"}}.get(method, {})
    where = {"layer": 3} if "layer" in settings.model_fields else {"layers": (3,)}
    with refused(r"There is no block 3: .* has blocks 0 to 2\."):
        prepare(tiny("llama"), config=settings(**where, **more))


@pytest.mark.parametrize("method", EDITORS)
@pytest.mark.parametrize(
    ("family", "sizes"), [("llama", {"max_position_embeddings": 64}), ("gpt2", {"n_positions": 64})]
)
def test_a_prompt_that_is_longer_than_the_model_reads_is_refused(tiny, family, sizes, method):
    """Rotary models would read it all the same, at positions that they were not made for."""
    model = tiny(family, **sizes)
    editor = prepare(model, config=EDITORS[method])
    with pytest.raises(RouteError, match=r"reads 64 at most\. Shorten the prompt"):
        editor.edit([LONG], progress=False)
    assert editor.state is model


def test_an_edit_that_ruins_the_model_is_refused_and_the_editor_stands_where_it_stood(tiny, facts, refused, traced):
    model = tiny("llama")
    before, editor = traced(model.module), prepare(model, config=FTConfig(layer=1, lr=1e37, steps=1))
    with refused("the output of the model is not finite"):  # of weights that are
        editor.edit(facts[:1])
    assert editor.state is model and traced(model.module) == before


def test_values_that_cannot_be_told_apart_are_refused_before_any_work(tiny, facts, monkeypatch):
    editor = prepare(tiny("llama"), config=EDITORS["ft"])
    monkeypatch.setattr(type(editor), "_make", lambda *_: pytest.fail("worked"))
    with pytest.raises(RouteError, match="is a prefix of"):
        editor.edit([facts["France/capital"].model_copy(update={"old": "18", "new": "1849"})], progress=False)


def test_facts_on_both_sides_of_a_change_of_rotary_frequencies(tiny, facts):
    """A descent reads all its facts at once; what became of each is told of each side by itself."""
    model, some = tiny("phi3", **LONGROPE), [facts["France/capital"], LONG]
    with pytest.raises(RouteError, match=r"both sides of token 32, beyond which .* Edit short and long prompts apart"):
        edit(model, some, config=EDITORS["ft"], progress=False)
    together, alone = outcomes(model, some), [outcomes(model, [fact])[0] for fact in some]
    for mine, wanted in zip(together, alone, strict=True):
        assert mine["says"] == wanted["says"]
        assert mine["logp_new"] == pytest.approx(wanted["logp_new"], abs=1e-4)
        assert mine["logp_old"] == pytest.approx(wanted["logp_old"], abs=1e-4)


@pytest.mark.parametrize("method", READERS)
def test_an_adapter_that_scales_what_the_weight_gives_out_is_refused(tiny, facts, method, refused):
    model = tiny("llama")
    settings = FinetuneConfig(method="dora", steps=2, lr=1e-1, projections="mlp", rank=2)
    state = finetune(model, facts[:2], settings, progress=False).on(model)
    with refused("The adapter on the MLP output projection of block .* does more than add"):
        prepare(state, config=READERS[method])
    with active(state) as now, refused("does more than add"):
        hypernetworks_for(now, (1,))


def test_a_value_stands_exactly_under_a_lora_that_adds_to_the_projection(tiny, facts):
    model = tiny("llama")
    settings = FinetuneConfig(steps=10, lr=1e-1, projections="mlp", rank=4)
    state = finetune(model, facts[:2], settings, progress=False).on(model)
    editor = prepare(state, config=READERS["rome"])
    with active(state) as now:
        asked = requests(now, [facts[0]], editor.contexts)
        wanted = seek_values(now, asked, 1, editor.config, "mlp").targets[0]
    change = editor.edit([facts[0]], progress=False)
    with active(change.on(state)) as edited, trainable(edited, {}):
        there = SubjectWalk(edited, mentions_of(asked), 1, 2).read().values[0]
    torch.testing.assert_close(there, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["ft", "ft_l", "ft_prompt_last"])
def test_a_descent_in_float16_is_refused_and_in_bfloat16_taken(tiny, facts, method, refused):
    """In float16 a small gradient's square is zero, and Adam would move what has one as far as a clamp lets it."""
    more = {"clamp": 1.0} if method == "ft_l" else {}
    config = METHODS[method].config(layer=1, lr=2e-2, steps=3, **more)
    with refused(f"The {method} edit descends .* Load the model in float32 or bfloat16"):
        edit(tiny("llama", torch.float16), [facts[0]], config=config, progress=False)
    assert edit(tiny("llama", torch.bfloat16), [facts[0]], config=config, progress=False).method == method


@pytest.mark.parametrize("method", EDITORS)
def test_details_are_json_and_come_back_as_they_were(tiny, facts, method):
    details = edit(tiny("llama"), [facts[0]], config=EDITORS[method], progress=False).details
    assert json.loads(json.dumps(details)) == details


@pytest.mark.parametrize("method", [method for method in READERS if method != "malmen"])
def test_an_edit_says_of_how_much_text_its_second_moments_are(tiny, facts, method):
    config = READERS[method].model_copy(update={"moment_tokens": None})
    details = edit(tiny("llama"), [facts[0]], config=config, progress=False).details
    assert details["moment_shrinkage"] == {str(layer): SHRINKAGE for layer in config.layers}
    assert details["moment_tokens"].keys() == details["moment_shrinkage"].keys()
    for n_tokens in details["moment_tokens"].values():  # ten times the key's width, but the first token of each text
        assert 600 < n_tokens < 10 * 64
