"""DyKnow (Mousavi et al. 2024): facts that change with time, in four phrasings, with all who held them and from when.

The new value is the current holder: the one without an end of term, of several the one who began last. The old value is
the outdated one: of those whose term ended the last, of several that ended together the one who began last. Distractors
are the other former holders, the latest first, then holders of other positions of the domain. An athlete's national
team comes after every club, whatever the dates: it is true too, but not what "is currently playing for" asks.

The prompt is the first phrasing that names the country, person or organization, which is the subject; the others are
paraphrases. Phrasings are in the order generic, contextualized, rephrased, whatever order the record has. Dates are not
kept.

A file of outdated answers to edit, such as ``llama2-7b_editing_dataset.json``, says subject, prompt and target itself:
they are taken from there, and old is the last holder before the target. What the model of that file answered is not in
it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from mechmask.facts.readers.records import Draft, NoFactError, Where, drafts, record_name, text, texts
from mechmask.facts.readers.rivals import with_rivals
from mechmask.facts.readers.text import Entries

NEVER_CHANGED = "nobody held it before"
NOBODY = "nobody holds it now"
_NATIONAL = re.compile(r"\b(national|Olympic)\b.*\bteam\b")
_DATE = re.compile(r"([SEP]): ([+-]\d+-\d\d-\d\d)T")


class _Term(NamedTuple):
    holder: str
    start: str
    end: str

    @property
    def rank(self) -> tuple[bool, str, str]:
        """What comes last ranks highest: clubs, then what ended later, then what began later."""
        return not _NATIONAL.search(self.holder), self.end, self.start


def from_records(records: Iterable[Any], where: Where = record_name) -> Entries:
    """Records of DyKnow as facts: those of an editing file, or what ``records_of`` gives."""
    return with_rivals(*drafts(records, _draft, "DyKnow", where), lambda draft: (draft["relation"],))


def records_of(value: Mapping[str, Any]) -> Iterator[object]:
    """The facts of the whole data set, which is a tree of domains and elements, of which some have several attributes.

    What is not as the tree should be is given as it is, for ``from_records`` to name.
    """
    for domain, elements in value.items():
        for element, found in elements.items() if isinstance(elements, Mapping) else [("", elements)]:
            if not isinstance(found, Mapping) or "questions" in found:
                yield _placed(found, domain, element, None)
                continue
            for attribute, one in found.items():
                yield _placed(one, domain, element, attribute)


def is_tree(value: object) -> bool:
    """Whether a JSON value is the whole data set."""
    if not isinstance(value, Mapping) or not value:
        return False
    elements = next(iter(value.values()))
    if not isinstance(elements, Mapping) or not elements:
        return False
    found = next(iter(elements.values()))
    inner = next(iter(found.values()), None) if isinstance(found, Mapping) and "questions" not in found else found
    return isinstance(inner, Mapping) and "questions" in inner


def _placed(found: object, domain: str, element: str, attribute: str | None) -> object:
    where = {"domain": domain, "element": element, "attribute": attribute}
    return {**found, **where} if isinstance(found, Mapping) else found


def _draft(record: Mapping[str, Any]) -> Draft:
    subject = text(record, "subject" if "subject" in record else "element")
    names = sorted(record["questions"], key=lambda name: (name != "generic", name))
    phrasings = [text(record["questions"], name) for name in names]
    naming = [phrasing for phrasing in phrasings if subject in phrasing]
    prompt = text(record, "prompt") if "prompt" in record else (naming or phrasings)[0]
    terms = [_term(answer) for answer in texts(record, "answers")]
    now = sorted((term for term in terms if not term.end), key=lambda term: term.rank)
    new = text(record, "target") if "target" in record else (now[-1].holder if now else "")
    past = sorted((term for term in terms if term.end), key=lambda term: term.rank, reverse=True)
    current = {new, *(term.holder for term in now)}
    before = [holder for holder in dict.fromkeys(term.holder for term in past) if holder not in current]
    if not new or not before:
        raise NoFactError(NEVER_CHANGED if new else NOBODY)
    attribute = record.get("attribute")
    return {
        "id": f"{text(record, 'element')}/{attribute or record['domain']}",
        "subject": subject,
        "prompt": prompt,
        "old": before[0],
        "new": new,
        "distractors": before[1:],
        "paraphrases": [phrasing for phrasing in phrasings if phrasing != prompt],
        "relation": text(record, "domain"),
        "also_true": sorted(current - {new}),
    }


def _term(answer: str) -> _Term:
    holder, _, dates = answer.partition(" |")
    found = dict(_DATE.findall(dates))
    if not holder or not found:
        raise ValueError(f"the answer {answer[:40]!r} has no date")
    return _Term(holder.strip(), found.get("S", ""), found.get("E", ""))
