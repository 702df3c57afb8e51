"""What stands before a value: a plain prompt, or a conversation in the tokenizer's own chat template.

The template says where an answer begins: two answers are rendered, and what both texts begin with is what the model has
read before it answers, whatever a template puts there (a turn's beginning, an empty block of thought, a channel). A
template that writes the date gets one date always, so that a reading is the same tomorrow.
"""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache, partial
from itertools import takewhile
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from mechmask.errors import RouteError
from mechmask.facts.fact import Example

TEMPLATE_DATE = date(2024, 7, 26)
"""Today, as templates are told: the date that Llama 3.1's template writes where it knows none."""

_TODAY = re.compile(r"""strftime_now\(\s*(?P<quote>["'])(?P<form>.*?)(?P=quote)\s*\)""")
_ANSWERS = ("Yes", "No")  # any two that begin with different letters


class Beginning(NamedTuple):
    """What a model reads before a value.

    Attributes:
        text: as text; special tokens of a chat template are spelled out in it.
        joiner: the white space between it and the value.
        is_whole: whether ``text`` holds every special token, so that the tokenizer adds none.
    """

    text: str
    joiner: str
    is_whole: bool


def beginning(tokenizer: PreTrainedTokenizerBase, example: Example) -> Beginning:
    """What stands before the value of an example.

    Args:
        tokenizer: whose chat template a conversation is put into.
        example: with the prompt and, where it has one, the conversation that the prompt ends.

    Raises:
        RouteError: if there is a conversation and the tokenizer has no chat template, or one that refuses it or hides
            where the answer begins.
    """
    if not example.messages:
        return Beginning(example.prompt, example.joiner, is_whole=False)
    turns = [{"role": message.role, "content": message.content} for message in example.messages]
    turns[-1]["content"] = example.prompt
    if tokenizer.chat_template is None:
        raise RouteError(
            f"{example.fact_id!r} is read as a conversation, and this tokenizer has no chat template. Read the plain "
            "prompt, or load the tokenizer of a chat model."
        )
    render = partial(_rendered, tokenizer, example.fact_id)
    if turns[-1]["role"] == "assistant":
        return Beginning(render(turns, continue_final_message=True), example.joiner, is_whole=True)
    texts = [render([*turns, {"role": "assistant", "content": answer}]) for answer in _ANSWERS]
    before = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False)))
    if not all(text[len(before) :].startswith(answer) for text, answer in zip(texts, _ANSWERS, strict=True)):
        raise RouteError(
            f"The chat template of this tokenizer does not show where the answer to {example.fact_id!r} begins. Write "
            "the conversation as the prompt of a fact without messages."
        )
    joiner = " " if before.endswith(" ") else ""  # a space belongs to the value's first token
    return Beginning(before.removesuffix(" "), joiner, is_whole=True)


@lru_cache(maxsize=16)
def _of_one_day(template: str, label: str) -> str:
    """A template with the date in place of calls for today's."""
    dated = _TODAY.sub(lambda call: repr(TEMPLATE_DATE.strftime(call["form"])), template)
    if "strftime_now(" in dated:
        raise RouteError(
            f"The chat template of this tokenizer asks for today's date in a way that cannot be seen, so that the "
            f"conversation of {label!r} would be another one tomorrow. Write the date into tokenizer.chat_template."
        )
    return dated


def _rendered(tokenizer: PreTrainedTokenizerBase, label: str, turns: list[dict[str, str]], **how: Any) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(
                turns,
                chat_template=_of_one_day(str(tokenizer.chat_template), label),
                tokenize=False,
                enable_thinking=False,
                date_string=TEMPLATE_DATE.strftime("%d %b %Y"),
                **how,
            )
        )
    except (TemplateError, ValueError) as error:
        raise RouteError(
            f"The chat template of this tokenizer refuses the conversation of {label!r}: {str(error).rstrip('.')}. "
            "Give turns that it takes."
        ) from None
