"""CounterFact (Meng et al. 2022): a JSON list of records with a requested rewrite, its paraphrases and its neighbors.

The true target is the old value, the counterfactual the new one. Distractors, which the data set lacks, are other
targets of the same relation in the file, those of most records first. Prompts that ask for attributes or free text are
left to the data set's own metrics.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mechmask.facts.readers.text import Entries, file_text, json_value

_DISTRACTORS = 8


def read_counterfact(path: Path) -> Entries:
    """The records of a CounterFact file as facts.

    Raises:
        FactError: if the file cannot be read as text.
    """
    read = Entries()
    try:
        records = json_value(file_text(path))
    except ValueError as error:
        read.problems.append(f"{path.name} is not JSON ({error}). Give the file as it is published.")
        return read
    if not isinstance(records, list):
        read.problems.append(f"{path.name} does not hold a list of records. Give the file as it is published.")
        return read
    fields = []
    for number, record in enumerate(records, 1):
        try:
            fields.append(_fields(record))
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            lacking = f" ({error.args[0]!r} is missing)" if isinstance(error, KeyError) else ""
            read.problems.append(
                f"Record {number} of {path.name} is not one of CounterFact{lacking}. A file of your own facts ends in "
                ".jsonl or .csv."
            )
    targets = _targets(fields)
    read.entries.extend({**one, "distractors": _distractors(one, targets[one["relation"]])} for one in fields)
    return read


def _fields(record: Mapping[str, Any]) -> dict[str, Any]:
    rewrite = record["requested_rewrite"]
    subject, true, new = rewrite["subject"], rewrite["target_true"]["str"], rewrite["target_new"]["str"]
    if not all(isinstance(text, str) for text in (subject, true, new, rewrite["relation_id"])):
        raise TypeError("subject, targets and relation are text")
    return {
        "id": f"{subject}/{rewrite['relation_id']}/{record['case_id']}",
        "subject": subject,
        "prompt": rewrite["prompt"].replace("{}", subject),
        "old": true,
        "new": new,
        "paraphrases": [text.strip() for text in record.get("paraphrase_prompts", ())],
        "neighbors": [{"prompt": text.strip(), "value": true} for text in record.get("neighborhood_prompts", ())],
        "relation": rewrite["relation_id"],
    }


def _targets(fields: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The targets of each relation, the most frequent first."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for one in fields:
        counts[one["relation"]].update([one["old"], one["new"]])
    return {relation: sorted(of, key=lambda value: (-of[value], value)) for relation, of in counts.items()}


def _distractors(one: Mapping[str, Any], targets: Iterable[str]) -> list[str]:
    """Targets of which none begins as another, or as old or new: as tokens they could not be told apart."""
    taken = [one["old"], one["new"]]
    for value in targets:
        if len(taken) == _DISTRACTORS + 2:
            break
        if not any(value.startswith(other) or other.startswith(value) for other in taken):
            taken.append(value)
    return taken[2:]
