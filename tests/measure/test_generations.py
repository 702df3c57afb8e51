"""GE against scipy's entropy and RS against plain vectors, on texts by hand."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from scipy.spatial.distance import cosine

from mechmask.errors import ReadingError
from mechmask.measure.generations import (
    generation_entropy,
    generation_scores,
    reference_score,
    text_entropy,
)

TEXTS = [["the cat sat on the cat and the cat sat", "one two three four"], ["Rome is old. Rome is large!", ""]]


def _generations(texts=TEXTS, **coordinates):
    return xr.Dataset({"text": (("fact", "generation"), texts)}, {"fact": ["a", "b"][: len(texts)], **coordinates})


def _ge(words):
    entropies = []
    for n in (2, 3):
        grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
        entropies.append(stats.entropy(np.unique(grams, return_counts=True)[1], base=2) if grams else 0.0)
    return (2 * entropies[0] + 4 * entropies[1]) / 6


def test_entropy_of_word_sequences():
    found = generation_entropy(_generations())
    first = np.mean([_ge(text.split()) for text in TEXTS[0]])
    second = _ge(["Rome", "is", "old", ".", "Rome", "is", "large", "!"])
    assert found.values == pytest.approx([first, second]) and found.dims == ("fact",)


def test_a_text_that_repeats_one_word_has_none():
    assert text_entropy("a " * 50) == text_entropy("a") == text_entropy("") == 0
    assert text_entropy("don't don't don't don't") == 0
    assert text_entropy("a b c d e") == pytest.approx((2 * 2 + 4 * np.log2(3)) / 6)


def test_a_fact_without_texts_has_no_entropy():
    found = generation_entropy(_generations([["", ""], ["a b c d", ""]]))
    assert np.isnan(found[0]) and found[1] > 0


def test_reference_score_is_the_cosine_of_weighted_counts():
    references = {"a": ["the cat was here", "a dog sat on the mat"], "b": "Rome was large, Rome was old."}
    corpus = ["the cat", "the dog and Rome", "Rome was old", "large is large"]
    terms = ["the", "cat", "dog", "and", "rome", "was", "old", "large", "is"]
    df = [2, 1, 1, 1, 2, 1, 1, 1, 1]
    idf = np.log(5 / (1 + np.array(df))) + 1

    def vector(text):
        words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
        return np.array([words.count(term) for term in terms]) * idf

    found = reference_score(_generations(), references, corpus)
    joined = {"a": " ".join(references["a"]), "b": references["b"]}
    expected = [1 - cosine(vector(" ".join(of)), vector(joined[fact])) for of, fact in zip(TEXTS, "ab", strict=True)]
    assert found.values == pytest.approx(expected) and 0 < expected[0] < 1


def test_reference_score_of_the_same_and_of_other_texts():
    same = reference_score(_generations(), {"a": TEXTS[0], "b": "nothing here", "other": "Rome and the cat"})
    assert same.values == pytest.approx([1, 0])
    only = reference_score(_generations(), {"a": TEXTS[0]})
    assert np.isnan(only[1])


def test_an_empty_reference_is_none_and_texts_without_a_term_have_nothing_in_common():
    for empty in ("", " ", "! ?", [], [""], "unheard of"):
        found = reference_score(_generations(), {"a": empty, "b": "Rome"}, ["Rome is old", "the cat"])
        assert np.isnan(found[0]) and found[1] > 0
    with pytest.raises(ReadingError, match="No fact of this reading has a reference"):
        reference_score(_generations(), {"a": "", "b": [""]})
    first, second = (reference_score(_generations(), {"a": "the cat", "b": "Rome", **of}) for of in ({}, {"c": ""}))
    assert first.equals(second)
    mute = _generations([["! ? !", ""], ["Rome", ""]])
    assert reference_score(mute, {"a": "the cat", "b": "Rome"}).values == pytest.approx([0, 1])


def test_the_table_has_students_intervals():
    generations = _generations()
    table = generation_scores(generations, {"a": "the cat", "b": "Rome"}, level=0.9)
    values = generation_entropy(generations).values
    expected = stats.t.interval(0.9, 1, values.mean(), stats.sem(values))
    row = table.sel(metric="generation_entropy")
    found = [float(row[end]) for end in ("estimate", "low", "high")]
    assert found == pytest.approx([values.mean(), *expected]) and int(row.n) == 2
    assert table.abbreviation.values.tolist() == ["GE", "RS"] and table.attrs["words"]
    assert generation_scores(generations).metric.values.tolist() == ["generation_entropy"]


@pytest.mark.parametrize(
    ("said", "damaged"),
    [
        ("text over fact and generation", lambda one: one.isel(generation=0).assign_coords(generation=[0])),
        ("text over fact and generation", lambda one: xr.concat([one, one], "state")),
        ("text over fact and generation", lambda one: one.assign(text=one.text.str.len())),
        ("nan stands where a text should", lambda one: one.assign(text=one.text.astype(object).where(one.text != ""))),
    ],
)
def test_damaged_texts_are_refused_in_a_sentence(said, damaged):
    broken = damaged(_generations())
    with pytest.raises(ReadingError, match=said):
        generation_scores(broken)


def test_references_that_are_no_texts_are_refused():
    with pytest.raises(ReadingError, match="Give a dictionary"):
        reference_score(_generations(), ["text"])
    with pytest.raises(ReadingError, match="3 stands where"):
        reference_score(_generations(), {"a": [3]})
    with pytest.raises(ReadingError, match="3 stands where"):
        reference_score(_generations(), {"a": "cat"}, [3])


def test_nonsense_is_refused():
    with pytest.raises(ReadingError, match="needs text"):
        generation_entropy(xr.Dataset({"nll": ("fact", [1.0])}))
    with pytest.raises(ReadingError, match="No fact of this reading has a reference"):
        reference_score(_generations(), {"c": "text"})
    with pytest.raises(ReadingError, match="no word of two letters"):
        reference_score(_generations(), {"a": "text"}, ["! ?"])
    with pytest.raises(ReadingError, match="no level"):
        generation_scores(_generations(), level=2)
