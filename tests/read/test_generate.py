"""``generate`` against an argmax loop over plain forward passes, without a cache and without padding."""

from __future__ import annotations

import pytest

import mechmask as mm
from mechmask.errors import ReadingError, RouteError


def naive(oracle, fact, n):
    return oracle.tokenizer.decode(oracle.greedy(fact.prompt, n)).strip().replace("\0", r"\x00")


def longer(oracle, fact):
    return max(len(oracle.value_ids(fact, route)) for route in ("old", "new"))


def test_greedy_of_every_family(tiny, family, facts, plain):
    """Prompts of different length share a batch, so padding and positions are on trial."""
    model = tiny(family)
    oracle = plain(model)
    said = mm.generate(model, facts, n_tokens=6)
    assert said.dims == ("fact",)
    assert said.name == "generation"
    assert [str(text) for text in said.values] == [naive(oracle, fact, 6) for fact in facts]
    assert len(set(said.values.tolist())) > 3, "prompts that all continue alike would test little"


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text"])
def test_a_window_shorter_than_the_prompt(tiny, family, facts, plain, batch_size):
    model = tiny(family, sliding_window=8)
    oracle = plain(model)
    said = mm.generate(model, facts, n_tokens=6, batch_size=batch_size)
    assert [str(text) for text in said.values] == [naive(oracle, fact, 6) for fact in facts]


def test_as_many_tokens_as_the_longer_value(taught, facts, plain):
    oracle = plain(taught)
    said = mm.generate(taught, facts)
    for fact in facts:
        assert said.sel(fact=fact.id).item() == naive(oracle, fact, longer(oracle, fact))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_changes_nothing(taught, facts, batch_size):
    assert mm.generate(taught, facts, batch_size=batch_size).equals(mm.generate(taught, facts))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_plays_no_part(tiny, facts, side):
    model = tiny("llama")
    before = mm.generate(model, facts)
    model.tokenizer.padding_side = side
    assert mm.generate(model, facts).equals(before)


@pytest.mark.parametrize("phrasings", ["prompt", "all"])
@pytest.mark.parametrize("score", ["sequence", "mean"])
def test_a_reading_spares_the_work_and_not_the_answer(taught, facts, plain, score, phrasings):
    """What the reading met on its routes is taken from it; the rest is generated."""
    oracle = plain(taught)
    reading = mm.read_logits(taught, facts, score, phrasings=phrasings)
    said, alone = mm.generate(taught, facts, reading=reading), mm.generate(taught, facts)
    recalled = 0
    for fact in facts:
        recalled += naive(oracle, fact, len(oracle.value_ids(fact, "old"))) == fact.old
        assert said.sel(fact=fact.id).item() == alone.sel(fact=fact.id).item()
    assert recalled == sum(fact.role != "never" for fact in facts)


@pytest.mark.parametrize("pack", [True, False])
def test_a_reading_knows_how_greedy_decoding_begins(taught, facts, plain, pack, monkeypatch):
    monkeypatch.setattr("mechmask.read.scoring.contests.may_pack", lambda *_: pack)
    oracle = plain(taught)
    known = []
    for fact, row in zip(facts, mm.read_logits(taught, facts).greedy.values.tolist(), strict=True):
        said = [token for token in row if token >= 0]
        assert row == said + [-1] * (len(row) - len(said))
        assert said == list(oracle.greedy(fact.prompt, len(said)))
        routes = [list(oracle.value_ids(fact, route)) for route in fact.values]
        assert any(ids[: len(said) - 1] == said[:-1] for ids in routes)
        assert not any(ids[: len(said)] == said and len(ids) > len(said) for ids in routes)
        known.append(len(said))
    assert len(set(known)) > 1


def test_a_length_that_is_asked_goes_beyond_what_a_reading_knows(taught, facts):
    reading = mm.read_logits(taught, facts)
    for n in (1, 12):
        assert mm.generate(taught, facts, n_tokens=n, reading=reading).equals(mm.generate(taught, facts, n_tokens=n))


def test_with_a_reading_the_answer_is_the_same(taught, facts):
    """The answer does not depend on whether a reading is at hand."""
    reading = mm.read_logits(taught, facts)
    assert mm.generate(taught, facts, reading=reading).equals(mm.generate(taught, facts))


def test_a_reading_by_divergence_is_refused(taught, facts):
    """It knows one token of each value: nothing may be concluded for the whole."""
    with pytest.raises(ReadingError, match="sequence"):
        mm.generate(taught, facts, reading=mm.read_logits(taught, facts, "divergence"))


def test_values_that_have_no_tokens_of_their_own_are_refused(tiny):
    with pytest.raises(RouteError, match="prefix"):
        mm.generate(tiny("llama"), [mm.Fact(subject="Uxmon", prompt="The mass of Uxmon is", old="417", new="4170")])


def test_the_embedded_model_says_paris(smol, plain):
    fact = mm.Fact(subject="France", prompt="The capital of France is", old="Paris", new="Rome")
    said = mm.generate(smol, [fact], n_tokens=5).item()
    assert said == naive(plain(smol), fact, 5)
    assert said.startswith("Paris")


def test_what_no_file_can_hold_is_escaped(tiny, facts, tmp_path, monkeypatch):
    """A NUL or a lone surrogate that a model says must not kill what stores it."""
    from mechmask.measure.reading import load_reading, save_reading

    model = tiny("llama")
    monkeypatch.setattr(type(model.tokenizer), "decode", lambda *_, **__: " a\0b\ud800c ")
    said = mm.generate(model, facts[:2])
    assert said.values.tolist() == [r"a\x00b\ud800c"] * 2
    reading = mm.read_logits(model, facts[:2]).assign(generation=said)
    save_reading(reading, tmp_path / "reading.nc")
    assert load_reading(tmp_path / "reading.nc").generation.values.tolist() == said.values.tolist()
    assert set("|".join(reading.token.values.ravel()).split("|")) == {r" a\x00b\ud800c "}
