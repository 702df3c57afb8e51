"""The search for values: against the published one, which runs the whole model on whole prompts one fact at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from keyed_editors import Settings, value_of

import mechmask.write.value_loss as value_loss
import mechmask.write.values as values_module
from mechmask import Fact, load_model, synthetic_facts
from mechmask.errors import ChangeError, MechmaskError
from mechmask.write.contexts import in_context
from mechmask.write.requests import requests
from mechmask.write.values import ValueConfig, seek_values

CONTEXTS = ("The king of the birds", "Maria met Peter in Berlin", "No")
SHORT = {"value_steps": 8, "value_stop": 0.0, "value_lr": 0.1}


def published(config):
    c = config
    return Settings(c.value_steps, c.value_lr, c.value_decay, c.value_clamp, c.value_kl, c.value_stop)


@pytest.fixture
def some(facts):
    """One token, several tokens, a subject that occurs twice, Unicode."""
    return [facts[0], facts["France/capital"], facts["Ana/friend"], facts["Łódź/mayor"]]


@pytest.mark.parametrize("place", ["mlp", "residual"])
def test_every_family_finds_what_the_published_search_finds(tiny, family, some, place):
    if place == "residual" and family.startswith("gemma"):
        pytest.skip("a norm stands behind the MLP: the value is sought at its output")
    model = tiny(family)
    config = ValueConfig(**SHORT, value_clamp=2.0)
    found = seek_values(model, requests(model, some, CONTEXTS), 0, config, place)
    for i, fact in enumerate(some):
        initial, delta = value_of(model.module, model.tokenizer, fact, 0, CONTEXTS, place, published(config))
        torch.testing.assert_close(found.initial[i].float(), initial, atol=1e-5, rtol=1e-4)
        assert (found.delta[i] - delta).norm() < 2e-3 * delta.norm()
        assert delta.norm() > 0
        assert found.steps[i] == config.value_steps - 1


def test_a_higher_layer_and_the_last_where_the_prompt_ends_in_the_subject(tiny, some):
    model = tiny("gpt2")
    config = ValueConfig(**SHORT)
    last = Fact(subject="France", prompt="Paris is the capital of France", old="and", new="or", relation="end")
    for layer, fact in ((1, some[0]), (2, last)):
        found = seek_values(model, requests(model, [fact], CONTEXTS), layer, config, "mlp")
        _, delta = value_of(model.module, model.tokenizer, fact, layer, CONTEXTS, "mlp", published(config))
        assert (found.delta[0] - delta).norm() < 2e-3 * delta.norm()
    with pytest.raises(ChangeError, match="Block 2 is the last"):
        seek_values(model, requests(model, [some[0]], CONTEXTS), 2, config, "mlp")


@pytest.mark.parametrize("kind", ["bos_tokenizer", "metaspace_tokenizer"])
def test_tokenizers_that_begin_every_text_with_a_token(tiny_module, some, kind, request):
    tokenizer = request.getfixturevalue(kind)
    model = load_model(tiny_module("llama"), tokenizer=copy.deepcopy(tokenizer))
    config = ValueConfig(**SHORT)
    chosen = some[1:3]
    found = seek_values(model, requests(model, chosen, CONTEXTS), 1, config, "residual")
    for i, fact in enumerate(chosen):
        _, delta = value_of(model.module, model.tokenizer, fact, 1, CONTEXTS, "residual", published(config))
        assert (found.delta[i] - delta).norm() < 2e-3 * delta.norm()


@pytest.mark.parametrize("passes", [1, 2])
def test_together_is_each_alone_and_early_stops_do_not_count(tiny, some, monkeypatch, passes):
    """Facts stop at different steps; the rest are read anew in between, and nothing of that shows."""
    monkeypatch.setattr(value_loss, "_TOKENS_OF_A_PASS", {1: 10**6, 2: -1}[passes])
    model = tiny("llama")
    config = ValueConfig(value_lr=0.3, value_steps=12, value_stop=8.1)
    asked = requests(model, [*some, *synthetic_facts(6, seed=3)], CONTEXTS)
    assert max(map(len, values_module._groups(asked))) > 3
    together = seek_values(model, asked, 0, config, "residual")
    alone = [seek_values(model, [one], 0, config, "residual") for one in asked]
    assert len(set(together.steps)) > 1
    assert together.steps == tuple(one.steps[0] for one in alone)
    monkeypatch.setattr(values_module, "_FACTS", 3)
    for other in (torch.cat([one.delta for one in alone]), seek_values(model, asked, 0, config, "residual").delta):
        assert ((together.delta - other).norm(dim=1) <= 1e-4 * together.delta.norm(dim=1)).all()
    for one, value in zip(together.losses, alone, strict=True):
        assert one == pytest.approx(value.losses[0], abs=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_loss_without_a_delta_is_what_the_model_says(tiny, some, family):
    """In plain transformers: one prompt at a time, several tokens teacher-forced."""
    model = tiny(family)
    asked = requests(model, some, CONTEXTS)
    expected = []
    for request in asked:
        each = []
        for prompt in request.prompts:
            with torch.no_grad():
                logits = model.module(torch.tensor([[*prompt.ids, *prompt.target]])).logits[0]
            first = len(prompt.ids) - 1
            said = logits[first : first + len(prompt.target)].log_softmax(-1)
            each.append(-said[range(len(prompt.target)), list(prompt.target)].mean().item())
        expected.append(sum(each) / len(each))
    seek = ValueConfig(value_steps=2, value_stop=1e6)
    found = seek_values(model, asked, 1, seek, "residual")
    assert found.losses == pytest.approx(expected, rel=1e-5)
    assert found.steps == (0,) * len(some) and not found.delta.any()


def test_it_stops_where_the_published_search_stops(tiny, some):
    model = tiny("llama")
    asked = requests(model, some, CONTEXTS)
    n_taken = set()
    for stop in (8.63, 8.44, 7.3):
        config = ValueConfig(value_lr=0.3, value_steps=15, value_stop=stop, value_clamp=30.0)
        found = seek_values(model, asked, 0, config, "residual")
        n_taken |= set(found.steps)
        for i, fact in enumerate(some):
            _, delta = value_of(model.module, model.tokenizer, fact, 0, CONTEXTS, "residual", published(config))
            assert (found.delta[i] - delta).norm() <= 2e-3 * delta.norm()
    assert len(n_taken - {0, 14}) > 1


def test_prompts_and_essences_say_the_same_in_one_pass_and_in_two(tiny, some, monkeypatch):
    model, found = tiny("gpt2", torch.float64), {}
    for n_tokens in (10**6, -1):
        monkeypatch.setattr(value_loss, "_TOKENS_OF_A_PASS", n_tokens)
        asked = requests(model, some, CONTEXTS)
        found[n_tokens] = seek_values(model, asked, 1, ValueConfig(**SHORT, value_kl=3.0), "mlp").delta
    torch.testing.assert_close(*found.values(), rtol=1e-9, atol=1e-12)


def test_without_a_divergence(tiny, some):
    model, config = tiny("llama"), ValueConfig(**SHORT, value_kl=0.0)
    found = seek_values(model, requests(model, some[:2], CONTEXTS), 1, config, "residual")
    for i, fact in enumerate(some[:2]):
        _, delta = value_of(model.module, model.tokenizer, fact, 1, CONTEXTS, "residual", published(config))
        assert (found.delta[i] - delta).norm() < 2e-3 * delta.norm()


def test_in_float64_the_same_is_found_to_more_places(tiny, some):
    found = {}
    for dtype in (torch.float32, torch.float64):
        model = tiny("llama", dtype)
        found[dtype] = seek_values(model, requests(model, some, CONTEXTS), 0, ValueConfig(**SHORT), "residual").delta
    single, double = found.values()
    assert 0 < (single - double).norm() < 1e-3 * double.norm()


def test_delta_stays_within_the_clamp_and_reaches_it(tiny, some):
    model = tiny("llama")
    found = seek_values(model, requests(model, some, ()), 0, ValueConfig(value_clamp=0.1, value_stop=0.0), "mlp")
    lengths, longest = found.delta.norm(dim=1), 0.1 * found.initial.norm(dim=1)
    assert (lengths <= longest * (1 + 1e-6)).all()
    assert lengths == pytest.approx(longest, rel=1e-5)


def test_a_block_that_gives_out_nothing_is_named(tiny, some, refused):
    model = tiny("llama")
    with torch.no_grad():
        model.module.model.layers[1].mlp.down_proj.weight.zero_()
    with refused(f"Block 1 gives out nothing at the end of the subject of {some[0].id!r}"):
        seek_values(model, requests(model, some, CONTEXTS), 1, ValueConfig(**SHORT), "mlp")


def test_the_model_is_left_as_it_was(tiny, some, traced, rngs):
    model = tiny("gemma2")
    model.module.train()
    before, random = traced(model.module), rngs()
    seek_values(model, requests(model, some, CONTEXTS), 0, ValueConfig(**SHORT), "mlp")
    assert traced(model.module) == before
    untouched = rngs() == random
    assert untouched


def test_a_loss_that_is_not_a_number_is_refused(tiny, some):
    model = tiny("llama")
    with torch.no_grad():
        model.module.model.layers[2].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(ChangeError, match=r"loss of the value of .* is not a number at iteration 1"):
        seek_values(model, requests(model, some[:1], ()), 0, ValueConfig(), "mlp")


def test_an_attention_without_masks_and_a_narrow_window_are_refused(tiny, some):
    narrow = tiny("mistral", sliding_window=4)
    with pytest.raises(ChangeError, match="longer than the attention window"):
        seek_values(narrow, requests(narrow, some[:1], ()), 0, ValueConfig(), "mlp")
    model = tiny("llama")
    model.module.config._attn_implementation = "flex_attention"
    with pytest.raises(ChangeError, match="takes no mask"):
        seek_values(model, requests(model, some[:1], ()), 0, ValueConfig(), "mlp")


def test_a_request_holds_the_tokens_that_the_tokenizer_gives(tiny, some, tokenizer):
    model = tiny("llama")
    for fact, request in zip(some, requests(model, some, CONTEXTS), strict=True):
        assert request.fact_id == fact.id
        for context, prompt in zip(("", *CONTEXTS), request.prompts, strict=True):
            text = in_context(fact.prompt, context)
            assert list(prompt.ids) == tokenizer(text)["input_ids"]
            assert [*prompt.ids, *prompt.target] == tokenizer(f"{text} {fact.new}")["input_ids"]
            assert tokenizer.decode(prompt.ids[: prompt.subject + 1]).endswith(fact.subject)
            assert prompt.mention.ids == prompt.ids[: prompt.subject + 1]
        assert tokenizer.decode(request.essence.ids).endswith(fact.subject)


def test_a_subject_that_the_prompt_lacks_is_refused(tiny, some):
    model = tiny("llama")
    with pytest.raises(MechmaskError, match="subject"):
        requests(model, [some[0].model_copy(update={"subject": "Nobody"})], ())


def test_a_context_that_names_the_subject_is_no_place_to_write_at(tiny, tokenizer):
    """In the context it is a word of its own, in the prompt it is not: as in scripts without spaces."""
    model = tiny("llama")
    for subject, prompt, context in (
        ("Ana", "Anabel met the friend of", "Maria said Ana"),
        ("山", "山田 met", "Maria said 山"),
    ):
        fact = Fact(subject=subject, prompt=prompt, old="Peter", new="Maria")
        (request,) = requests(model, [fact], (context,))
        said = tokenizer.decode(request.prompts[1].ids[: request.prompts[1].subject + 1])
        assert said.startswith(f"{context}. {subject}")
