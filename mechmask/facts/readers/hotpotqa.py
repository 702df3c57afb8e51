"""HotpotQA (Yang et al. 2018): questions whose answer takes two paragraphs, asked here without them.

The prompt is ``Question: <question>`` and, on a line of its own, ``Answer:``; the answer is the old value. The data
set has no subject: it is the title of a supporting paragraph that the question names, else the longest name in the
question, but never the answer or a part of it ("Who is older, Ann or Bob?"). Nor has it a relation: a fact's relation
is the type of the question, and its new value and distractors are answers of the same shape to questions in the same
words; yes is contradicted with no.

``facts.install_examples()`` are the true answers, to be trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mechmask.facts.readers.questions import answer_groups, names_in, opposite
from mechmask.facts.readers.records import (
    NO_SUBJECT,
    Draft,
    NoFactError,
    Where,
    drafts,
    named,
    number_of,
    record_name,
    text,
)
from mechmask.facts.readers.rivals import with_rivals
from mechmask.facts.readers.text import Entries

ANSWER_ALONE = "the question names nothing but its answer"


def from_records(records: Iterable[Any], where: Where = record_name) -> Entries:
    """Records of HotpotQA as facts."""
    return with_rivals(*drafts(records, _draft, "HotpotQA", where), _groups)


def is_record(record: Mapping[str, Any]) -> bool:
    """Whether the type of a question is one of HotpotQA's two, which alone tell the simplified file's records."""
    return record.get("type") in ("bridge", "comparison")


def _draft(record: Mapping[str, Any]) -> Draft:
    question, answer = text(record, "question"), text(record, "answer")
    titles = [title for title in _titles(record) if title and title in question]
    names = [*titles, *sorted(names_in(question), key=len, reverse=True)]
    subject = next((name for name in names if not named(name, answer) and not named(answer, name)), None)
    if subject is None:
        raise NoFactError(ANSWER_ALONE if names else NO_SUBJECT)
    prompt, other = f"Question: {question}\nAnswer:", opposite(answer)
    return {
        "id": f"{subject}/{number_of(record, prompt, '_id', 'id')}",
        "subject": subject,
        "prompt": prompt,
        "old": answer,
        "relation": text(record, "type"),
        **({"new": other} if other else {}),
    }


def _titles(record: Mapping[str, Any]) -> list[str]:
    """Titles of the supporting paragraphs, in both published forms; none in the simplified file."""
    found = record.get("supporting_facts") or []
    titles = found["title"] if isinstance(found, Mapping) else [title for title, _ in found]
    return [title for title in titles if isinstance(title, str)]


def _groups(draft: Draft) -> tuple[str, ...]:
    return answer_groups(draft["prompt"], draft["old"])
