"""``ContestSet``: contests by position, folded into facts and phrasings."""

from __future__ import annotations

import numpy as np
import pytest

import mechmask as mm
from mechmask.errors import ReadingError, RouteError
from mechmask.models.routes import encode_contests
from mechmask.read.scoring.contests import ContestSet


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama")


def test_every_contest_folds_into_its_place(model, awkward):
    contests = ContestSet.of(model, awkward, "all")
    n = max(len(fact.phrasings) for fact in awkward)
    assert len(contests) == sum(len(fact.phrasings) for fact in awkward) < n * len(awkward)
    assert contests.dims == ("fact", "phrasing")
    folded = contests.fold(np.arange(len(contests), dtype=float))
    for phrasing in range(n):
        for row, contest in enumerate(encode_contests(model.tokenizer, awkward, phrasing)):
            place = folded[row, phrasing]
            assert np.isnan(place) if contest is None else contests[int(place)] == contest


@pytest.mark.parametrize(
    ("values", "missing"),
    [(np.ones(1), np.nan), (np.ones(1, int), -1), (np.array([True]), False), (np.array(["a"]), "")],
)
def test_what_is_missing_is_marked(model, awkward, values, missing):
    contests = ContestSet.of(model, awkward, "all")
    folded = contests.fold(np.repeat(values, len(contests))[:, None])
    lacks = awkward.ids.index("France/capital"), len(awkward["France/capital"].phrasings)
    np.testing.assert_array_equal(folded[lacks], [missing])


def test_prompts_alone_have_no_phrasing(model, awkward):
    contests = ContestSet.of(model, awkward)
    assert contests.dims == ("fact",)
    values = np.arange(2 * len(awkward), dtype=float).reshape(-1, 2)
    np.testing.assert_array_equal(contests.fold(values), values)
    assert list(contests) == encode_contests(model.tokenizer, awkward)


def test_a_part_has_the_contests_of_its_facts(model, awkward):
    part = ContestSet.of(model, awkward, "all").part([3, 1])
    chosen = [awkward[3], awkward[1]]
    again = ContestSet.of(model, chosen, "all")
    assert part.facts == again.facts and part.contests == again.contests and part.places == again.places


def test_rivals_are_the_tokens_at_the_divergence(model, facts, plain):
    oracle = plain(model)
    contests = ContestSet.of(model, facts)
    for batch in contests.batches(model, "divergence", 4):
        for number, rivals in zip(batch.divergence, contests.rivals(batch).tolist(), strict=True):
            fact = facts[number]
            n = oracle.diverging(fact)
            assert rivals == [oracle.value_ids(fact, route)[n] for route in ("old", "new")]


def test_wrong_arguments(model, facts):
    with pytest.raises(ReadingError, match=r"phrasings='promt' is not known\. Did you mean 'prompt'"):
        ContestSet.of(model, facts, "promt")
    with pytest.raises(ReadingError, match="no fact to read"):
        ContestSet.of(model, [])


def test_what_does_not_fit_into_the_context_is_refused(tiny, facts):
    """By length and limit, before a pass; GPT-2 would end in an IndexError and Llama would read on in silence."""
    fact = facts["France/capital"]
    long = fact.model_copy(update={"prompt": "of the king " * 90 + fact.prompt, "id": "long"})
    for family in ("gpt2", "llama", "gpt_neox"):
        model = tiny(family)
        for read in (mm.read_logits, mm.read_depth, mm.read_margin, mm.attribute, mm.known_facts):
            with pytest.raises(RouteError, match=r"'long' takes \d+ tokens .* reads 256 at most"):
                read(model, [fact, long])
        with pytest.raises(ReadingError, match="reads 256 at most"):
            mm.generate(model, [fact], n_tokens=300)
