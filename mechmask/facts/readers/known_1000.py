"""known_1000 (Meng et al. 2022): facts that GPT-2 XL completes correctly, the ones of ROME's causal tracing.

The attribute is the old value, after the record's own prompt, which ends just before it. The data set has no
counterfactual and no distractors: both are other attributes of the same relation in the file. It has no paraphrases and
no neighbors either; its relations are ParaRel's, so that ``mechmask.facts.pararel.with_pararel`` adds both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mechmask.facts.readers.records import Draft, Where, drafts, record_name, text
from mechmask.facts.readers.rivals import with_rivals
from mechmask.facts.readers.text import Entries


def from_records(records: Iterable[Any], where: Where = record_name) -> Entries:
    """Records of known_1000 as facts."""
    return with_rivals(*drafts(records, _draft, "known_1000", where))


def _draft(record: Mapping[str, Any]) -> Draft:
    subject, relation = text(record, "subject"), text(record, "relation_id")
    return {
        "id": f"{subject}/{relation}/{record['known_id']}",
        "subject": subject,
        "prompt": text(record, "prompt"),
        "old": text(record, "attribute"),
        "relation": relation,
    }
