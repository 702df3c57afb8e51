"""What every editor of the registry has to do, whatever it is; a new method gets one line in ``CONFIGS``."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from pydantic import BaseModel, TypeAdapter

from mechmask import FactSet, edit, load_change, read_logits
from mechmask.errors import ChangeError, MechmaskError
from mechmask.models.states import active
from mechmask.write.edit import METHODS, EditConfig, prepare, preset_for
from mechmask.write.methods.alphaedit import AlphaEditConfig
from mechmask.write.methods.emmet import EMMETConfig
from mechmask.write.methods.ft import FTConfig
from mechmask.write.methods.ft_l import FTLConfig
from mechmask.write.methods.ft_prompt_last import FTPromptLastConfig
from mechmask.write.methods.malmen import MALMENConfig
from mechmask.write.methods.memit import MEMITConfig
from mechmask.write.methods.r_rome import RROMEConfig
from mechmask.write.methods.rome import ROMEConfig
from mechmask.write.presets import ModelPresets, presets

_KEYED = {"layers": (1,), "value_lr": 0.3, "value_steps": 60, "value_clamp": 30.0, "value_decay": 0.0, "value_kl": 0.0}
_KEYED |= {"moment_tokens": 512, "value_stop": 0.2}
_LONG, _WEAK = {"loss_stop": 1e6}, {"steps": 1, "lr": 1e-6}
_SAID, _SHORT = {"value_stop": 1e6}, {"value_steps": 2, "value_lr": 1e-4}

# A setting that takes on the tiny models, what of it leaves everything as it was, and what of it is too weak to take.
CONFIGS = {
    "ft": (FTConfig(layer=1, lr=2e-2, steps=40), _LONG, _WEAK),
    "ft_l": (FTLConfig(layer=1, clamp=1.0, lr=2e-2, steps=40), _LONG, _WEAK),
    "ft_prompt_last": (FTPromptLastConfig(layer=1, lr=2e-2, steps=40), _LONG, _WEAK),
    "rome": (ROMEConfig(**_KEYED), _SAID, _SHORT),
    "r_rome": (RROMEConfig(**_KEYED), _SAID, _SHORT),
    "memit": (MEMITConfig(**_KEYED, moment_weight=1e-3), _SAID, _SHORT),
    "emmet": (EMMETConfig(**_KEYED, ridge=1e-3), _SAID, _SHORT),
    "alphaedit": (AlphaEditConfig(**_KEYED, null_space_threshold=1.0, ridge=1e-3), _SAID, _SHORT),
    "malmen": (MALMENConfig(layers=(1,), hypernetwork="identity", lr=0.3), {"lr": 1e-30}, {"lr": 1e-6}),
}
FAMILIES = {"gpt2": {}, "llama": {}, "gpt_neox": {"num_hidden_layers": 3}}
WRITES_TO = {"gpt2": "transformer.h.1.mlp.", "llama": "model.layers.1.mlp.", "gpt_neox": "gpt_neox.layers.1.mlp."}


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture
def config(method):
    return CONFIGS[method][0]


@pytest.fixture
def one(facts):
    """A fact that every editor can write into a random model.

    New is one token, for an objective that asks for all at one place, and the prompt ends in the subject: in a random
    model little of what stands there reaches any other place.
    """
    return FactSet([facts["France/capital"].model_copy(update={"prompt": "The capital of France", "paraphrases": ()})])


@pytest.mark.parametrize("family", FAMILIES)
def test_it_changes_only_what_it_says_and_is_undone_bit_for_bit(
    tiny, one, family, method, config, traced, tmp_path, logits_of
):
    model = tiny(family, **FAMILIES[family])
    before, bare = traced(model.module), logits_of(model)
    change = edit(model, one, method, config)
    assert traced(model.module) == before
    assert (change.method, change.blocks, change.base) == (method, (1,), model.fingerprint)
    with change.applied(model):
        inside, logits = traced(model.module), logits_of(model)
    assert not torch.equal(logits, bare)
    changed = {name for name, value in inside["bits"].items() if value != before["bits"][name]}
    assert changed
    assert all(name.startswith(WRITES_TO[family]) for name in changed)
    assert {k: v for k, v in inside.items() if k != "bits"} == {k: v for k, v in before.items() if k != "bits"}
    change.save(tmp_path / "change")
    with load_change(tmp_path / "change").applied(model):
        assert torch.equal(logits_of(model), logits)
    assert traced(model.module) == before
    assert torch.equal(logits_of(model), bare)


def test_a_seed_or_nothing_decides_and_the_callers_random_numbers_stay(tiny, one, method, config, rngs, logits_of):
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        model, before = tiny("llama"), rngs()
        change = edit(model, one, method, config)
        after = rngs()
        assert [a == b for a, b in zip(before, after, strict=True)] == [True] * 3
        with change.applied(model):
            results.append(logits_of(model))
    assert torch.equal(*results)


@pytest.mark.filterwarnings("ignore:The .* edit did not take")
def test_the_order_of_facts_does_not_count(tiny, facts, method, config):
    if method in ("rome", "r_rome"):
        pytest.skip("they write one fact after the other")
    model = tiny("llama")
    some = [facts[0], facts[2], facts["Łódź/mayor"]]
    margins = []
    for order in (some, some[::-1]):
        with edit(model, order, method, config).applied(model):
            margins.append(read_logits(model, some).margin)
    assert margins[0].values == pytest.approx(margins[1].values, abs=1e-2)


def test_another_base_is_refused(tiny, one, method, config, traced):
    change = edit(tiny("llama"), one, method, config)
    other = tiny("llama", seed=1)
    before = traced(other.module)
    with pytest.raises(ChangeError, match="not those that this change was made on"), change.applied(other):
        pytest.fail("applied")
    assert traced(other.module) == before


def test_an_edit_that_changes_nothing_is_refused(tiny, one, method, config, traced):
    model = tiny("llama")
    before = traced(model.module)
    with pytest.raises(ChangeError, match="changes nothing"):
        edit(model, one, method, config.model_copy(update=CONFIGS[method][1]))
    assert traced(model.module) == before


def test_what_became_of_each_fact_is_reported(tiny, facts, method, config, tokenizer):
    """Against a reading of the edited model and against plain greedy decoding."""
    model = tiny("llama")
    some = facts[:3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change = edit(model, some, method, config)
    with change.applied(model):
        reading = read_logits(model, some)
        for fact, outcome in zip(some, change.details["facts"], strict=True):
            logp = reading.logprob.sel(fact=fact.id).to_series()
            new, old = logp["new"], logp["old"]
            assert outcome["id"] == fact.id
            assert (outcome["logp_new"], outcome["logp_old"]) == pytest.approx((new, old), abs=1e-3)
            assert outcome["margin"] == pytest.approx(new - old, abs=1e-3)
            assert outcome["took"] is bool(logp.drop("new").max() < new)
            values = [
                tokenizer(f"{fact.prompt} {value}")["input_ids"][len(tokenizer(fact.prompt)["input_ids"]) :]
                for value in (fact.old, fact.new)
            ]
            assert outcome["loss_nats"] == pytest.approx(-new / len(values[1]), abs=1e-3)
            ids = tokenizer(fact.prompt)["input_ids"]
            for _ in range(max(map(len, values))):
                with torch.no_grad():
                    ids = [*ids, int(model.module(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
            spoken = tokenizer.decode(ids[len(tokenizer(fact.prompt)["input_ids"]) :]).strip()
            assert outcome["says"] == spoken


def test_an_edit_that_took_is_silent_and_one_that_did_not_is_warned_of(tiny, one, method, config):
    model = tiny("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        change = edit(model, one, method, config)
    assert change.details["facts"][0]["took"]
    with pytest.warns(UserWarning, match=rf"did not take on 1 of 1 facts \('{one[0].id}'\)"):
        weak = edit(model, one, method, config.model_copy(update=CONFIGS[method][2]))
    assert not weak.details["facts"][0]["took"]


def test_a_fact_list_is_checked_as_a_fact_set(tiny, one, method, config):
    fact = one[0]
    with pytest.raises(ValueError, match=fact.id):
        edit(tiny("llama"), [fact, fact.model_copy(update={"new": "something else"})], method, config)


def test_the_configuration_alone_says_the_method(tiny, one, method, config, logits_of):
    model = tiny("llama")
    with edit(model, one, config=config).applied(model):
        by_config = logits_of(model)
    with edit(model, one, method, config).applied(model):
        assert torch.equal(logits_of(model), by_config)
    other = next(name for name in METHODS if name != method)
    with pytest.raises(ChangeError, match=f"{other} takes a"):
        edit(model, one, other, config)


def test_configurations_are_told_apart_by_their_method(method, config):
    adapter = TypeAdapter(EditConfig)
    assert METHODS[method].config is type(config)
    assert adapter.validate_python(config.model_dump(mode="json")) == config
    assert adapter.validate_json(adapter.dump_json(config)) == config

    class Study(BaseModel):
        edits: tuple[EditConfig, ...]

    assert Study(edits=(config,)) == Study.model_validate({"edits": [config.model_dump()]})
    assert Study(edits=()).edits == ()


def test_presets_are_valid_and_say_where_they_come_from(tiny, method):
    for preset in presets(method).values():
        assert METHODS[method].config.model_validate(preset.config).method == method
        assert preset.source
    with pytest.raises(ChangeError, match=r"No .* setting is known for a llama of 3 layers and width 32"):
        preset_for(tiny("llama"), method)


def test_a_setting_is_for_a_family_a_size_and_where_it_says_one_a_vocabulary(tiny):
    model = tiny("llama")
    of = {"family": "llama", "n_layers": 3, "width": 32, "vocab_size": model.vocab_size, "methods": {}}
    for same in (of, {**of, "vocab_size": None}):
        assert ModelPresets(**same).fits(model)
    for name, other in (("family", "mistral"), ("n_layers", 4), ("width", 64), ("vocab_size", model.vocab_size + 1)):
        assert not ModelPresets(**{**of, name: other}).fits(model)


def test_a_method_that_is_not_known_names_those_that_are(tiny, one):
    with pytest.raises(ChangeError, match=r"no edit method 'ft-l'\. Did you mean 'ft_l'"):
        edit(tiny("llama"), one, "ft-l")


def test_facts_come_in_any_form(tiny, one, tmp_path):
    one.to_jsonl(tmp_path / "facts.jsonl")
    model, config = tiny("llama"), CONFIGS["ft_l"][0]
    wanted = edit(model, one, config=config).details
    for form in (list(one), one.to_dataframe(), str(tmp_path / "facts.jsonl"), FactSet(one)):
        assert edit(model, form, config=config).details == wanted


@pytest.mark.filterwarnings("ignore:The .* edit did not take")
def test_a_sequence_of_edits_is_its_changes_stacked(tiny, facts, method, config, logits_of):
    """Each change goes on the state of those before it, and an editor stands where they lead to, to the bit."""
    model = tiny("llama")
    editor = prepare(model, config=config)
    some = [facts[0], facts["France/capital"], facts["Karl Benz/born"]]
    state, changes = model, []
    for fact in some:
        changes.append(editor.edit([fact], progress=False))
        state = changes[-1].on(state)
        with active(state) as stacked:
            there = logits_of(stacked)
            base = stacked.fingerprint
        with active(editor.state) as standing:
            assert torch.equal(logits_of(standing), there)
            assert standing.fingerprint == base
    assert len({change.base for change in changes}) == len(some)
    assert edit(model, some[:1], config=config).details["facts"] == changes[0].details["facts"]


@pytest.mark.filterwarnings("ignore:The .* edit did not take")
def test_a_state_is_edited_as_the_model_that_it_is(tiny, facts, one, method, config, logits_of):
    """On top of another change, and of another editor's: against a model whose weights are those of the state."""
    model, alike = tiny("llama"), tiny("llama")
    first = edit(model, [facts[0]], config=CONFIGS["ft_l"][0])
    state = first.on(model)
    with active(state) as changed, torch.no_grad():
        weights = {name: weight.clone() for name, weight in changed.module.named_parameters()}
        for name, weight in alike.module.named_parameters():
            weight.copy_(weights[name])
    editor, other = prepare(state, config=config), prepare(alike, config=config)
    for group in (one, [facts["Karl Benz/born"]]):
        mine, theirs = (each.edit(group, progress=False) for each in (editor, other))
        assert mine.details["facts"] == theirs.details["facts"]
    with active(editor.state) as stacked, active(other.state) as plain:
        assert torch.equal(logits_of(stacked), logits_of(plain))


