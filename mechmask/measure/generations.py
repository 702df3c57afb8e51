"""Fluency and consistency of what an edited model writes: GE and RS of Meng et al. (2022, ROME, section 3.4).

GE is the weighted mean of the entropies of two- and three-word sequences, (2 H2 + 4 H3) / 6 in bits: text that repeats
itself has little. RS is the cosine between TF-IDF vectors of what is written and of reference texts about things that
have the new value. Two departures, both named in the results: words are found by a regular expression where the
published code has nltk's tokenizer, and the inverse document frequencies are those of the texts given here where the
published code has a fixed file of Wikipedia's. So GE and RS compare states of a model here with each other, and come
near the printed numbers without being them. The papers print both times 100.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.reading import require
from mechmask.measure.record_mean import mean_over_records
from mechmask.measure.sample import require_level
from mechmask.measure.statistics import Interval, several_draws

WORDS = r"\w+(?:['\u2019]\w+)*|[^\w\s]"
"""A word of GE: letters and digits, apostrophes inside them, or one sign of punctuation."""

TERMS = r"\b\w\w+\b"
"""A term of RS: two letters or digits and more, in lower case; one sign alone is none (scikit-learn's default)."""

_WEIGHTS = {2: 2 / 6, 3: 4 / 6}


def generation_entropy(generations: xr.Dataset) -> xr.DataArray:
    """GE: how varied the word sequences of each fact's texts are; ``generation_scores`` gives mean and interval.

    Args:
        generations: ``text[fact, generation]``, as ``read_generations`` returns it; an empty text is none.

    Returns:
        ``[fact]``, mean over texts of (2 H2 + 4 H3) / 6 in bits, without unit of length; 0 for a text that repeats one
        word, and for one that is too short to have such sequences. NaN where a fact has no text.

    Raises:
        ReadingError: if there is no such variable.

    Examples:
        >>> import xarray as xr
        >>> texts = xr.Dataset({"text": (("fact", "generation"), [["a a a a a"], ["a b c d e"]])}, {"fact": ["x", "y"]})
        >>> generation_entropy(texts).values.round(3)
        array([0.   , 1.723])
    """
    return _by_fact(generations, lambda texts, _: float(np.mean([text_entropy(text) for text in texts])), "entropy")


def text_entropy(text: str) -> float:
    """(2 H2 + 4 H3) / 6 of one text's words, in bits."""
    words = re.findall(WORDS, text)
    sequences = {n: Counter(zip(*(words[i:] for i in range(n)), strict=False)) for n in _WEIGHTS}
    return sum(weight * _entropy(sequences[n]) for n, weight in _WEIGHTS.items())


def reference_score(
    generations: xr.Dataset,
    references: Mapping[str, str | Sequence[str]],
    corpus: Iterable[str] | None = None,
) -> xr.DataArray:
    """RS: how much a fact's texts, joined, are about what its reference texts, joined, are about.

    Args:
        generations: ``text[fact, generation]``, as ``read_generations`` returns it; an empty text is none.
        references: by fact, texts about things of which its new value is true; further facts are passed over.
        corpus: texts whose terms count, and by how rare they are among them: ``log((1 + texts) / (1 + texts with the
            term)) + 1``; an empty text is none. All references by default.

    Returns:
        ``[fact]``, cosine of the two vectors of term counts times that weight: 0 for texts without a common term, 1 for
        the same terms as often. NaN where a fact has no text, or no reference with a term of the corpus, so that there
        is nothing to compare with. ``generation_scores`` gives mean and interval.

    Raises:
        ReadingError: if there are no texts, the references are not texts by fact, no fact has one, or the corpus holds
            no term.
    """
    require(generations, "A reference score", variables=("text",), dims=("fact", "generation"))
    known = _references(references)
    if not any(known.get(str(fact)) for fact in generations.fact.values):
        raise ReadingError("No fact of this reading has a reference text. Give them by the facts' ids.")
    weights = _rarity([text for of in known.values() for text in of] if corpus is None else _texts(corpus))

    def score(texts: Sequence[str], fact: str) -> float:
        reference = _terms(known.get(fact, []), weights)
        return _cosine(_terms(texts, weights), reference) if reference else math.nan

    return _by_fact(generations, score, "reference_score")


def generation_scores(
    generations: xr.Dataset,
    references: Mapping[str, str | Sequence[str]] | None = None,
    corpus: Iterable[str] | None = None,
    level: float = 0.95,
) -> xr.Dataset:
    """GE, and RS where references are given, as a table like that of ``editing_scores``.

    Args:
        generations: ``text[fact, generation]``, as ``read_generations`` returns it.
        references: by fact, texts about things of which its new value is true.
        corpus: texts that say how rare a term is; all references by default.
        level: of the intervals.

    Returns:
        ``estimate``, ``low``, ``high`` (of ``mean_over_records``; ``generation_entropy`` in bits, ``reference_score`` a
        cosine without unit) and the count ``n`` of facts over ``metric``, with ``abbreviation[metric]``; attributes
        name what is a word and what a term.

    Raises:
        ReadingError: if there are no texts, no fact has a reference, or the level is not between 0 and 1.
    """
    require_level(level, "A table of generations")
    values = {"generation_entropy": ("GE", generation_entropy(generations))}
    if references is not None:
        values["reference_score"] = ("RS", reference_score(generations, references, corpus))
    found = [mean_over_records(value, level) for _, value in values.values()]
    fields = {name: ("metric", [getattr(one, name) for one in found]) for name in Interval._fields}
    labels = {"metric": list(values), "abbreviation": ("metric", [short for short, _ in values.values()])}
    unit = "draws" if several_draws(generations) else "facts"
    return xr.Dataset(fields, labels).assign_attrs(level=level, unit=unit, words=WORDS, terms=TERMS)


def _by_fact(generations: xr.Dataset, score: Callable[[Sequence[str], str], float], name: str) -> xr.DataArray:
    """A number of each fact's texts and its id ``[fact]``; NaN where it has none."""
    what = f"The {name.replace('_', ' ')} of texts"
    require(generations, what, variables=("text",), dims=("fact", "generation"))
    if set(generations.text.dims) != {"fact", "generation"} or generations.text.dtype.kind not in "UO":
        raise ReadingError(f"{what} needs text over fact and generation. Give what read_generations returned.")
    texts = [_texts(row) for row in generations.text.transpose("fact", "generation").values]
    facts = generations.fact.values
    values = [score(some, str(fact)) if some else math.nan for some, fact in zip(texts, facts, strict=True)]
    kept = {label: of for label, of in generations.coords.items() if of.dims == ("fact",)}
    return xr.DataArray(values, kept, ("fact",), name)


def _references(references: Mapping[str, str | Sequence[str]]) -> dict[str, list[str]]:
    """The reference texts of each fact, those that are not empty."""
    if not isinstance(references, Mapping):
        raise ReadingError("References are texts by the ids of facts. Give a dictionary.")
    return {name: _texts([of] if isinstance(of, str) else of) for name, of in references.items()}


def _texts(values: Iterable[object]) -> list[str]:
    """Those of some texts that are not empty.

    Raises:
        ReadingError: if one is no text.
    """
    if isinstance(values, str):
        return [values]
    texts = list(values)
    for text in texts:
        if not isinstance(text, str):
            raise ReadingError(f"{text!r} stands where a text should. Give texts, an empty one where there is none.")
    return [str(text) for text in texts if str(text)]


def _entropy(counts: Counter) -> float:
    n = sum(counts.values())
    return sum(count / n * math.log2(n / count) for count in counts.values())


def _rarity(corpus: Sequence[str]) -> dict[str, float]:
    """The weight of every term of a corpus."""
    documents = Counter(term for text in corpus for term in set(re.findall(TERMS, text.lower())))
    if not documents:
        raise ReadingError("The corpus of a reference score holds no word of two letters. Give texts.")
    return {term: math.log((1 + len(corpus)) / (1 + n)) + 1 for term, n in documents.items()}


def _terms(texts: Sequence[str], weights: Mapping[str, float]) -> dict[str, float]:
    counts = Counter(re.findall(TERMS, " ".join(texts).lower()))
    return {term: n * weights[term] for term, n in counts.items() if term in weights}


def _cosine(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    if not first:  # texts without a term
        return 0.0
    lengths = [math.sqrt(sum(weight**2 for weight in of.values())) for of in (first, second)]
    return sum(weight * second.get(term, 0.0) for term, weight in first.items()) / (lengths[0] * lengths[1])
