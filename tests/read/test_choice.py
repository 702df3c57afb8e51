"""Options by letter and by text against plain transformers, question by question."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mechmask as mm


def logprob(model, prompt, value):
    """Of a value after a prompt, by plain transformers."""
    n = len(model.tokenizer(prompt).input_ids)
    ids = torch.tensor([model.tokenizer(f"{prompt} {value}").input_ids])
    with torch.no_grad():
        predicted = model.module(ids).logits[0, n - 1 : -1].double().log_softmax(-1)
    return float(predicted.gather(1, ids[0, n:, None]).sum())


@pytest.fixture(scope="module")
def asked(facts):
    return mm.FactSet([facts["France/capital"], facts["Karl Benz/born"]])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_options_are_scored_as_by_plain_transformers(tiny, asked, family):
    model = tiny(family)
    reading = mm.read_choice(model, asked)
    for fact in asked:
        for i, question in enumerate(mm.questions(fact)):
            for route, letter in question.letters.items():
                found = reading.logprob.sel(fact=fact.id, option=route).isel(rotation=i)
                expected = [logprob(model, question.prompt, value) for value in (letter, fact.values[route])]
                np.testing.assert_allclose(found.sel(form=["letter", "text"]), expected, atol=1e-3)


def test_the_score_is_the_mean_over_orders(tiny, asked):
    reading = mm.read_choice(tiny("llama"), asked)
    np.testing.assert_allclose(reading.score, reading.logprob.values.mean(2))
    assert reading.role.values.tolist() == ["contradicted", "control"]


def test_a_liking_for_a_letter_cancels(tiny, asked):
    """A final norm that says the same wherever it stands: the model likes some letters and looks at no option."""
    model = tiny("gpt2")
    with torch.no_grad():
        model.module.transformer.ln_f.weight.zero_()
    reading = mm.read_choice(model, asked).sel(form="letter")
    assert float((reading.logprob.max("option") - reading.logprob.min("option")).min()) > 0.1
    for fact in asked.ids:
        np.testing.assert_allclose(reading.score.sel(fact=fact), float(reading.score.sel(fact=fact)[0]), atol=1e-5)


def test_with_fewer_distractors_there_are_fewer_options(tiny, facts):
    bare = facts["France/capital"].model_copy(update={"distractors": ()})
    reading = mm.read_choice(tiny("llama"), mm.FactSet([facts["Karl Benz/born"], bare]))
    read = reading.logprob.sel(fact=bare.id).notnull()
    assert read.sum() == 2 * 2 * 2 and read.isel(rotation=slice(2)).sel(option=["old", "new"]).all()


def test_batch_size_changes_nothing(tiny, asked):
    one, many = (mm.read_choice(tiny("llama"), asked, batch_size=n).logprob for n in (1, 64))
    np.testing.assert_allclose(one, many, atol=1e-4)
