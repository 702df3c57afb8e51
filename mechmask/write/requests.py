"""A fact as an editor of keys and values reads it: its prompt bare and in contexts, the new value, the subject's end.

Published code counts the tokens of what stands before the subject, of the subject and of the prompt apart, which puts
the position elsewhere wherever tokens merge or a tokenizer begins each text with a token of its own. Here all is
tokenized together, as the model meets it, and places are found by characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mechmask.errors import RouteError
from mechmask.facts.fact import Fact
from mechmask.models.context import require_context
from mechmask.models.model import Model
from mechmask.models.routes import Contest, encode_contests
from mechmask.models.tokens import Mention, encode_mentions
from mechmask.write.contexts import BARE, in_context


@dataclass(frozen=True)
class Prompt:
    """A prompt and the value that is to follow it.

    Attributes:
        ids: of the prompt, leading special tokens included.
        subject: index in ``ids`` of the subject's last token.
        target: ids of the new value.
    """

    ids: tuple[int, ...]
    subject: int
    target: tuple[int, ...]

    @property
    def mention(self) -> Mention:
        """The prompt up to the subject's end, which is all that a causal model has seen there."""
        return Mention(self.ids[: self.subject + 1], self.subject)


@dataclass(frozen=True)
class Request:
    """A fact as an editor reads it.

    Attributes:
        fact_id: the fact's label.
        prompts: the prompt bare, then in each context.
        essence: "... is a", up to the subject's end: what the model goes on to say of the subject stays as it was.
    """

    fact_id: str
    prompts: tuple[Prompt, ...]
    essence: Mention

    @property
    def bare(self) -> Prompt:
        """The prompt without a context."""
        return self.prompts[0]


def requests(model: Model, facts: Sequence[Fact], contexts: Sequence[str]) -> list[Request]:
    """Facts as an editor reads them.

    Args:
        model: whose tokenizer cuts the texts.
        facts: the facts.
        contexts: what the prompt stands behind, besides alone.

    Raises:
        RouteError: if a fact is a conversation; listing every fact whose values have no tokens of their own or cannot
            be told apart, or which is longer than the model reads.
    """
    conversations = [fact.id for fact in facts if fact.messages]
    if conversations:
        raise RouteError(
            f"Fact {conversations[0]!r} is a conversation, and an editor puts contexts before plain prompts. Edit "
            "facts.as_plain(), or fine-tune on the conversation."
        )
    plain = [fact.model_copy(update={"distractors": (), "paraphrases": ()}) for fact in facts]
    columns = [_prompts(model, plain, context) for context in (BARE, *contexts)]
    mentions = encode_mentions(model.tokenizer, [f"{fact.subject} is a" for fact in facts], [f.subject for f in facts])
    essences = [Mention(mention.ids[: mention.position + 1], mention.position) for mention in mentions]
    made = [
        Request(fact.id, row, essence)
        for fact, essence, row in zip(facts, essences, zip(*columns, strict=True), strict=True)
    ]
    lengths = [len(prompt.ids) + len(prompt.target) for request in made for prompt in request.prompts]
    require_one_rope(model, [*lengths, *(len(request.essence.ids) for request in made)])
    return made


def _prompts(model: Model, facts: Sequence[Fact], context: str) -> list[Prompt]:
    framed = [fact.asked(in_context(fact.prompt, context)) for fact in facts]
    contests = [contest for contest in encode_contests(model.tokenizer, framed) if contest is not None]
    require_context(model, contests)
    places = [_place(contest) for contest in contests]
    if context != BARE:  # which may name the subject too, in a word of its own where the prompt does not
        subjects, begin = [fact.subject for fact in facts], len(in_context("", context))
        mentions = encode_mentions(model.tokenizer, [fact.prompt for fact in framed], subjects, begin)
        places = [mention.position for mention in mentions]
    return [
        Prompt(contest.prompt, place, contest.routes["new"]) for contest, place in zip(contests, places, strict=True)
    ]


def _place(contest: Contest) -> int:
    if contest.subject_position is None:
        raise RouteError(
            f"No token of the prompt of {contest.fact_id!r} holds the end of its subject, so there is no place to "
            "write at. Word the prompt differently."
        )
    return contest.subject_position


def require_one_rope(model: Model, lengths: Sequence[int]) -> None:
    """Refuse texts that are read together and lie on both sides of a change of rotary frequencies.

    Args:
        model: the model.
        lengths: tokens of each text.

    Raises:
        RouteError: if they do.
    """
    threshold = model.rope_threshold
    if threshold is not None and min(lengths) <= threshold < max(lengths):
        raise RouteError(
            f"Prompts, in their contexts where they have some, end on both sides of token {threshold}, beyond which "
            f"{model.name} changes its rotary frequencies. Edit short and long prompts apart."
        )