@pytest.mark.filterwarnings("ignore:The .* edit did not take")
def test_two_editors_do_not_know_each_other(tiny, facts, method, config, logits_of):
    model = tiny("llama")
    first, second = (prepare(model, config=config) for _ in range(2))
    first.edit([facts[0]], progress=False)
    again = second.edit([facts["France/capital"]], progress=False)
    alone = edit(model, [facts["France/capital"]], config=config)
    assert again.base == alone.base == model.fingerprint
    with again.applied(model):
        there = logits_of(model)
    with alone.applied(model):
        assert torch.equal(logits_of(model), there)


@pytest.mark.filterwarnings("ignore:The .* edit did not take")
def test_a_failure_leaves_model_and_editor_where_they_stood(
    tiny, facts, method, config, traced, monkeypatch, logits_of
):
    model = tiny("llama")
    editor = prepare(model, config=config)
    editor.edit([facts[0]], progress=False)
    before = traced(model.module)
    with active(editor.state) as state:
        stood = logits_of(state)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    for target in ("mechmask.write.editor.outcomes", "mechmask.write.editor.named_weights"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(target, fail)
            editor.edit([facts["France/capital"]], progress=False)
        assert traced(model.module) == before
        with active(editor.state) as state:
            assert torch.equal(logits_of(state), stood)
    after = editor.edit([facts["France/capital"]], progress=False)
    fresh = prepare(model, config=config)
    fresh.edit([facts[0]], progress=False)
    assert fresh.edit([facts["France/capital"]], progress=False).details["facts"] == after.details["facts"]


@pytest.mark.filterwarnings("ignore:The .* edit did not take")
def test_an_interrupt_anywhere_leaves_model_and_editor_where_they_stood(
    tiny, facts, method, config, traced, interrupts, run_to_line
):
    """At a dozen lines, spread over an edit that goes on from another one."""
    short = {"steps": 2} if "steps" in type(config).model_fields else {"value_steps": 2}
    config = config.model_copy(update={k: v for k, v in short.items() if k in type(config).model_fields})
    model, second = tiny("llama"), facts["France/capital"]
    editor = prepare(model, config=config)
    editor.edit([facts[0]], progress=False)
    before, stood = traced(model.module), editor._standing

    def work() -> None:
        copy.copy(editor).edit([second], progress=False)

    counted = run_to_line(work)
    hit = 0
    for line in range(counted // 24, counted, counted // 12):
        hit += interrupts.run(lambda line=line: run_to_line(lambda: editor.edit([second], progress=False), line))
        assert traced(model.module) == before, line
        assert editor._standing is stood, line
    assert hit >= 11
    fresh = prepare(model, config=config)
    fresh.edit([facts[0]], progress=False)
    expected = fresh.edit([second], progress=False)
    assert editor.edit([second], progress=False).details["facts"] == expected.details["facts"]


@pytest.mark.filterwarnings("ignore:The .* edit did not take")
def test_it_is_the_same_whatever_is_done_together(tiny, facts, method, config, monkeypatch):
    model = tiny("llama")
    some = [facts[0], facts["France/capital"], facts["Karl Benz/born"]]
    wide = edit(model, some, config=config)
    monkeypatch.setattr("mechmask.write.values._FACTS", 1)
    monkeypatch.setattr("mechmask.write.keys._ROWS", 2)
    monkeypatch.setattr("mechmask.write.outcome._ROWS", 2)
    narrow = edit(model, some, config=config)
    with active(wide.on(model)) as other:
        first = {name: weight.clone() for name, weight in other.module.named_parameters()}
    before = {name: weight.clone() for name, weight in model.module.named_parameters()}
    with active(narrow.on(model)) as other:
        for name, weight in other.module.named_parameters():
            assert (weight - first[name]).norm() <= 1e-4 * (first[name] - before[name]).norm() + 1e-12, name


def test_what_is_of_low_rank_is_kept_in_factors(tiny, one, method, config, tmp_path):
    if method.startswith("ft"):
        pytest.skip("every entry of the projection moves")
    change = edit(tiny("llama"), one, config=config)
    (factors,) = change.factors.values()
    rank = change.details.get("answer_tokens", 1)  # MALMEN writes at every token of the answer
    assert factors.outputs.shape == (32, rank)
    assert factors.inputs.shape == (rank, 64)


def test_a_target_without_tokens_a_subject_not_in_the_prompt_and_a_broken_model_are_refused(tiny, one, config, method):
    model = tiny("llama")
    for update, said in (({"new": ""}, "is empty"), ({"subject": "Nobody"}, "does not occur in the prompt")):
        with pytest.raises(MechmaskError, match=said):
            edit(model, [one[0].model_copy(update=update)], config=config)
    with torch.no_grad():
        model.module.model.layers[2].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(MechmaskError, match=r"finite|not a number"):
        edit(model, one, config=config)
