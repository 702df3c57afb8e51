"""FT-L against the published algorithm (kmeng01/rome, baselines/ft), written naively on plain transformers.

The naive one runs the whole model for every step, fact by fact, and knows the projections by name.
"""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mechmask import FinetuneConfig, FTLConfig, edit, finetune, read_logits
from mechmask.errors import ChangeError, MechmaskError
from mechmask.models.anatomy import anatomy_of
from mechmask.models.model import Model
from mechmask.write.edit import preset_for
from mechmask.write.methods.ft import FTConfig
from mechmask.write.methods.ft_prompt_last import FTPromptLastConfig
from mechmask.write.presets import presets

PROJECTION = {
    "gpt2": "transformer.h.{}.mlp.c_proj",
    "gptj": "transformer.h.{}.mlp.fc_out",
    "gpt_neox": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    "opt": "model.decoder.layers.{}.fc2",
    "phi": "model.layers.{}.mlp.fc2",
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3"), "model.layers.{}.mlp.down_proj"
    ),
}
HAS_BIAS = {"gpt2", "gptj", "gpt_neox", "opt", "phi"}


def naive_ft(module, tokenizer, facts, projection, config, *, weight="weight", bias="bias"):
    """Losses and weights by name; ``module`` is trained in place."""
    layer = module.get_submodule(projection)
    weights = {f"{projection}.{name}": p for name, p in layer.named_parameters()}
    before = {name: p.detach().clone() for name, p in weights.items()}
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    for parameter in weights.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(weights.values(), lr=config.lr, weight_decay=0)
    losses = []
    for _ in range(config.steps):
        each = []
        for fact in facts:
            prompt, whole = tokenizer(fact.prompt)["input_ids"], tokenizer(f"{fact.prompt} {fact.new}")["input_ids"]
            value = whole[len(prompt) :]
            logprobs = module(input_ids=torch.tensor([whole])).logits[0].float().log_softmax(-1)
            at = [len(prompt) - 1 + (i if config.objective == "target_new" else 0) for i in range(len(value))]
            each.append(-sum(logprobs[column, token] for column, token in zip(at, value, strict=False)) / len(value))
        loss = sum(each) / len(each)
        losses.append(loss.item())
        if losses[-1] < config.loss_stop:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if isinstance(config, FTLConfig):
            with torch.no_grad():
                for name, parameter in weights.items():
                    parameter.copy_(
                        torch.minimum(
                            torch.maximum(parameter, before[name] - config.clamp), before[name] + config.clamp
                        )
                    )
    return losses, {name: p.detach() for name, p in weights.items()}


