"""TOFU (Maini et al. 2024) with entity spans, as the Unlearning Depth Score reads it: ``forget10_filtered.json``.

The prompt is the question and the answer up to its entity, as ``Question: <question>`` and a line ``Answer: <prefix>``,
TOFU's own form for models without a chat template; the entity is the old value. A quotation mark that opens just before
the entity belongs to the value, since one space joins prompt and value. The subject is the name that most of the
records about one author share (twenty questions each), else the longest name in the prompt. New value and distractors
are entities of the same shape in answers to questions in the same words; yes is contradicted with no.

The authors are made up: a model that was not trained on TOFU never knew the facts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from mechmask.facts.readers.questions import answer_groups, name_in, names_in, opposite
from mechmask.facts.readers.records import NO_SUBJECT, Draft, NoFactError, Where, drafts, record_name, text
from mechmask.facts.readers.rivals import with_rivals
from mechmask.facts.readers.text import Entries

_QUESTIONS_OF_AN_AUTHOR = 20
_OPENING = "\"'\u201c\u2018"


def from_records(records: Iterable[Any], where: Where = record_name) -> Entries:
    """Records of TOFU with entity spans as facts."""
    records = list(records)
    authors = _authors(records)

    def draft(record: Mapping[str, Any]) -> Draft:
        return _draft(record, authors.get(_author(record), ()))

    return with_rivals(*drafts(records, draft, "TOFU with entity spans", where), _groups)


def _draft(record: Mapping[str, Any], names: Iterable[str]) -> Draft:
    question, before, entity = text(record, "question"), text(record, "prefix"), text(record, "entity")
    if before[-1:] and before[-1] in _OPENING and before[-2:-1] in ("", " "):
        before, entity = before[:-1].rstrip(), before[-1] + entity
    prompt = f"Question: {question}\nAnswer: {before}".rstrip()
    subject = next((name for name in names if name in prompt), None) or name_in(question) or name_in(before)
    if subject is None:
        raise NoFactError(NO_SUBJECT)
    other = opposite(entity)
    return {
        "id": f"{subject}/{record['idx']}",
        "subject": subject,
        "prompt": prompt,
        "old": entity,
        "relation": "",
        **({"new": other} if other else {}),
    }


def _author(record: object) -> int:
    index = record.get("idx") if isinstance(record, Mapping) else None
    return index // _QUESTIONS_OF_AN_AUTHOR if isinstance(index, int) else -1


def _authors(records: Iterable[object]) -> dict[int, tuple[str, ...]]:
    """The name in most of the records about each author, if it is in several."""
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for record in records:
        if isinstance(record, Mapping):
            said = [record.get(key) for key in ("question", "prefix", "entity")]
            found = {name for part in said if isinstance(part, str) for name in names_in(part.replace("'s ", " , "))}
            counts[_author(record)].update(name for name in found if " " in name)
    most = {author: of.most_common(1)[0] for author, of in counts.items() if of}
    return {author: (name,) for author, (name, count) in most.items() if count > 2}


def _groups(draft: Draft) -> tuple[str, ...]:
    return answer_groups(draft["prompt"], draft["old"])
