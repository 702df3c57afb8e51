"""What is contested: one fact with its old and its new value, as plain text.

A prompt ends just before the value, a value is bare, and one space joins them. How they become tokens is
decided in ``mechmask.models.routes``; nothing here knows of a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import field_validator, model_validator
from pydantic_core import PydanticCustomError

from mechmask.facts.record import Record, unreadable_texts

Role = Literal["contradicted", "control", "never"]
Magnitude = Literal["", "mild", "strong", "format"]


class Example(Record):
    """A prompt and the value that training asks for after it.

    Attributes:
        prompt: ends just before the value, without a trailing space.
        value: what is to follow, bare.
        fact_id: the fact that it belongs to, for messages.
    """

    prompt: str
    value: str
    fact_id: str = ""

    def texts(self) -> Iterator[tuple[str, str]]:
        """Name and content of every text."""
        yield from [("prompt", self.prompt), ("value", self.value), ("fact_id", self.fact_id)]


class Neighbor(Record):
    """A prompt about another subject that a change must leave alone, and the correct value there.

    Attributes:
        prompt: ends just before the value, without a trailing space.
        value: the correct value, bare.
    """

    prompt: str
    value: str


class Implication(Record):
    """A prompt whose answer changes with the fact: what a model that believes the new value says there.

    Attributes:
        prompt: ends just before the value, without a trailing space.
        value: what follows from the new value, bare.
        kind: how it follows, in the data set's word, such as ``reasoning``, ``subject_aliasing`` or ``reverse``
            (subject and object swapped); never blank, since readings group prompts by it.
    """

    prompt: str
    value: str
    kind: str = "portability"

    @field_validator("kind")
    @classmethod
    def _named(cls, kind: str) -> str:
        if not kind.strip():
            raise PydanticCustomError("blank", "it is blank")
        return kind


class Fact(Record):
    """A subject, a prompt that ends just before the value, the old value and the new one.

    Attributes:
        subject: as it is written in the prompt.
        prompt: ends just before the value, without a trailing space.
        old: the value that the model holds before the change, bare.
        new: the value that contradicts it, bare.
        role: ``contradicted``, ``control`` (re-presented with its old value) or ``never`` (held out of all training).
        distractors: values of the same type as ``old`` that no training shows.
        paraphrases: other prompts that end just before the same value.
        neighbors: prompts about other subjects, each with the correct value there.
        generation_prompts: beginnings of free text about the subject, for the fluency and consistency of an edit.
        attribute_prompts: prompts about other subjects of which ``new`` is the correct value.
        implications: prompts whose answer follows from the new value, with that answer.
        relation: the property or relation, such as ``mass`` or ``capital``.
        magnitude: how far the new value is from the old one, where that is graded.
        stands_for: of a pseudo-subject the id of the fact in whose prompts it was put; empty for other facts.
        id: the fact's label in every result; ``subject/relation`` where none is given.

    Examples:
        >>> fact = Fact(subject="France", prompt="The capital of France is", old="Paris", new="Rome",
        ...             distractors=("Berlin", "Madrid"), relation="capital")
        >>> fact.id
        'France/capital'
        >>> fact.values
        {'old': 'Paris', 'new': 'Rome', 'distractor_0': 'Berlin', 'distractor_1': 'Madrid'}
    """

    subject: str
    prompt: str
    old: str
    new: str
    role: Role = "contradicted"
    distractors: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    neighbors: tuple[Neighbor, ...] = ()
    generation_prompts: tuple[str, ...] = ()
    attribute_prompts: tuple[str, ...] = ()
    implications: tuple[Implication, ...] = ()
    relation: str = ""
    magnitude: Magnitude = ""
    stands_for: str = ""
    id: str = ""

    @model_validator(mode="before")
    @classmethod
    def _label(cls, data: object) -> object:
        if isinstance(data, dict) and not data.get("id") and isinstance(data.get("subject"), str):
            relation = data.get("relation")
            return {**data, "id": f"{data['subject']}/{relation}" if relation else data["subject"]}
        return data

    @property
    def values(self) -> dict[str, str]:
        """Route name to value: ``old``, ``new``, ``distractor_0`` and so on."""
        numbered = {f"distractor_{i}": value for i, value in enumerate(self.distractors)}
        return {"old": self.old, "new": self.new, **numbered}

    @property
    def phrasings(self) -> tuple[str, ...]:
        """The prompt, then its paraphrases."""
        return (self.prompt, *self.paraphrases)

    def texts(self) -> Iterator[tuple[str, str]]:
        """Name and content of every text, neighbors and implications included."""
        yield from [("id", self.id), ("subject", self.subject), ("relation", self.relation), ("prompt", self.prompt)]
        yield "stands_for", self.stands_for
        yield from self.values.items()
        yield from (("paraphrase", phrasing) for phrasing in self.paraphrases)
        for neighbor in self.neighbors:
            yield from [("neighbor's prompt", neighbor.prompt), ("neighbor's value", neighbor.value)]
        yield from (("generation prompt", prompt) for prompt in self.generation_prompts)
        yield from (("attribute prompt", prompt) for prompt in self.attribute_prompts)
        for implied in self.implications:
            yield from [("implication's prompt", implied.prompt), ("implication's value", implied.value)]
            yield "implication's kind", implied.kind

    def problems(self) -> list[str]:
        """What is wrong with this fact as text, one sentence each; empty if nothing is."""
        problems = unreadable_texts(f"fact {self.id!r}", self.texts())
        return [*problems, *self._prompt_problems(), *self._beside_problems(), *self._value_problems()]

    def _prompt_problems(self) -> Iterator[str]:
        if not self.subject.strip():
            yield f"Fact {self.id!r} has no subject. Name what the fact is about."
        for kind, prompt in self._prompts():
            if not prompt.strip():
                yield f"{_a(kind)} of fact {self.id!r} is empty. Give the text that comes before the value."
            elif prompt != prompt.rstrip():
                yield (
                    f"The {kind} {prompt!r} of fact {self.id!r} ends in white space. "
                    "Remove it: mechmask joins prompt and value with one space."
                )
        if self.subject.strip() and self.prompt.strip() and self.subject not in self.prompt:
            yield (
                f"The subject {self.subject!r} does not occur in the prompt {self.prompt!r}. "
                "Write the subject as the prompt does."
            )
        if len(set(self.phrasings)) < len(self.phrasings):
            yield f"Fact {self.id!r} has the same phrasing twice. Keep one of them."

    def _prompts(self) -> Iterator[tuple[str, str]]:
        yield "prompt", self.prompt
        yield from (("paraphrase", prompt) for prompt in self.paraphrases)
        yield from (("generation prompt", prompt) for prompt in self.generation_prompts)
        yield from (("attribute prompt", prompt) for prompt in self.attribute_prompts)

    def _beside_problems(self) -> Iterator[str]:
        """What is wrong with the prompts that bring a value of their own."""
        beside = [*(("neighbor", one) for one in self.neighbors), *(("implication", one) for one in self.implications)]
        for kind, one in beside:
            prompt, value = one.prompt, one.value
            if not prompt.strip() or not value.strip():
                yield f"{_a(kind)} of fact {self.id!r} lacks its prompt or its value. Give both."
            elif prompt != prompt.rstrip() or value != value.strip():
                yield (
                    f"The {kind} {prompt!r} of fact {self.id!r} has white space before or after its value. "
                    "Remove it: mechmask joins prompt and value with one space."
                )

    def _value_problems(self) -> Iterator[str]:
        for route, value in self.values.items():
            if not value.strip():
                yield f"The value {route!r} of fact {self.id!r} is empty. Give the text that the model would say."
            elif value != value.strip():
                yield (
                    f"The value {value!r} ({route}) of fact {self.id!r} begins or ends with white space. "
                    "Give it bare: mechmask joins prompt and value with one space."
                )
        if self.old == self.new:
            yield (
                f"Old and new value of fact {self.id!r} are both {self.old!r}. "
                "Give a new value that contradicts the old one."
            )
        seen: set[str] = {self.old, self.new}
        for distractor in self.distractors:
            if distractor in seen:
                yield (
                    f"The distractor {distractor!r} of fact {self.id!r} is already its old or new value or "
                    "another distractor. Give values that differ from each other."
                )
            seen.add(distractor)


def _a(kind: str) -> str:
    return f"An {kind}" if kind[0] in "ai" else f"A {kind}"
