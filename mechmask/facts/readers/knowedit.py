"""KnowEdit (Zhang et al. 2024) and the files of EasyEdit that have its fields: prompt, ground truth and new target.

The first ground truth is the old value and the first target the new one; what else the record gives of either, be it an
alias in an inner list, is no distractor. A record of which old and new value share a name is left out. ``locality``
questions are neighbors, ``portability`` questions implications of the kind that the data set names; each comes with its
first answer. A record without ground truth, as in ``wiki_recent``, says nothing of what was held before and is left
out. Distractors are other values of the file: of the same relation where records name one, else of the same shape in
answers to prompts in the same words.
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
    bare,
    drafts,
    folded,
    number_of,
    record_name,
    text,
)
from mechmask.facts.readers.rivals import with_rivals
from mechmask.facts.readers.text import Entries

NO_OLD = "the record says nothing of what was held before"


def from_records(records: Iterable[Any], where: Where = record_name) -> Entries:
    """Records of KnowEdit as facts."""
    return with_rivals(*drafts(records, _draft, "KnowEdit", where), _groups)


def _draft(record: Mapping[str, Any]) -> Draft:
    subject, prompt = text(record, "subject"), text(record, "prompt")
    truths, targets = _answers(record.get("ground_truth")), _answers(record["target_new"])
    if not truths:
        raise NoFactError(NO_OLD)
    if not set(map(folded, truths)).isdisjoint(map(folded, targets)):
        raise NoFactError(ONE_VALUE)
    new = next(iter(targets), "")
    rephrased = next((record[key] for key in ("rephrase_prompt", "rephrase") if record.get(key)), [])
    beside = [*_asked(record.get("locality")), *_flat(record, "locality")]
    return {
        "id": f"{subject}/{number_of(record, prompt, 'case_id')}",
        "subject": subject,
        "prompt": prompt,
        "old": truths[0],
        "new": new,
        "paraphrases": [bare(one, "rephrase_prompt") for one in _listed(rephrased)],
        "neighbors": [{"prompt": prompt, "value": value} for _, prompt, value in beside],
        "implications": [
            {"prompt": prompt, "value": value, "kind": kind}
            for kind, prompt, value in (*_asked(record.get("portability")), *_flat(record, "portability"))
        ],
        "relation": record.get("relation_id") or record.get("relation") or "",
        "also_true": [*truths[1:], *(alias for alias in targets if folded(alias) != folded(new))],
    }


def _groups(draft: Draft) -> tuple[str, ...]:
    return (draft["relation"],) if draft["relation"] else answer_groups(draft["prompt"], draft["old"])


def _asked(kinds: Mapping[str, Any] | None) -> Iterable[tuple[str, str, str]]:
    """Kind, prompt and answer of every question that has both."""
    for kind, questions in (kinds or {}).items():
        for question in questions or ():
            prompt, value = _first(question["prompt"]), _first(question["ground_truth"])
            if prompt and value:
                yield kind.lower(), prompt, value


def _flat(record: Mapping[str, Any], kind: str) -> Iterable[tuple[str, str, str]]:
    """The one question of EasyEdit's older files, in two columns."""
    prompt, value = (_first(record.get(f"{kind}_{part}")) for part in ("prompt", "ground_truth"))
    if prompt and value:
        yield kind, prompt, value


def _first(answers: object) -> str:
    return next(iter(_answers(answers)), "")


def _answers(answers: object) -> list[str]:
    """The answers of a text, a list of texts or a list of lists of texts, each with its aliases behind it."""
    if answers is None:
        return []
    flat = (alias for one in _listed(answers) for alias in _listed(one) if alias)
    return [one for one in (bare(alias, "answer") for alias in flat) if one]


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]
