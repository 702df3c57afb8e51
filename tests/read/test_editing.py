"""``read_editing`` against the published evaluation, one plain forward pass a prompt and value."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

import mechmask as mm
from mechmask.errors import FactError, ReadingError, RouteError
from mechmask.facts.fact import Implication
from mechmask.measure.editing import editing_scores
from mechmask.models.decoding import greedy
from mechmask.read.editing import read_editing


def _reference():
    path = Path(__file__).parents[1] / "reference_algorithms" / "counterfact_metrics.py"
    spec = importlib.util.spec_from_file_location("counterfact_metrics", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


published = _reference()


@pytest.fixture(scope="module")
def edited():
    """Facts with neighbors, ragged, with values of several tokens, one a beginning of the other, and a common one."""
    france = mm.Fact(
        subject="France",
        prompt="The capital of France is",
        old="Paris",
        new="Rome",
        distractors=("Berlin",),
        paraphrases=("France has its capital in", "The capital city of France, that of Italy not counted, is"),
        neighbors=(
            mm.Neighbor(prompt="The capital of Germany is", value="Berlin"),
            mm.Neighbor(prompt="The capital of Italy is", value="Rome"),
        ),
    )
    born = mm.Fact(
        subject="Karl Benz",
        prompt="Karl Benz was born in the year",
        old="1844",
        new="184",
        neighbors=(mm.Neighbor(prompt="The king was born in the year", value="1901"),),
    )
    mayor = mm.Fact(
        subject="Łódź",
        prompt="Die Bürgermeisterin von Łódź heißt",
        old="Żaneta Müller",
        new="山田 Ørsted",
        paraphrases=("Łódź wird regiert von",),
        neighbors=(mm.Neighbor(prompt="The friend of Ana is", value="Peter"),),
    )
    return mm.FactSet([france, born, mayor])


def _read(reading, name, group, fact, number, route):
    part = reading[name].sel(fact=fact, route=route)
    return part.values[np.flatnonzero(reading.group.values == group)[number]]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "gemma2"])
def test_it_is_the_published_evaluation(tiny, family, edited):
    model = tiny(family)
    reading = read_editing(model, edited, batch_size=5)
    n_read = 0
    records = [published.evaluated(model.module, model.tokenizer, fact) for fact in edited]
    for fact, record in zip(edited, records, strict=True):
        for group, prompts in record.items():
            for number, said in enumerate(prompts):
                for route, name in (("old", "true"), ("new", "new")):
                    nll = _read(reading, "nll", group, fact.id, number, route)
                    if np.isnan(nll):
                        assert fact.neighbors[number].value == fact.new and route == "new"
                        continue
                    n_read += 1
                    right = said[f"right_{name}"]
                    assert nll == pytest.approx(said[name], abs=1e-4)
                    assert _read(reading, "token_accuracy", group, fact.id, number, route) == np.mean(right)
                    assert _read(reading, "exact", group, fact.id, number, route) == all(right)
    assert n_read == int(reading.nll.notnull().sum()) == 2 * (1 + 2 + 2 + 1 + 1 + 1 + 1 + 1) - 1
    del records[0]["neighborhood"][1]  # its own value is the new one
    _require_scores(editing_scores(reading), published.summarized(records))


def _require_scores(scores, expected, tolerance=1e-4):
    names = {"E-all": "efficacy_exact", "P-all": "paraphrase_exact", "N-all": "neighborhood_exact"}
    names |= {"E-mean": "reliability", "P-mean": "generalization", "N-mean": "specificity"}
    by_abbreviation = dict(zip(scores.abbreviation.values.tolist(), scores.metric.values.tolist(), strict=True))
    for name, value in expected.items():
        found = scores.estimate.sel(metric=names.get(name) or by_abbreviation[name]).item()
        assert found == pytest.approx(value, abs=tolerance), name


def test_the_real_model_on_real_records(smol, shared_data):
    path = shared_data / "counterfact" / "counterfact.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    facts = mm.load_facts(path)[:2]
    records = [published.evaluated(smol.module, smol.tokenizer, fact) for fact in facts]
    reading = read_editing(smol, facts)
    assert reading.sizes["prompt"] == 13 and not reading.nll.isnull().any()
    _require_scores(editing_scores(reading), published.summarized(records))


def test_exact_is_where_greedy_decoding_says_the_value(taught, facts):
    """A model that was taught the old values says some of them."""
    reading = read_editing(taught, facts)
    exact = reading.exact.sel(route="old").isel(prompt=0)
    said = 0
    for fact in facts:
        prompt = taught.tokenizer(fact.prompt).input_ids
        value = taught.tokenizer(f"{fact.prompt} {fact.old}").input_ids[len(prompt) :]
        with taught.inference():
            (tokens,) = greedy(taught, [prompt], [len(value)])
        assert bool(exact.sel(fact=fact.id)) == (tokens == value)
        said += tokens == value
    assert 0 < said < len(facts)


def test_top_tokens_are_those_of_a_plain_pass(tiny, edited):
    model = tiny("llama")
    reading = read_editing(model, edited)
    for fact in edited:
        logprobs, ids = published.target_logprobs(model.module, model.tokenizer, fact.prompt, fact.old)
        found = reading.top_token.sel(fact=fact.id, route="old").isel(prompt=0).values
        assert found[: len(ids)].tolist() == logprobs.argmax(-1).tolist() and (found[len(ids) :] == -1).all()
        assert int(reading.n_tokens.sel(fact=fact.id, route="old").isel(prompt=0)) == len(ids)


def test_labels_say_what_was_asked(tiny, edited):
    reading = read_editing(tiny("gpt2"), edited)
    assert reading.group.values.tolist() == ["rewrite", *["paraphrase"] * 2, *["neighborhood"] * 2]
    france = reading.sel(fact="France")
    assert france.text.values.tolist() == [*edited["France"].phrasings, *(n.prompt for n in edited["France"].neighbors)]
    assert france.value.sel(route="old").values.tolist() == ["Paris", "Paris", "Paris", "Berlin", "Rome"]
    assert france.value.sel(route="new").values.tolist() == ["Rome", "Rome", "Rome", "Rome", ""]
    benz = reading.sel(fact="Karl Benz")
    assert benz.text.values.tolist() == [edited[1].prompt, "", "", edited[1].neighbors[0].prompt, ""]
    assert benz.token.sel(route="old").values[0] == " |1|8|4|4"
    assert reading.attrs["check_error_nats"] < 1e-4


def test_the_tokenizer_may_put_a_token_before_the_text(tiny_module, bos_tokenizer, edited):
    model = mm.load_model(tiny_module("llama"), tokenizer=bos_tokenizer)
    reading = read_editing(model, edited)
    expected, _ = published.said_of(model.module, bos_tokenizer, edited[0].prompt, "Rome")
    assert float(reading.nll[0, 0].sel(route="new")) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_changes_nothing(tiny, edited, batch_size):
    model = tiny("gemma2")
    first, second = read_editing(model, edited, batch_size=batch_size), read_editing(model, edited)
    np.testing.assert_allclose(first.nll, second.nll, atol=1e-4)
    np.testing.assert_array_equal(first.top_token, second.top_token)


def test_a_state_is_read_with_its_change_on(tiny, edited):
    model = tiny("llama")
    before = read_editing(model, edited)
    change = mm.finetune(model, edited, mm.FinetuneConfig(steps=10, lr=1e-2, rank=4))
    after = read_editing(change.on(model), edited)
    taught_value = {"route": "new", "prompt": 0}
    assert (after.nll.sel(taught_value) < before.nll.sel(taught_value)).all()
    assert 0 <= editing_scores(after, before).estimate.sel(metric="locality") < 1
    np.testing.assert_array_equal(read_editing(model, edited).nll, before.nll)


def test_what_follows_from_an_edit_is_asked_by_kind(tiny, edited):
    implied = (
        Implication(prompt="The Louvre stands in the city of", value="Rome", kind="reasoning"),
        Implication(prompt="Rome is the capital of", value="France", kind="reverse"),
    )
    model, facts = tiny("llama"), [edited[0].model_copy(update={"implications": implied}), edited[1]]
    reading = read_editing(model, facts)
    assert reading.group.values.tolist()[-2:] == ["reasoning", "reverse"]
    for number, one in zip((-2, -1), implied, strict=True):
        expected, _ = published.said_of(model.module, model.tokenizer, one.prompt, one.value)
        assert float(reading.nll[0, number].sel(route="new")) == pytest.approx(expected, abs=1e-4)
        assert reading.nll[0, number].sel(route="old").isnull() and reading.nll[1, number].isnull().all()
    clash = implied[0].model_copy(update={"kind": "rewrite"})
    with pytest.raises(ReadingError, match="'rewrite'"):
        read_editing(model, [edited[0].model_copy(update={"implications": (clash,)})])


def test_saved_and_loaded(tiny, edited, tmp_path):
    reading = read_editing(tiny("gpt2"), edited)
    mm.save_reading(reading, tmp_path / "reading.nc")
    loaded = mm.load_reading(tmp_path / "reading.nc")
    assert loaded.equals(reading)


def test_nonsense_is_refused(tiny, edited):
    model = tiny("llama")
    with pytest.raises(ReadingError, match="no fact"):
        read_editing(model, [])
    with pytest.raises(FactError, match="subject"):
        read_editing(model, [{"subject": "", "prompt": "A", "old": "b", "new": "c"}])
    with pytest.raises(RouteError, match=r"reads 256 at most"):
        read_editing(model, [edited[0].model_copy(update={"prompt": "France " * 300 + "is"})])
    with torch.no_grad():
        model.module.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ReadingError, match="NaN"):
        read_editing(model, edited)
