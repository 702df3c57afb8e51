"""CounterFact (Meng et al. 2022): a JSON list of records with a requested rewrite, its paraphrases and its neighbors.

The true target is the old value, the counterfactual the new one. Distractors, which the data set lacks, are other
targets of the same relation in the file, those of most records first. Neighbors are prompts of which the true target is
right, attribute prompts those of which the counterfactual is. MEMIT's ``multi_counterfact`` and the Hub's
``azhx/counterfact`` have the same records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mechmask.facts.readers.records import Draft, Where, drafts, record_name, text, texts
from mechmask.facts.readers.rivals import with_rivals
from mechmask.facts.readers.text import Entries


def from_records(records: Iterable[Any], where: Where = record_name) -> Entries:
    """Records of CounterFact as facts."""
    return with_rivals(*drafts(records, _draft, "CounterFact", where))


def _draft(record: Mapping[str, Any]) -> Draft:
    rewrite = record["requested_rewrite"]
    subject, relation, true = (
        text(rewrite, "subject"),
        text(rewrite, "relation_id"),
        text(rewrite["target_true"], "str"),
    )
    return {
        "id": f"{subject}/{relation}/{record['case_id']}",
        "subject": subject,
        "prompt": text(rewrite, "prompt").replace("{}", subject),
        "old": true,
        "new": text(rewrite["target_new"], "str"),
        "paraphrases": texts(record, "paraphrase_prompts"),
        "neighbors": [{"prompt": prompt, "value": true} for prompt in texts(record, "neighborhood_prompts")],
        "generation_prompts": texts(record, "generation_prompts"),
        "attribute_prompts": texts(record, "attribute_prompts"),
        "relation": relation,
    }
