"""zsRE (Levy et al. 2017) as in MEND (Mitchell et al. 2022), which ROME and EasyEdit edit towards different ends.

The prompt is the plain question, as in ROME's evaluation, the paraphrase its rephrasing; the neighbor is a question of
Natural Questions with a question mark after it, again as ROME asks it. Values compete with answers of the same shape to
questions in the same words, since this form names no relation.

* ``zsre_counterfactual``, as EasyEdit edits: old is the first answer, new is ``alt``. A question of EasyEdit's
  portability file is an implication.
* ``zsre_true``, as ROME edits: new is the first answer. What the model says instead is not in the file, and old has to
  be some other value: it is ``alt``, the only value that every record has and that is of the right kind and wrong. What
  is read of old there is about an arbitrary wrong answer, not about one that a model held.

A record whose ``alt`` is one of its answers is left out of both, so that both have the same facts; so is one whose
``alt`` is empty, as in EasyEdit, or one of whose values is the beginning of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mechmask.facts.readers.questions import answer_groups
from mechmask.facts.readers.records import (
    ONE_VALUE,
    Draft,
    NoFactError,
    Where,
    drafts,
    folded,
    number_of,
    record_name,
    text,
    texts,
)
from mechmask.facts.readers.rivals import with_rivals
from mechmask.facts.readers.text import Entries


def counterfactual_from_records(records: Iterable[Any], where: Where = record_name) -> Entries:
    """Records of zsRE as facts that are contradicted with the counterfactual."""
    return with_rivals(*drafts(records, _contradicted, "zsRE", where), _groups)


def true_from_records(records: Iterable[Any], where: Where = record_name) -> Entries:
    """Records of zsRE as facts whose new value is the true answer."""
    return with_rivals(*drafts(records, _corrected, "zsRE", where), _groups)


def _contradicted(record: Mapping[str, Any]) -> Draft:
    draft = _draft(record)
    follows = record.get("portability")
    if follows is None:
        return draft
    asked = {"prompt": text(follows, "New Question"), "value": text(follows, "New Answer"), "kind": "portability"}
    return {**draft, "implications": [asked]}


def _corrected(record: Mapping[str, Any]) -> Draft:
    draft = _draft(record)
    true = draft["old"]
    return {
        **draft,
        "old": draft["new"],
        "new": true,
        "also_true": [one for one in draft["also_true"] if folded(one) != folded(true)],
    }


def _draft(record: Mapping[str, Any]) -> Draft:
    answers, alternative = texts(record, "answers"), text(record, "alt")
    subject, prompt = text(record, "subject"), text(record, "src")
    if folded(alternative) in map(folded, answers):
        raise NoFactError(ONE_VALUE)
    beside = [{"prompt": f"{text(record, 'loc')}?", "value": text(record, "loc_ans")}] if record.get("loc") else []
    return {
        "id": f"{subject}/{number_of(record, prompt)}",
        "subject": subject,
        "prompt": prompt,
        "old": answers[0],
        "new": alternative,
        "paraphrases": [text(record, "rephrase")] if record.get("rephrase") else [],
        "neighbors": beside,
        "also_true": answers,
    }


def _groups(draft: Draft) -> tuple[str, ...]:
    return answer_groups(draft["prompt"], draft["old"])
