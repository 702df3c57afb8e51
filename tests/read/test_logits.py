"""``read_logits`` against plain transformers, a route at a time."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
import xarray as xr

import mechmask as mm
from mechmask.errors import ReadingError, RouteError

SCORES = ("sequence", "mean", "divergence")


def expected(oracle, facts, score):
    """``[fact, route]`` by the oracle."""
    routes = ["old", "new", *(f"distractor_{i}" for i in range(max(len(f.distractors) for f in facts)))]
    return np.array([[oracle.score(fact, route, score) for route in routes] for fact in facts])


@pytest.fixture(scope="module")
def llama(tiny):
    return tiny("llama")


def test_every_family_and_score_is_what_the_model_says_itself(tiny, family, facts, plain):
    model = tiny(family)
    oracle = plain(model)
    for score in SCORES:
        reading = mm.read_logits(model, facts, score)
        np.testing.assert_allclose(reading.logprob, expected(oracle, facts, score), atol=1e-4, rtol=0)
        assert reading.attrs["check_error_nats"] < 1e-4


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "phi3"])
@pytest.mark.parametrize("score", SCORES)
def test_batch_size_changes_nothing(tiny, family, facts, score):
    model = tiny(family)
    readings = [mm.read_logits(model, facts, score, batch_size=n) for n in (1, 2, 32)]
    for other in readings[1:]:
        xr.testing.assert_allclose(readings[0].logprob, other.logprob, atol=2e-5)
        xr.testing.assert_allclose(readings[0].entropy, other.entropy, atol=2e-5)
        xr.testing.assert_equal(readings[0].recalled, other.recalled)


def test_padding_side_changes_no_bit(llama, facts):
    readings = []
    for side in ("left", "right"):
        llama.tokenizer.padding_side = side
        readings.append(mm.read_logits(llama, facts))
        assert llama.tokenizer.padding_side == side
    xr.testing.assert_identical(*readings)


@pytest.mark.parametrize("score", ["sequence", "divergence"])
def test_routes_in_rows_of_their_own_agree_with_packed_ones(tiny, family, awkward, score, monkeypatch):
    model = tiny(family)
    packed = mm.read_logits(model, awkward, score)
    monkeypatch.setattr("mechmask.read.scoring.contests.may_pack", lambda *_: False)
    alone = mm.read_logits(model, awkward, score)
    xr.testing.assert_allclose(packed.logprob, alone.logprob, atol=2e-5)
    xr.testing.assert_allclose(packed.entropy, alone.entropy, atol=2e-5)
    xr.testing.assert_equal(packed.recalled, alone.recalled)


def test_the_order_of_facts_plays_no_part(llama, facts):
    shuffled = random.Random(0).sample(list(facts), len(facts))
    reading, other = mm.read_logits(llama, facts), mm.read_logits(llama, shuffled)
    assert list(other.fact.values) == [fact.id for fact in shuffled]
    xr.testing.assert_allclose(reading.logprob, other.logprob.sel(fact=reading.fact), atol=2e-5)
    xr.testing.assert_equal(reading.value, other.value.sel(fact=reading.fact))


def test_a_fact_alone_reads_as_among_others(llama, facts):
    together = mm.read_logits(llama, facts)
    for fact in facts:
        alone = mm.read_logits(llama, [fact])
        np.testing.assert_allclose(
            alone.logprob.sel(fact=fact.id), together.logprob.sel(fact=fact.id, route=alone.route), atol=2e-5
        )


def test_routes_that_a_fact_lacks_are_nan_and_say_nothing(llama, facts):
    reading = mm.read_logits(llama, facts)
    for fact in facts:
        there = [route in fact.values for route in reading.route.values]
        row = reading.sel(fact=fact.id)
        assert list(row.logprob.notnull().values) == there
        assert not row.recalled.values[~np.array(there)].any()
        assert list(row["value"].values) == [fact.values.get(str(route), "") for route in reading.route.values]
    assert mm.read_logits(llama, [facts["France/capital"]]).sizes["route"] == 4


@pytest.mark.parametrize("score", ["sequence", "divergence"])
def test_the_tokens_that_are_read_are_named(llama, facts, plain, score):
    oracle, reading = plain(llama), mm.read_logits(llama, facts, score)
    for fact in facts:
        for route in reading.route.values:
            ids = oracle.value_ids(fact, route) if route in fact.values else []
            if score == "divergence" and ids:
                n = oracle.diverging(fact)
                ids = ids[n : n + 1] if oracle.in_divergence(fact, route) else []
            named = reading.token.sel(fact=fact.id, route=route).item()
            whole, each = llama.tokenizer.decode(ids), [llama.tokenizer.decode([token]) for token in ids]
            if "\N{REPLACEMENT CHARACTER}" not in whole:
                assert named.replace("|", "") == whole
            if "\N{REPLACEMENT CHARACTER}" not in "".join(each):
                assert named == "|".join(each)
            assert "\N{REPLACEMENT CHARACTER}" not in named
    assert any(reading.token.values.ravel())


def test_a_distractor_without_a_token_of_its_own_is_nan_in_divergence(llama, facts):
    """1844 against 1849 part at the fourth digit: of 1846, 1812 and 1901 only the first gets there."""
    row = mm.read_logits(llama, facts, "divergence").logprob.sel(fact="Karl Benz/born")
    there = row.sel(route=["distractor_0", "distractor_1", "distractor_2"]).notnull()
    assert list(there.values) == [True, False, False]


def test_entropy_is_that_of_the_distribution_in_which_old_and_new_part(tiny, family, awkward, plain):
    model = tiny(family)
    oracle = plain(model)
    for score in SCORES:
        reading = mm.read_logits(model, awkward, score)
        for fact in awkward:
            row = oracle.logprobs(fact, "old")[oracle.diverging(fact)]
            naive = -sum(math.exp(x) * x for x in row.tolist())
            assert reading.entropy.sel(fact=fact.id).item() == pytest.approx(naive, abs=1e-4)


def test_recalled_is_what_greedy_decoding_says(taught, facts, plain):
    oracle = plain(taught)
    reading = mm.read_logits(taught, facts)
    for fact in facts:
        for route in fact.values:
            value = oracle.value_ids(fact, route)
            says = oracle.greedy(fact.prompt, len(value)) == value
            assert reading.recalled.sel(fact=fact.id, route=route).item() == says
    assert reading.recalled.sel(route="old").sum() == sum(fact.role != "never" for fact in facts)


def test_recalled_in_divergence_is_the_most_probable_token_there(taught, facts, plain):
    oracle = plain(taught)
    reading = mm.read_logits(taught, facts, "divergence")
    for fact in facts:
        for route in fact.values:
            n = oracle.diverging(fact)
            there = oracle.in_divergence(fact, route)
            says = there and oracle.logprobs(fact, route)[n].argmax() == oracle.value_ids(fact, route)[n]
            assert reading.recalled.sel(fact=fact.id, route=route).item() == says


@pytest.mark.parametrize("score", SCORES)
def test_all_phrasings_are_the_prompt_and_each_paraphrase(tiny, awkward, plain, score):
    model = tiny("qwen3")
    reading = mm.read_logits(model, awkward, score, phrasings="all")
    assert reading.logprob.dims == ("fact", "phrasing", "route")
    assert reading.sizes["phrasing"] == max(len(fact.phrasings) for fact in awkward)
    xr.testing.assert_allclose(
        reading.logprob.sel(phrasing=0, drop=True), mm.read_logits(model, awkward, score).logprob, atol=2e-5
    )
    oracle = plain(model)
    for fact in awkward:
        for phrasing in reading.phrasing.values:
            for route in reading.route.values:
                there = phrasing < len(fact.phrasings)
                value = oracle.score(fact, str(route), score, int(phrasing)) if there else math.nan
                found = reading.logprob.sel(fact=fact.id, phrasing=phrasing, route=route).item()
                assert found == pytest.approx(value, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("score", SCORES)
def test_a_window_shorter_than_the_route(tiny, family, awkward, plain, score):
    model = tiny(family, sliding_window=8)
    reading = mm.read_logits(model, awkward, score)
    np.testing.assert_allclose(reading.logprob, expected(plain(model), awkward, score), atol=1e-4, rtol=0)
    wide = mm.read_logits(tiny(family), awkward, score)
    assert abs(reading.logprob - wide.logprob).max() > 0.1, "the window plays no part in this test"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_either_attention(tiny_module, tokenizer, facts, plain, attention):
    model = mm.load_model(tiny_module("llama", attn_implementation=attention), tokenizer=tokenizer)
    assert model.module.config._attn_implementation == attention
    reading = mm.read_logits(model, facts)
    np.testing.assert_allclose(reading.logprob, expected(plain(model), facts, "sequence"), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["bos_tokenizer", "bos_eos_tokenizer", "metaspace_tokenizer"])
def test_special_tokens_before_and_behind(tiny_module, request, awkward, kind):
    """BOS belongs to the prompt; EOS behind is no part of any route."""
    tokenizer = request.getfixturevalue(kind)
    module = tiny_module("llama")
    reading = mm.read_logits(mm.load_model(module, tokenizer=tokenizer), awkward)
    for fact in awkward:
        for route, value in fact.values.items():
            prompt, ids = tokenizer(fact.prompt).input_ids, tokenizer(f"{fact.prompt} {value}").input_ids
            if ids[-1] == tokenizer.eos_token_id:
                prompt, ids = prompt[:-1], ids[:-1]
            assert ids[0] == prompt[0] == tokenizer.bos_token_id
            with torch.no_grad():
                rows = module(torch.tensor([ids])).logits[0].log_softmax(-1)
            naive = sum(rows[i - 1, ids[i]].item() for i in range(len(prompt), len(ids)))
            assert reading.logprob.sel(fact=fact.id, route=route).item() == pytest.approx(naive, abs=1e-4)


# Logits here reach 8, where bfloat16 steps by 2**-5: a reading unembeds in float32, the model rounds each logit by
# up to half a step, and residuals summed in another order differ by as much again. Measured on these three families:
# at most 0.031 nats per token, 0.0034 on average.
BFLOAT16_NATS = 0.1


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_bfloat16(tiny, family, facts, plain):
    model = tiny(family, torch.bfloat16)
    reading = mm.read_logits(model, facts, "mean")
    error = abs(reading.logprob.values - expected(plain(model), facts, "mean"))
    assert np.nanmax(error) < BFLOAT16_NATS
    assert np.nanmean(error) < BFLOAT16_NATS / 10
    assert reading.attrs["check_error_nats"] < BFLOAT16_NATS


def test_what_is_there_after_training_mode_and_gradients(tiny, awkward):
    """Dropout is off while reading, and the module's own mode is back afterwards."""
    model = tiny("gpt2", resid_pdrop=0.5)
    quiet = mm.read_logits(model, awkward)
    model.module.train()
    model.module.transformer.h[1].eval()
    modes = [child.training for child in model.module.modules()]
    xr.testing.assert_identical(mm.read_logits(model, awkward), quiet)
    assert [child.training for child in model.module.modules()] == modes
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.module.parameters())
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_reading_twice_gives_the_same_bits(llama, facts):
    xr.testing.assert_identical(mm.read_logits(llama, facts), mm.read_logits(llama, facts))


