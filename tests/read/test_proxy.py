"""Three models as one, against their logits added by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mechmask as mm
from mechmask.errors import ModelError, ReadingError, WeightsError
from mechmask.models.model import Model


@torch.no_grad()
def added(models, ids, alpha):
    """Logits of plain modules, summed."""
    base, expert, anti = (model.module(torch.tensor([ids])).logits[0].double() for model in models)
    return base + alpha * (expert - anti)


@pytest.fixture
def three(tiny):
    """Two small models that differ, beside a third of another family: one tokenizer."""
    return tiny("gpt2"), tiny("llama"), tiny("gemma2")


@pytest.mark.parametrize("alpha", [-0.7, 0.0, 1.0])
def test_every_route_is_that_of_the_added_logits(three, facts, plain, alpha):
    combined = mm.combine(*three, alpha=alpha)
    assert isinstance(combined, Model)
    reading = mm.read_logits(combined, facts)
    oracle = plain(three[0])
    for fact in facts:
        for route, value in fact.values.items():
            prompt, ids = oracle.ids(fact.prompt), oracle.value_ids(fact, route)
            logprobs = added(three, prompt + ids, alpha).log_softmax(-1)[len(prompt) - 1 : -1]
            wanted = logprobs.gather(1, torch.tensor(ids)[:, None]).sum()
            np.testing.assert_allclose(reading.logprob.sel(fact=fact.id, route=route), wanted, atol=1e-3), value


def test_what_it_says_is_greedy_over_the_added_logits(three, facts, plain):
    combined = mm.combine(*three, alpha=0.8)
    said = mm.generate(combined, facts, n_tokens=4)
    oracle = plain(three[0])
    for fact in facts:
        ids = oracle.ids(fact.prompt)
        n = len(ids)
        for _ in range(4):
            ids = [*ids, int(added(three, ids, 0.8)[-1].argmax())]
        text = oracle.tokenizer.decode(ids[n:]).strip().replace("\0", r"\x00")
        assert said.sel(fact=fact.id).item() == text


def test_a_sweep_is_the_readings_of_every_strength(three, facts):
    alphas = (-1.0, 0.25, 1.5)
    swept = mm.read_proxy(*three, facts, alphas, "sequence")
    assert swept.alpha.values.tolist() == list(alphas)
    for alpha in alphas:
        one = mm.read_logits(mm.combine(*three, alpha=alpha), facts)
        for name in ("logprob", "margin", "standing", "entropy"):
            np.testing.assert_allclose(swept[name].sel(alpha=alpha), one[name], atol=1e-4)
        for name in ("recalled", "greedy"):
            np.testing.assert_array_equal(swept[name].sel(alpha=alpha), one[name])


def test_the_margin_where_values_part_is_linear_in_alpha(three, facts):
    swept = mm.read_proxy(*three, facts)
    base, expert, anti = (mm.read_logits(model, facts, "divergence").margin.values for model in three)
    wanted = base + swept.alpha.values[:, None] * (expert - anti)
    np.testing.assert_allclose(swept.margin, wanted, atol=1e-5)
    assert np.abs(expert - anti).max() > 0.1


def test_a_state_is_a_part_with_its_change(tiny, facts):
    model = tiny("llama")
    change = mm.finetune(model, facts[:3].contradiction_examples(), mm.FinetuneConfig(steps=6, lr=1e-2, rank=4))
    state, before = change.on(model), model.fingerprint
    whole = mm.combine(model, state, model)  # with alpha 1 the base and the anti-expert cancel out
    np.testing.assert_allclose(mm.read_logits(whole, facts).logprob, mm.read_logits(state, facts).logprob, atol=1e-4)
    assert model.fingerprint == before
    taken_away = mm.combine(state, state, model, alpha=-1.0)
    np.testing.assert_allclose(
        mm.read_logits(taken_away, facts).logprob, mm.read_logits(model, facts).logprob, atol=1e-4
    )


def test_fingerprint_and_name_tell_strengths_and_models_apart(three):
    prints = {mm.combine(*models, alpha=alpha).fingerprint for models in (three, three[::-1]) for alpha in (0.5, 1.0)}
    assert len(prints) == 4
    one, other = (mm.combine(*three, alpha=0.5).fingerprint for _ in range(2))
    assert one == other
    assert mm.combine(*three, alpha=0.5).name == "{} + 0.5 ({} - {})".format(*(model.name for model in three))


def test_other_readings_of_the_output_take_it(three, facts):
    combined = mm.combine(*three)
    asked = mm.FactSet([fact for fact in facts if fact.old[0] != fact.new[0]])
    assert mm.read_retention(combined, asked).share.notnull().any()
    assert np.isfinite(mm.read_editing(combined, asked).nll).any()
    text = mm.read_text(combined, mm.held_out_text(combined, ["One two three four five six seven eight nine ten."]))
    assert np.isfinite(text.nll).all()


def test_what_reads_or_writes_layers_refuses_it(three, facts):
    combined = mm.combine(*three)
    with pytest.raises((ModelError, ReadingError), match="no layers of its own"):
        mm.read_depth(combined, facts)
    with pytest.raises((ModelError, WeightsError), match="no layers of its own"):
        mm.finetune(combined, facts.contradiction_examples(), mm.FinetuneConfig(steps=1))
    with pytest.raises(ModelError, match="no layers of its own"):
        mm.edit(combined, facts[:1], config=mm.FTConfig(layer=0))


def test_models_that_cannot_be_added_are_refused(tiny, bos_tokenizer, facts):
    model = tiny("llama")
    other = mm.load_model(tiny("llama").module, tokenizer=bos_tokenizer)
    if other.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        with pytest.raises(ModelError, match="other tokens"):
            mm.combine(model, other, model)
    half = mm.load_model(tiny("gpt2").module.to(torch.bfloat16), tokenizer=model.tokenizer)
    with pytest.raises(ModelError, match="Load them alike"):
        mm.combine(model, model, half)
    with pytest.raises(ModelError, match="no strength"):
        mm.combine(model, model, model, alpha=float("nan"))
    for alphas in ((), (1.0, 1.0), (float("nan"),)):
        with pytest.raises(ReadingError, match="no list of different numbers"):
            mm.read_proxy(model, model, model, facts, alphas)