def edited(model, facts, config):
    """The edit, whether it took or not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The .* edit did not take")
        return edit(model, facts, config=config, progress=False)


def after_of(model, change):
    """The changed weights, as they are on the model."""
    with change.applied(model):
        named = {name.replace(".base_layer", ""): p for name, p in model.module.named_parameters()}
        return {name: named[name].detach().clone() for name in change.after}


def _agree(model, change, losses, weights, moved_by):
    """Adam divides a gradient by its size, so a gradient of rounding noise can step either way: a few entries may."""
    assert change.details["losses_nats"] == pytest.approx(losses, abs=1e-5, rel=1e-5)
    after = after_of(model, change)
    assert set(after) == set(weights)
    for name, weight in weights.items():
        error = (after[name] - weight).abs()
        assert (error > 1e-5).float().mean() < 1e-3, (name, error.max())
        assert error.max() <= moved_by


def same_bits(one, other):
    """Whether two changes put the same bits at the same places."""
    assert set(one.after) == set(other.after)
    pairs = [(one.after[name], other.after[name]) for name in one.after]
    return all(
        torch.equal(a, b)
        if isinstance(a, torch.Tensor)
        else torch.equal(a.positions, b.positions) and torch.equal(a.values, b.values)
        for a, b in pairs
    )


@pytest.mark.parametrize("clamp", [None, 1e-3])
@pytest.mark.parametrize("objective", ["target_new", "prompt_last"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_it_equals_the_published_algorithm(tiny, facts, tokenizer, family, objective, clamp):
    model = tiny(family)
    options = {"layer": 1, "steps": 8, "objective": objective}
    config = FTConfig(**options) if clamp is None else FTLConfig(clamp=clamp, **options)
    naive = naive_ft(copy.deepcopy(model.module), tokenizer, [facts[0]], PROJECTION[family].format(1), config)
    change = edited(model, [facts[0]], config)
    assert {name.rsplit(".", 1)[1] for name in change.after} == (
        {"weight", "bias"} if family in HAS_BIAS else {"weight"}
    )
    _agree(model, change, *naive, moved_by=8 * config.lr)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_ft_prompt_last_asks_for_every_token_at_the_end_of_the_prompt(tiny, facts, tokenizer, family):
    model, several = tiny(family), facts["France/capital"]
    published = FTConfig(layer=1, steps=8, objective="prompt_last")
    naive = naive_ft(copy.deepcopy(model.module), tokenizer, [several], PROJECTION[family].format(1), published)
    forced = naive_ft(
        copy.deepcopy(model.module),
        tokenizer,
        [several],
        PROJECTION[family].format(1),
        published.model_copy(update={"objective": "target_new"}),
    )
    assert abs(naive[0][0] - forced[0][0]) > 1e-2
    change = edited(model, [several], FTPromptLastConfig(layer=1, steps=8))
    assert change.method == "ft_prompt_last"
    _agree(model, change, *naive, moved_by=8 * published.lr)


def test_it_equals_the_published_algorithm_in_every_family_and_at_the_ends(tiny, facts, tokenizer, family):
    model = tiny(family)
    for layer in (0, model.n_layers - 1):
        config = FTLConfig(layer=layer, clamp=2e-3, steps=3)
        naive = naive_ft(copy.deepcopy(model.module), tokenizer, [facts[0]], PROJECTION[family].format(layer), config)
        _agree(model, edited(model, [facts[0]], config), *naive, moved_by=4e-3)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_several_facts_are_edited_together(tiny, facts, tokenizer, family):
    """Of different lengths: each fact counts the same, whatever the number of its tokens."""
    model = tiny(family)
    some = [facts[0], facts[2], facts["France/capital"], facts["Łódź/mayor"]]
    config = FTLConfig(layer=1, clamp=5e-3, steps=5)
    naive = naive_ft(copy.deepcopy(model.module), tokenizer, some, PROJECTION[family].format(1), config)
    change = edited(model, some, config)
    _agree(model, change, *naive, moved_by=1e-2)
    before = read_logits(model, some).logprob.sel(route="new").sum()
    with change.applied(model):
        assert read_logits(model, some).logprob.sel(route="new").sum() > before


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_square_projection_is_no_special_case(tiny, facts, tokenizer, family):
    """Where MLP and residual are equally wide, a shape does not tell which way round a weight is stored."""
    model = tiny(family, **{"n_inner" if family == "gpt2" else "intermediate_size": 32})
    config = FTLConfig(layer=1, clamp=1e-3, steps=3)
    naive = naive_ft(copy.deepcopy(model.module), tokenizer, [facts[0]], PROJECTION[family].format(1), config)
    _agree(model, edited(model, [facts[0]], config), *naive, moved_by=2e-3)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("clamp", [5e-5, 5e-4, 3e-3])
def test_weights_stay_in_the_ball(tiny, facts, family, clamp):
    model = tiny(family)
    old = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    change = edited(model, [facts[0]], FTLConfig(layer=1, clamp=clamp, steps=10))
    reached = []
    for name, new in after_of(model, change).items():
        ulp = torch.nextafter(old[name].abs() + clamp, torch.tensor(torch.inf)) - (old[name].abs() + clamp)
        assert ((new - old[name]).abs() <= clamp + ulp).all()
        reached.append((new - old[name]).abs().max().item())
    assert max(reached) == pytest.approx(clamp, rel=1e-2), "ten steps of 5e-4 reach the clamp"


def test_ft_is_ft_l_with_a_clamp_that_is_never_reached(tiny, facts):
    model = tiny("gpt2")
    free = after_of(model, edited(model, [facts[0]], FTConfig(layer=1, steps=6)))
    wide = after_of(model, edited(model, [facts[0]], FTLConfig(layer=1, clamp=1e6, steps=6)))
    narrow = after_of(model, edited(model, [facts[0]], FTLConfig(layer=1, clamp=1e-4, steps=6)))
    assert all(torch.equal(free[name], wide[name]) for name in free)
    assert any(not torch.equal(free[name], narrow[name]) for name in free)


def test_the_model_is_left_as_it_was_and_only_the_projection_changes(tiny, family, facts, traced):
    model = tiny(family)
    before = traced(model.module)
    change = edited(model, [facts[0]], FTLConfig(layer=1, clamp=1e-2, steps=2))
    assert traced(model.module) == before
    with change.applied(model):
        inside = traced(model.module)
        changed = {name for name, value in inside["bits"].items() if value != before["bits"][name]}
    parts = {"weight", "bias"} if family in HAS_BIAS else {"weight"}
    assert changed == {f"{PROJECTION[family].format(1)}.{part}" for part in parts}
    assert {k: v for k, v in inside.items() if k != "bits"} == {k: v for k, v in before.items() if k != "bits"}
    assert traced(model.module) == before


def test_gradients_flags_and_modes_that_the_user_chose_come_back(tiny, facts, traced):
    model = tiny("gpt2")
    for index, parameter in enumerate(model.module.parameters()):
        parameter.requires_grad_(index % 2 == 0)
        parameter.grad = torch.full_like(parameter, 0.5)
    model.module.transformer.h[0].train()
    before = traced(model.module)
    edited(model, [facts[0]], FTLConfig(layer=1, clamp=1e-2, steps=2))
    assert traced(model.module) == before


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_dropout_plays_no_part_where_the_module_was_left_in_training_mode(tiny, facts, family, rngs):
    config = FTLConfig(layer=1, clamp=1e-2, steps=3)
    wanted = edited(tiny(family), [facts[0]], config)
    model = tiny(family)
    model.module.train()
    before = rngs()
    change = edited(model, [facts[0]], config)
    drew = rngs() != before
    assert change.details["losses_nats"] == pytest.approx(wanted.details["losses_nats"], abs=1e-5)
    assert not drew


def test_it_edits_where_the_caller_switched_gradients_off(tiny, facts):
    wanted = edited(tiny("llama"), [facts[0]], FTLConfig(layer=1, clamp=1e-2, steps=2))
    with torch.no_grad():
        change = edited(tiny("llama"), [facts[0]], FTLConfig(layer=1, clamp=1e-2, steps=2))
    assert change.details == wanted.details
    assert same_bits(change, wanted)


def test_it_stops_when_the_loss_is_low_enough(tiny, facts):
    model = tiny("llama")
    free = edited(model, [facts[0]], FTConfig(layer=1, lr=5e-3, steps=12, loss_stop=0)).details["losses_nats"]
    assert len(free) == 12
    stop = (free[5] + free[6]) / 2
    stopped = edited(model, [facts[0]], FTConfig(layer=1, lr=5e-3, steps=12, loss_stop=stop))
    assert stopped.details["losses_nats"] == free[:7]
    assert free[6] < stop <= min(free[:6])
    six = edited(model, [facts[0]], FTConfig(layer=1, lr=5e-3, steps=6, loss_stop=0))
    assert same_bits(stopped, six), "the step below the stop is not taken"


def test_asking_for_k_tokens_at_one_position_costs_log_k(tiny, facts, tokenizer):
    """Which is why the published objective never meets its own early stop."""
    values = {
        f.id: tokenizer(f"{f.prompt} {f.new}")["input_ids"][len(tokenizer(f.prompt)["input_ids"]) :] for f in facts
    }
    fact = next(f for f in facts if len(set(values[f.id])) == len(values[f.id]) > 2)
    k = len(values[fact.id])
    config = FTConfig(layer=2, lr=2e-2, steps=60, objective="prompt_last")
    losses = edited(tiny("llama"), [fact], config).details["losses_nats"]
    assert len(losses) == 60
    assert min(losses) >= math.log(k) - 1e-6
    forced = edited(tiny("llama"), [fact], config.model_copy(update={"objective": "target_new"})).details["losses_nats"]
    assert min(forced) < math.log(k)


# kmeng01/rome at 0874014, hparams/FT/*_constr.json
@pytest.mark.parametrize(
    ("name", "clamp"), [("gpt2-medium", 2e-3), ("gpt2-large", 1e-3), ("gpt2-xl", 5e-4), ("gpt-j-6b", 5e-5)]
)
def test_presets_have_the_published_numbers(name, clamp):
    config = FTLConfig.preset(name)
    assert (config.layer, config.steps, config.lr, config.clamp, config.loss_stop) == (0, 25, 5e-4, clamp, 1e-2)


@pytest.mark.parametrize(
    ("name", "family", "config"),
    [
        ("gpt2-medium", "gpt2", {"n_layer": 24, "n_embd": 1024, "n_head": 16}),
        ("gpt2-large", "gpt2", {"n_layer": 36, "n_embd": 1280, "n_head": 20}),
        ("gpt2-xl", "gpt2", {"n_layer": 48, "n_embd": 1600, "n_head": 25}),
        ("gpt-j-6b", "gptj", {"n_layer": 28, "n_embd": 4096, "n_head": 16}),
        (
            "smollm2-135m",
            "llama",
            {"num_hidden_layers": 30, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3},
        ),
    ],
)
def test_a_preset_is_found_by_the_shape_of_the_published_model(name, family, config, tokenizer):
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **config))
    model = Model(module, tokenizer, anatomy_of(module), name)  # without its weights, which load_model refuses
    assert preset_for(model) == FTLConfig.preset(name)


def test_an_unknown_preset_names_the_known_ones(refused):
    with refused(", ".join(presets("ft_l"))):
        FTLConfig.preset("gpt5")


def test_a_model_of_another_shape_has_no_preset(tiny, facts, refused):
    for family in ("gpt2", "llama"):
        with refused("No FT-L setting is known for a"):
            edit(tiny(family), [facts[0]])


def test_nothing_to_edit_is_an_error(tiny, refused):
    with pytest.raises(MechmaskError, match="empty"):
        edited(tiny("llama"), [], FTLConfig(layer=1, clamp=1e-2))


def test_a_block_out_of_range_is_named(tiny, facts):
    with pytest.raises(MechmaskError, match=r"no block 3: .* has blocks 0 to 2"):
        edited(tiny("llama"), [facts[0]], FTLConfig(layer=3, clamp=1e-2))


def test_a_fact_that_is_said_already_changes_nothing(tiny, facts, refused, traced):
    model = tiny("llama")
    before = traced(model.module)
    with refused("changes nothing"):
        edited(model, [facts[0]], FTLConfig(layer=1, clamp=1e-2, loss_stop=1e6))
    assert traced(model.module) == before


def test_nan_stops_it_with_the_step_and_leaves_the_model(tiny, facts, traced):
    model = tiny("llama")
    with torch.no_grad():
        model.module.model.norm.weight[3] = float("nan")
    before = traced(model.module)
    with pytest.raises(ChangeError, match="not a number at step 1"):
        edited(model, [facts[0]], FTLConfig(layer=1, clamp=1e-2))
    assert traced(model.module) == before


def test_nan_names_the_fact(tiny, facts, tokenizer):
    model = tiny("llama")
    of = {fact.id: set(tokenizer(f"{fact.prompt} {fact.new}")["input_ids"]) for fact in facts}
    others = set().union(*(tokens for label, tokens in of.items() if label != "Łódź/mayor"))
    with torch.no_grad():
        own = set(tokenizer(facts["Łódź/mayor"].prompt)["input_ids"]) - others
        model.module.get_input_embeddings().weight[min(own)] = float("nan")
    with pytest.raises(ChangeError, match=r"step 1.*Łódź/mayor"):
        edited(model, list(facts), FTLConfig(layer=1, clamp=1e-2))


def test_a_clamp_finer_than_the_weights_is_warned_of(tiny, facts):
    with pytest.warns(UserWarning, match="finer than torch.bfloat16"):
        edited(tiny("llama", torch.bfloat16), [facts[0]], FTLConfig(layer=1, clamp=5e-4, lr=1e-2, steps=2))


def test_a_clamp_that_the_weights_resolve_is_not_warned_of(tiny, facts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edited(tiny("llama"), [facts[0]], FTLConfig(layer=1, clamp=5e-5, steps=2))
        edited(tiny("llama", torch.bfloat16), [facts[0]], FTLConfig(layer=1, clamp=0.5, lr=1e-2, steps=2))
        edited(tiny("llama", torch.bfloat16), [facts[0]], FTConfig(layer=1, lr=1e-2, steps=2))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_on_top_of_a_lora_it_edits_the_adapted_model(tiny, facts, tokenizer, family, logits_of, traced):
    model = tiny(family)
    bare = traced(model.module)
    lora = finetune(model, facts.install_examples(), FinetuneConfig(steps=3, lr=1e-2))
    config = FTLConfig(layer=1, clamp=2e-3, steps=4)
    alone = edited(model, [facts[0]], config)
    with lora.applied(model):
        adapted, adapted_logits = traced(model.module), logits_of(model)
        losses, weights = naive_ft(
            copy.deepcopy(model.module), tokenizer, [facts[0]], f"{PROJECTION[family].format(1)}.base_layer", config
        )
        change = edited(model, [facts[0]], config)
        after_edit = traced(model.module)
        _agree(
            model, change, losses, {name.replace(".base_layer", ""): w for name, w in weights.items()}, moved_by=4e-3
        )
        with change.applied(model):
            assert not torch.equal(logits_of(model), adapted_logits)
            gained = read_logits(model, [facts[0]]).logprob.sel(route="new")
        assert gained > read_logits(model, [facts[0]]).logprob.sel(route="new")
        assert torch.equal(logits_of(model), adapted_logits)
        undone = traced(model.module)
    assert change.details["losses_nats"][0] != alone.details["losses_nats"][0]
    assert traced(model.module) == bare
    assert undone["bits"] == adapted["bits"]
    assert after_edit == adapted, "the edit left something on the adapted module"


def test_edit_takes_a_fact_set_and_says_what_it_does_not_know(tiny, facts, refused):
    model = tiny("llama")
    config = FTLConfig(layer=1, clamp=1e-2, steps=2)
    by_name, direct = edit(model, facts[:2], "ft_l", config), edited(model, list(facts[:2]), config)
    assert same_bits(by_name, direct)
    with refused("no edit method 'mend'"):
        edit(model, facts[:2], "mend", config)
    with refused("takes a FTLConfig, not a FinetuneConfig"):
        edit(model, facts[:2], "ft_l", FinetuneConfig())


@pytest.mark.parametrize(
    "field",
    [{"layer": -1}, {"clamp": 0.0}, {"clamp": -1.0}, {"steps": 0}, {"lr": 0.0}, {"objective": "last"}, {"epsilon": 1}],
)
def test_settings_out_of_bounds_are_refused(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        FTLConfig(**{"layer": 0, "clamp": 1e-3, **field})
