"""Free decoding against an argmax loop over plain passes, and against teacher forcing."""

from __future__ import annotations

import numpy as np
import pytest

import mechmask as mm
from mechmask.errors import RouteError
from mechmask.measure.editing import editing_scores
from mechmask.read.editing import read_editing
from mechmask.read.free_decoding import read_free_decoding


@pytest.fixture(scope="module")
def asked(facts):
    neighbor = mm.Neighbor(prompt="Die Bürgermeisterin von Łódź heißt", value="Żaneta Müller")
    return [fact.model_copy(update={"neighbors": (neighbor,) * (i % 3)}) for i, fact in enumerate(facts)]


def test_it_is_an_argmax_loop_against_the_values(taught, asked, plain):
    oracle, free = plain(taught), read_free_decoding(taught, asked, batch_size=5)
    for fact in asked:
        for number, prompt in enumerate(fact.phrasings):
            values = [oracle.value_ids(fact, route, number) for route in ("old", "new")]
            said = oracle.greedy(prompt, max(map(len, values)))
            found = free.sel(fact=fact.id).isel(prompt=number)
            assert str(found.answer.item()) == taught.tokenizer.decode(said).strip()
            for route, ids in zip(("old", "new"), values, strict=True):
                share = np.mean([token == other for token, other in zip(ids, said, strict=False)])
                assert found.token_accuracy.sel(route=route) == share
                assert found.exact.sel(route=route) == (said[: len(ids)] == ids)


def test_the_whole_value_is_said_where_teacher_forcing_has_all_its_tokens_right(taught, asked):
    reading, free = read_editing(taught, asked), read_free_decoding(taught, asked)
    np.testing.assert_array_equal(free.exact, reading.exact)
    for name in ("group", "text", "value"):
        np.testing.assert_array_equal(free[name], reading[name])
    assert 0 < free.exact.sum() < free.exact.notnull().sum()
    assert (free.token_accuracy < reading.token_accuracy).any()
    scores = editing_scores(reading.assign(token_accuracy=free.token_accuracy))
    np.testing.assert_array_equal(scores.estimate[:7], editing_scores(reading).estimate[:7])
    own = free.token_accuracy.sel(route="old")[:, np.flatnonzero(free.group == "neighborhood")]
    assert float(scores.estimate.sel(metric="specificity")) == pytest.approx(float(own.mean("prompt").mean()))


def test_a_value_that_does_not_fit_is_refused(tiny):
    model = tiny("gpt2", n_positions=16)
    fact = mm.Fact(subject="France", prompt="The capital of France is", old="Paris " * 30 + "x", new="Rome")
    with pytest.raises(RouteError, match="reads 16 at most"):
        read_free_decoding(model, [fact])