def test_only_the_rows_that_are_read_are_unembedded(tiny, facts, monkeypatch):
    """Memory is bounded by the batch: no call of the unembedding sees more than the nodes of one batch."""
    model = tiny("llama")
    seen = []
    linear = torch.nn.functional.linear

    def watching(rows, weight, bias=None):
        if weight.shape[0] == model.vocab_size:
            seen.append(rows.shape[:-1].numel())
        return linear(rows, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", watching)
    mm.read_logits(model, facts, batch_size=1)
    nodes = [sum(len(model.tokenizer(f" {value}").input_ids) for value in fact.values.values()) for fact in facts]
    longest = max(
        len(model.tokenizer(f"{fact.prompt} {value}").input_ids) for fact in facts for value in fact.values.values()
    )
    assert max(seen) <= max(*nodes, longest)  # the self-check unembeds one route whole


def test_wrong_arguments_are_refused(llama, facts):
    with pytest.raises(ReadingError, match="sequence, mean, divergence"):
        mm.read_logits(llama, facts, "sum")
    with pytest.raises(ReadingError, match="Known are prompt, all"):
        mm.read_logits(llama, facts, phrasings="some")
    with pytest.raises(ReadingError, match="at least one"):
        mm.read_logits(llama, [])
    clash = mm.Fact(subject="Uxmon", prompt="The mass of Uxmon is", old="417", new="4170")
    with pytest.raises(RouteError, match="prefix"):
        mm.read_logits(llama, [clash])


def test_provenance(llama, facts):
    reading = mm.read_logits(llama, facts, "mean")
    assert reading.attrs["fingerprint"] == llama.fingerprint
    assert reading.attrs["score"] == "mean"
    assert reading.attrs["version_torch"] == torch.__version__
    assert list(reading.role.values) == [fact.role for fact in facts]
    assert "ceiling" not in reading  # means of different length do not exclude each other


def test_the_embedded_model(smol, plain):
    facts = [fact.model_copy(update={"distractors": fact.distractors[:3]}) for fact in mm.world_facts()[:4]]
    oracle = plain(smol)
    for score in SCORES:
        reading = mm.read_logits(smol, facts, score)
        np.testing.assert_allclose(reading.logprob, expected(oracle, facts, score), atol=1e-4, rtol=0)
