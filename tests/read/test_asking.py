"""Facts asked in a chat template, with several right spellings, and without a space: against plain transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mechmask as mm
from mechmask.errors import FactError, ReadingError, RouteError
from mechmask.read.checkpoint import read_logits_and_depth
from mechmask.read.scoring.labels import token_texts


def logprob_of(model, text, value_text):
    """ln p of ``value_text`` behind ``text``, by the model's own forward pass; both hold their special tokens."""
    prompt = model.tokenizer(text, add_special_tokens=False).input_ids
    whole = model.tokenizer(text + value_text, add_special_tokens=False).input_ids
    assert whole[: len(prompt)] == prompt
    with torch.no_grad():
        logprobs = model.module(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return sum(logprobs[i - 1, whole[i]].item() for i in range(len(prompt), len(whole)))


@pytest.fixture
def france():
    return mm.Fact(
        subject="France",
        prompt="The capital of France is",
        old="Paris",
        new="Rome",
        distractors=("Berlin", "Madrid"),
        paraphrases=("France has its capital in",),
    )


def test_a_reading_in_the_chat_template_is_of_the_rendered_conversation(smol, france):
    reading = mm.read_logits(smol, [france], template="chat")
    turns = [{"role": "user", "content": france.prompt}]
    begun = smol.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    for route, value in france.values.items():
        assert reading.logprob.sel(route=route).item() == pytest.approx(logprob_of(smol, begun, value), abs=1e-4)
    assert reading.attrs["template"] == "chat"
    assert len(reading.attrs["chat_template"]) == 32


def test_both_ways_are_the_two_readings_side_by_side(smol, france):
    how = {"score": "sequence", "phrasings": "all"}
    both = mm.read_logits(smol, [france], template="both", **how)
    for template in ("plain", "chat"):
        one = mm.read_logits(smol, [france], template=template, **how)
        for name in ("logprob", "margin", "entropy", "recalled"):
            np.testing.assert_array_equal(both[name].sel(template=template).values, one[name].values)
        greedy = both.greedy.sel(template=template).isel(value_token=slice(one.sizes["value_token"]))
        np.testing.assert_array_equal(greedy.values, one.greedy.values)
    assert "template" not in mm.read_logits(smol, [france], template="plain").attrs
    depth = mm.read_depth(smol, [france], template="both")
    output = mm.read_logits(smol, [france], "divergence", template="both")
    np.testing.assert_allclose(depth.logprob.isel(layer=-1), output.logprob, atol=1e-4)


def test_facts_with_messages_are_read_in_the_template_unless_plain_is_asked_for(smol, france):
    asked = mm.FactSet([france]).in_chat()
    chat, plain = (mm.read_logits(smol, asked, template=template) for template in (None, "plain"))
    assert chat.identical(mm.read_logits(smol, [france], template="chat"))
    np.testing.assert_array_equal(plain.logprob, mm.read_logits(smol, [france]).logprob)


def test_readings_that_were_asked_differently_are_not_compared(smol, france):
    plain, chat = (mm.read_logits(smol, [france], template=template) for template in ("plain", "chat"))
    with pytest.raises(ReadingError, match="differ in template"):
        mm.erase_index(plain, chat)
    with pytest.raises(ReadingError, match=r"template='caht' is not known\. Did you mean 'chat'"):
        mm.read_logits(smol, [france], template="caht")


def test_aliases_are_one_route_with_the_probability_of_all_spellings(smol, france):
    aliases = ("Lutetia", "the city of Paris")
    fact = france.model_copy(update={"old_aliases": aliases})
    reading = mm.read_logits(smol, [fact])
    spellings = [logprob_of(smol, france.prompt, f" {value}") for value in ("Paris", *aliases)]
    assert reading.logprob.sel(route="old").item() == pytest.approx(np.logaddexp.reduce(spellings), abs=1e-4)
    rome = logprob_of(smol, france.prompt, " Rome")
    assert reading.logprob.sel(route="new").item() == pytest.approx(rome, abs=1e-4)
    assert list(reading.route.values) == list(france.values)
    assert reading.attrs["aliases"] == "summed"
    assert reading.token.sel(route="old").item().startswith(" Paris / ")
    depth = mm.read_depth(smol, [fact], score="sequence")
    np.testing.assert_allclose(depth.logprob.isel(layer=-1), reading.logprob, atol=1e-4)


def test_a_spelling_that_goes_on_from_another_adds_nothing(smol, france):
    alone = mm.read_logits(smol, [france]).logprob
    longer = france.model_copy(update={"old_aliases": ("Paris, France",)})
    np.testing.assert_allclose(mm.read_logits(smol, [longer]).logprob, alone, atol=1e-6)
    swapped = france.model_copy(update={"old": "Paris, France", "old_aliases": ("Paris",)})
    np.testing.assert_allclose(mm.read_logits(smol, [swapped]).logprob, alone, atol=1e-6)


def test_any_spelling_that_greedy_decoding_says_is_recalled(smol, france):
    said = mm.generate(smol, [france]).item().split()[0].strip(".,")
    wrong = france.model_copy(update={"old": "Zanzibar", "new": "Rome"})
    right = wrong.model_copy(update={"old_aliases": (said,)})
    assert [bool(mm.read_logits(smol, [one]).recalled.sel(route="old")) for one in (wrong, right)] == [False, True]


def test_other_scores_and_other_readings_take_the_first_spelling(smol, france):
    fact = france.model_copy(update={"old_aliases": ("Lutetia",)})
    for score in ("mean", "divergence"):
        np.testing.assert_array_equal(
            mm.read_logits(smol, [fact], score).logprob, mm.read_logits(smol, [france], score).logprob
        )
    shared = read_logits_and_depth(smol, [fact])
    assert shared[0].logprob.equals(mm.read_logits(smol, [fact]).logprob)


def test_a_spelling_of_both_values_is_refused(smol, france):
    shared = france.model_copy(update={"old_aliases": ("Rome is",)})
    with pytest.raises(RouteError, match="prefix"):
        mm.read_logits(smol, [shared])
    with pytest.raises(FactError, match="The alias 'Rome' of fact 'France' is already"):
        mm.FactSet([france.model_copy(update={"old_aliases": ("Rome",)})])


JOINED = {
    "nothing, Chinese": mm.Fact(subject="法国", prompt="法国的首都是", old="巴黎", new="罗马", joiner=""),
    "nothing, a price": mm.Fact(subject="lamp", prompt="The lamp costs $", old="5", new="9", joiner=""),
    "a line break": mm.Fact(subject="lamp", prompt="Price of the lamp:", old="five", new="nine", joiner="\n"),
}


@pytest.mark.parametrize("name", JOINED)
def test_prompt_and_value_are_joined_as_the_fact_says(name, smol):
    fact = JOINED[name]
    reading = mm.read_logits(smol, [fact])
    for route, value in fact.values.items():
        expected = logprob_of(smol, fact.prompt, f"{fact.joiner}{value}")
        assert reading.logprob.sel(route=route).item() == pytest.approx(expected, abs=1e-4)


def test_a_joiner_holds_white_space_alone_and_lets_the_prompt_end_in_some(france):
    with pytest.raises(FactError, match="holds more than white space"):
        mm.FactSet([france.model_copy(update={"joiner": "-"})])
    begun = mm.FactSet([france.model_copy(update={"prompt": "France's capital?\n", "joiner": ""})])
    assert begun[0].prompt.endswith("\n")


@pytest.mark.parametrize("text", [" 北京", " Zürich", " 日本語", " 😀 ok", " नमस्ते", " עברית", "한국어"])
def test_values_in_any_script_are_shown_whole(smol, text):
    shown = token_texts(smol.tokenizer, smol.tokenizer(text).input_ids)
    assert shown.replace("|", "") == text


def test_half_a_character_is_shown_as_its_bytes(smol):
    ids = smol.tokenizer(" 北京").input_ids
    shown = token_texts(smol.tokenizer, ids[:-1])
    assert "\N{REPLACEMENT CHARACTER}" not in shown
    assert shown == " 北|" + "京".encode()[:2].decode("utf-8", "backslashreplace")


def test_facts_of_old_files_keep_their_fingerprints():
    """By the digest that the version before messages, joiners and aliases gave these facts."""
    facts = mm.FactSet([mm.Fact(subject="France", prompt="The capital of France is", old="Paris", new="Rome")])
    assert facts.to_jsonl_text() == (
        '{"distractors": [], "id": "France", "magnitude": "", "neighbors": [], "new": "Rome", "old": "Paris", '
        '"paraphrases": [], "prompt": "The capital of France is", "relation": "", "role": "contradicted", '
        '"subject": "France"}\n'
    )


def test_a_reading_that_was_asked_otherwise_is_not_gone_on_from(smol, france):
    chat = mm.read_logits(smol, [france], template="chat")
    with pytest.raises(ReadingError, match="asked in the template plain, the reading is by chat"):
        mm.generate(smol, [france], reading=chat)
    asked = mm.FactSet([france]).in_chat()
    assert mm.generate(smol, asked, n_tokens=4, reading=chat).equals(mm.generate(smol, asked, n_tokens=4))


def test_a_fact_is_known_by_any_of_its_spellings(smol, france):
    said = mm.generate(smol, [france]).item().split()[0].strip(".,")
    wrong = france.model_copy(update={"old": "Zanzibar"})
    right = wrong.model_copy(update={"old_aliases": (said,), "id": "right"})
    with pytest.raises(ReadingError, match="holds none of these 1 facts"):
        mm.known_facts(smol, [wrong], min_margin=0)
    assert mm.known_facts(smol, [right], min_margin=0).ids == ("right",)


def test_free_text_does_not_go_on_from_a_conversation(smol, france):
    with pytest.raises(ReadingError, match="Fact 'France' is a conversation"):
        mm.read_generations(smol, mm.FactSet([france]).in_chat(), n_tokens=12)


def test_a_prompt_in_a_turn_of_its_own_may_end_in_a_line_break(smol, france):
    begun = mm.FactSet([france.model_copy(update={"prompt": "France's capital?\n", "joiner": "", "paraphrases": ()})])
    reading = mm.read_logits(smol, begun, template="chat")
    turns = [{"role": "user", "content": begun[0].prompt}]
    text = smol.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert reading.logprob.sel(route="old").item() == pytest.approx(logprob_of(smol, text, "Paris"), abs=1e-4)
