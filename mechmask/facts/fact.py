"""What is contested: one fact with its old and its new value, as plain text.

A prompt ends just before the value, a value is bare, and the fact's joiner stands between them: one space where it
names no other. How they become tokens is decided in ``mechmask.models.routes``; nothing here knows of a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import field_validator, model_validator
from pydantic_core import PydanticCustomError

from mechmask.facts.message import Message, conversation_problems
from mechmask.facts.record import Record, unreadable_texts
from mechmask.notebook import card, quoted

Role = Literal["contradicted", "control", "never"]
Magnitude = Literal["", "mild", "strong", "format"]


class Example(Record):
    """A prompt and the value that training asks for after it.

    Attributes:
        prompt: ends just before the value, without a trailing space.
        value: what is to follow, bare.
        fact_id: the fact that it belongs to, for error messages.
        joiner: what stands between prompt and value, as a fact has it.
        messages: a conversation whose last turn says the prompt, as a fact has it.
    """

    _NEWER: ClassVar = ("joiner", "messages")

    prompt: str
    value: str
    fact_id: str = ""
    joiner: str = " "
    messages: tuple[Message, ...] = ()

    def texts(self) -> Iterator[tuple[str, str]]:
        """Name and content of every text."""
        yield from [("prompt", self.prompt), ("value", self.value), ("fact_id", self.fact_id), ("joiner", self.joiner)]
        yield from (("message", message.content) for message in self.messages)


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
        old_aliases: other spellings of the old value that are as right, such as ``Lutetia``: readings of the output and
            of depth take the value's probability over all its spellings together; nothing is trained on them.
        new_aliases: the same of the new value.
        joiner: what stands between prompt and value, in every prompt of the fact: one space, or other white space, or
            nothing (Chinese; ``costs $`` and ``5``).
        messages: a conversation that ends just before the value: with the user's question, or with the beginning of the
            assistant's answer. It is read, and trained, in the tokenizer's own chat template; its last turn says the
            prompt, or a paraphrase in its place.
        id: the fact's label in every result; ``subject/relation`` where none is given.

    Examples:
        >>> fact = Fact(subject="France", prompt="The capital of France is", old="Paris", new="Rome",
        ...             distractors=("Berlin", "Madrid"), relation="capital")
        >>> fact.id
        'France/capital'
        >>> fact.values
        {'old': 'Paris', 'new': 'Rome', 'distractor_0': 'Berlin', 'distractor_1': 'Madrid'}
        >>> asked = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
        >>> Fact(subject="France", messages=asked, old="Paris", new="Rome").prompt
        'What is the capital of France? Answer in one word.'
    """

    _NEWER: ClassVar = (
        *("generation_prompts", "attribute_prompts", "implications", "stands_for"),
        *("old_aliases", "new_aliases", "joiner", "messages"),
    )

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
    old_aliases: tuple[str, ...] = ()
    new_aliases: tuple[str, ...] = ()
    joiner: str = " "
    messages: tuple[Message, ...] = ()
    id: str = ""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: object) -> object:
        """The label where there is none, and the prompt that the last message says."""
        if not isinstance(data, dict):
            return data
        if data.get("messages") and "prompt" not in data:
            data = {**data, "prompt": _said_last(data["messages"])}
        if not data.get("id") and isinstance(data.get("subject"), str):
            relation = data.get("relation")
            data = {**data, "id": f"{data['subject']}/{relation}" if relation else data["subject"]}
        return data

    def _repr_html_(self) -> str:
        """Its texts whole; of the prompts that metrics ask for, how many there are."""
        texts = {"subject": self.subject, "relation": self.relation, "prompt": self.prompt}
        texts |= {"old": self.old, "new": self.new, "role": self.role, "magnitude": self.magnitude}
        texts |= {"distractors": quoted(self.distractors), "paraphrases": quoted(self.paraphrases)}
        counts = {
            "neighbors": len(self.neighbors) or "",
            "generation prompts": len(self.generation_prompts) or "",
            "attribute prompts": len(self.attribute_prompts) or "",
            "implications": len(self.implications) or "",
        }
        return card(f"Fact({self.id!r})", {**texts, **counts, "stands for": self.stands_for})

    @property
    def values(self) -> dict[str, str]:
        """Route name to value: ``old``, ``new``, ``distractor_0`` and so on."""
        numbered = {f"distractor_{i}": value for i, value in enumerate(self.distractors)}
        return {"old": self.old, "new": self.new, **numbered}

    @property
    def spellings(self) -> dict[str, tuple[str, ...]]:
        """Route name to the spellings of its value, the value itself first."""
        aliases = {"old": self.old_aliases, "new": self.new_aliases}
        return {route: (value, *aliases.get(route, ())) for route, value in self.values.items()}

    @property
    def phrasings(self) -> tuple[str, ...]:
        """The prompt, then its paraphrases."""
        return (self.prompt, *self.paraphrases)

    def example(self, prompt: str, value: str) -> Example:
        """A prompt of this fact and a value after it, joined as the fact joins them, in its conversation if it has one.

        Args:
            prompt: one of the fact's prompts, or of its neighbors'.
            value: what follows, bare.
        """
        return Example(prompt=prompt, value=value, fact_id=self.id, joiner=self.joiner, messages=self.messages)

    def asked(self, prompt: str, paraphrases: tuple[str, ...] = (), **fields: object) -> Fact:
        """The fact under another prompt, which its conversation, if it has one, then ends with.

        Args:
            prompt: the new prompt; it is not checked.
            paraphrases: what takes the place of its paraphrases.
            fields: other fields that change with it.
        """
        last = [message.model_copy(update={"content": prompt}) for message in self.messages[-1:]]
        update = {"prompt": prompt, "paraphrases": paraphrases, "messages": (*self.messages[:-1], *last)}
        return self.model_copy(update={**update, **fields})

    def texts(self) -> Iterator[tuple[str, str]]:
        """Name and content of every text, neighbors and implications included."""
        yield from [("id", self.id), ("subject", self.subject), ("relation", self.relation), ("prompt", self.prompt)]
        yield from [("stands_for", self.stands_for), ("joiner", self.joiner)]
        yield from self.values.items()
        yield from (("alias", alias) for alias in (*self.old_aliases, *self.new_aliases))
        yield from (("message", message.content) for message in self.messages)
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
        problems += conversation_problems(self.id, self.messages, self.prompt)
        problems += self._joiner_problems()
        return [*problems, *self._prompt_problems(), *self._beside_problems(), *self._value_problems()]

    @property
    def _ends_at_the_value(self) -> bool:
        """Whether the joiner comes next behind a prompt, so that white space there would double it."""
        return bool(self.joiner) and not (self.messages and self.messages[-1].role == "user")

    def _joiner_problems(self) -> Iterator[str]:
        if self.joiner.strip():
            yield (
                f"The joiner {self.joiner!r} of fact {self.id!r} holds more than white space. Put the text at the end "
                "of the prompt."
            )
        elif self.joiner != " " and self.messages and self.messages[-1].role == "user":
            yield (
                f"Fact {self.id!r} has a joiner and messages that end with the user's: what stands before the "
                "assistant's answer is the chat template's. Leave the joiner out."
            )

    def _prompt_problems(self) -> Iterator[str]:
        if not self.subject.strip():
            yield f"Fact {self.id!r} has no subject. Name what the fact is about."
        for kind, prompt in self._prompts():
            if not prompt.strip():
                yield f"{_a(kind)} of fact {self.id!r} is empty. Give the text that comes before the value."
            elif self._ends_at_the_value and prompt != prompt.rstrip():
                yield (
                    f"The {kind} {prompt!r} of fact {self.id!r} ends in white space. "
                    f"Remove it: mechmask joins prompt and value with {_shown(self.joiner)}."
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
            elif (self._ends_at_the_value and prompt != prompt.rstrip()) or value != value.strip():
                yield (
                    f"The {kind} {prompt!r} of fact {self.id!r} has white space before or after its value. "
                    f"Remove it: mechmask joins prompt and value with {_shown(self.joiner)}."
                )

    def _value_problems(self) -> Iterator[str]:
        for route, value in ((route, value) for route, values in self.spellings.items() for value in values):
            if not value.strip():
                yield f"The value {route!r} of fact {self.id!r} is empty. Give the text that the model would say."
            elif value != value.strip():
                yield (
                    f"The value {value!r} ({route}) of fact {self.id!r} begins or ends with white space. "
                    f"Give it bare: mechmask joins prompt and value with {_shown(self.joiner)}."
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
        for alias in (*self.old_aliases, *self.new_aliases):
            if alias in seen:
                yield (
                    f"The alias {alias!r} of fact {self.id!r} is already its old or new value, a distractor or another "
                    "alias. Give each spelling once."
                )
            seen.add(alias)


def _said_last(messages: object) -> object:
    """What the last of some unchecked messages says; empty where that is not to be seen."""
    last = messages[-1] if isinstance(messages, list | tuple) else None
    return last.get("content", "") if isinstance(last, dict) else getattr(last, "content", "")


def _shown(joiner: str) -> str:
    return "one space" if joiner == " " else repr(joiner) if joiner else "nothing"


def _a(kind: str) -> str:
    return f"An {kind}" if kind[0] in "ai" else f"A {kind}"
