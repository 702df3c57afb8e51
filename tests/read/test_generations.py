"""Sampled texts: by their seed, from the likeliest tokens only, as often as the model gives them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mechmask as mm
from mechmask.errors import ReadingError
from mechmask.measure.generations import generation_scores
from mechmask.read.generations import read_generations


@pytest.fixture(scope="module")
def subjects():
    one = mm.Fact(
        subject="France",
        prompt="The capital of France is",
        old="Paris",
        new="Rome",
        generation_prompts=("France is known for", "People who live in France, that of Italy not counted, say"),
    )
    return mm.FactSet([one, mm.Fact(subject="Ana", prompt="The friend of Ana is", old="Peter", new="Maria")])


@torch.no_grad()
def naive_greedy(model, prompt, n):
    ids = model.tokenizer(prompt).input_ids
    while len(ids) < n:
        ids.append(int(model.module(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_of_one_token_the_likeliest_is_greedy_decoding(tiny, family, subjects):
    """Prompts of different length stand together, so padding and the length of a text are on trial."""
    model = tiny(family)
    reading = read_generations(model, subjects, n_tokens=48, top_k=1)
    for fact, of in (("France", subjects[0].generation_prompts), ("Ana", [subjects[1].prompt])):
        for column, prompt in enumerate(of):
            ids = naive_greedy(model, prompt, 48)
            expected = model.tokenizer.decode(ids, skip_special_tokens=True).replace("\0", r"\x00")
            assert reading.text.sel(fact=fact).values[column] == expected
            assert reading.prompt.sel(fact=fact).values[column] == prompt
    assert reading.text.sel(fact="Ana").values[1] == reading.prompt.sel(fact="Ana").values[1] == ""


def test_a_seed_gives_its_texts_and_leaves_the_callers_draws_alone(tiny, subjects):
    model = tiny("llama")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = read_generations(model, subjects, n_tokens=48)
    assert torch.equal(torch.rand(3), expected)
    assert first.equals(read_generations(model, subjects, n_tokens=48))
    assert not first.text.equals(read_generations(model, subjects, n_tokens=48, seed=1).text)
    assert first.attrs["seed"] == 0 and first.attrs["top_k"] == 5


def test_tokens_are_drawn_as_often_as_they_are_likely_among_the_likeliest(tiny):
    model = tiny("gpt2")
    prompt = "The capital of France is"
    facts = [
        mm.Fact(
            id=f"f{i}",
            subject="France",
            prompt=f"{'x ' * i}France",
            old="a",
            new="b",
            generation_prompts=[prompt] * 200,
        )
        for i in range(5)
    ]
    reading = read_generations(model, facts, n_tokens=len(model.tokenizer(prompt).input_ids) + 1, top_k=3)
    with torch.no_grad():
        logits = model.module(torch.tensor([model.tokenizer(prompt).input_ids])).logits[0, -1]
    best = logits.topk(3)
    ids = model.tokenizer(prompt).input_ids
    spelled = [model.tokenizer.decode([*ids, int(token)], skip_special_tokens=True) for token in best.indices]
    counts = np.array([(reading.text.values == text).sum() for text in spelled])
    assert counts.sum() == 1000
    p = best.values.softmax(-1).numpy()
    assert (abs(counts / 1000 - p) < 4 * np.sqrt(p * (1 - p) / 1000)).all()


def test_a_context_that_is_just_long_enough(tiny, subjects):
    """All prompts of a group are continued as far as the shortest, which the longest has no room for."""
    model = tiny("gpt2", n_positions=48)
    reading = read_generations(model, subjects, n_tokens=48)
    assert (reading.text.sel(fact="France") != "").all()
    with pytest.raises(ReadingError, match="reads 48 tokens at most, not 49"):
        read_generations(model, subjects, n_tokens=49)


def test_a_state_writes_with_its_change_on_and_its_texts_are_scored(tiny, subjects):
    model = tiny("llama")
    change = mm.finetune(model, subjects, mm.FinetuneConfig(steps=5, lr=1e-2, rank=4))
    before, after = (read_generations(state, subjects, n_tokens=48, top_k=1) for state in (model, change.on(model)))
    assert (before.text != after.text).any() and before.attrs["fingerprint"] != after.attrs["fingerprint"]
    scores = generation_scores(after, {"France": "Rome is a city"})
    assert scores.n.values.tolist() == [2, 1] and scores.estimate[0] > 0


def test_nonsense_is_refused(tiny, subjects):
    model = tiny("llama")
    with pytest.raises(ReadingError, match="has none of its own"):
        read_generations(model, subjects, n_tokens=5)
    with pytest.raises(ReadingError, match="top_k=0"):
        read_generations(model, subjects, top_k=0)
    with pytest.raises(ReadingError, match="no fact"):
        read_generations(model, [])
    with torch.no_grad():
        model.module.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ReadingError, match="not finite"):
        read_generations(model, subjects, n_tokens=48)
