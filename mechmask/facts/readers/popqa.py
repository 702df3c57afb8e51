"""PopQA (Mallen et al. 2023): questions about subjects of known popularity, one template a relation.

The prompt is ``Q: <question> A:``, as in the evaluation of its authors, and the object the old value; its aliases are
true too and never stand against it. New value and distractors are other objects of the same relation in the file. How
popular subject and object are stays in the file: the number at the end of a fact's id is the record's own.

Records come in two forms: flat, as the Hub's ``akariasai/PopQA``, and with everything under ``metadata``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mechmask.facts.readers.records import Draft, Where, drafts, record_name, text
from mechmask.facts.readers.rivals import with_rivals
from mechmask.facts.readers.text import Entries


def from_records(records: Iterable[Any], where: Where = record_name) -> Entries:
    """Records of PopQA as facts."""
    return with_rivals(*drafts(records, _draft, "PopQA", where))


def _draft(record: Mapping[str, Any]) -> Draft:
    triple = record.get("metadata") or record
    subject, relation = text(triple, "subj"), text(triple, "prop")
    answers = record["golden_answers"] if "golden_answers" in record else record["possible_answers"]
    return {
        "id": f"{subject}/{relation}/{record['id']}",
        "subject": subject,
        "prompt": f"Q: {text(record, 'question')} A:",
        "old": text(triple, "obj"),
        "relation": relation,
        "also_true": tuple(map(str, json.loads(answers) if isinstance(answers, str) else answers)),
    }
