"""One turn of a conversation, and what a conversation that ends just before a value has to look like.

How turns become the text that a model reads is the tokenizer's chat template's to say: ``mechmask.models.chat``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from mechmask.facts.record import Record

ChatRole = Literal["system", "user", "assistant"]


class Message(Record):
    """One turn of a conversation.

    Attributes:
        role: who speaks: ``system`` (first only), ``user`` or ``assistant``.
        content: what is said.
    """

    role: ChatRole
    content: str


def conversation_problems(label: str, messages: Sequence[Message], prompt: str) -> Iterator[str]:
    """What keeps a fact's messages from being a conversation that ends just before its value, one sentence each.

    Args:
        label: the fact's id.
        messages: the turns; none is no problem.
        prompt: the fact's prompt, which is what the last turn says.
    """
    if not messages:
        return
    *before, last = messages
    if last.role == "system":
        yield (
            f"The messages of fact {label!r} end with the system's. End with the user's question, or with how the "
            "assistant's answer begins."
        )
    elif last.content != prompt:
        yield (
            f"The prompt {prompt!r} of fact {label!r} is not what its last message says, {last.content!r}. Leave the "
            "prompt out: it is the last message."
        )
    if any(message.role == "system" for message in messages[1:]):
        yield f"The messages of fact {label!r} have the system speak after the first turn. Let it speak first or not."
    if any(not message.content.strip() for message in before):
        yield f"A message of fact {label!r} is empty. Give what is said, or leave the message out."
    for one, other in pairwise(messages):
        if one.role == other.role:
            yield f"In the messages of fact {label!r} the {one.role} speaks twice in a row. Make one message of both."
            return
