"""``read_free_decoding``: what a model answers when no token of the value is given to it, beside teacher forcing.

Teacher forcing shows a model the right tokens so far and asks for the next; left to itself it has to find them all.
Whether it says the whole value is the same either way. The share of tokens that are right is not: after a wrong token
the right ones are less likely to follow (EasyEdit's "vanilla generation").
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from mechmask.models.context import require_context
from mechmask.models.decoding import greedy
from mechmask.models.model import Model
from mechmask.models.states import Variant, active
from mechmask.progress import progress_bar
from mechmask.read.editing import Sheet
from mechmask.read.scoring.contests import ContestSet, Facts, facts_of
from mechmask.read.scoring.labels import provenance, storable


def read_free_decoding(model: Model | Variant, facts: Facts, *, batch_size: int = 64) -> xr.Dataset:
    """Greedy continuation of every prompt that an edit is judged by, against the values that ``read_editing`` reads.

    ``editing_scores(reading.assign(token_accuracy=free.token_accuracy))`` has reliability, generalization, specificity
    and portability by free decoding.

    Args:
        model: a model or a state (``change.on(model)``).
        facts: facts in any form that a reading takes; distractors are not read.
        batch_size: prompts that are decoded at once; affects memory only.

    Returns:
        Labelled as ``read_editing``: ``token_accuracy[fact, prompt, route]``, the share of the value's tokens that
        stand at their place in the continuation; ``exact[fact, prompt, route]``, 1 where all do, else 0; NaN where
        nothing was read; and ``answer[fact, prompt]``, the continuation as text, as long as the longer value, empty
        where a fact has no such prompt.

    Raises:
        FactError: listing every problem of the facts in one message.
        RouteError: if a value merges with a prompt, or is too long for the model's context; all in one message.
        ReadingError: if there is no fact, or an implication is of a kind that names other prompts.
        ChangeError: if a state's change was made on another model.
    """
    with active(model) as now:
        sheet = Sheet.of(facts_of(facts, distractors=False))
        contests = sheet.contests(now)
        require_context(now, contests.contests)
        said = _continuations(now, contests, batch_size)
        accuracy = np.full((len(contests), 2), np.nan)
        for number, contest in enumerate(contests):
            for column, route in enumerate(("old", "new")):
                if (ids := contest.routes.get(route)) is not None:
                    accuracy[number, column] = np.mean(np.equal(said[number][: len(ids)], ids))
        answers = np.array([storable(str(now.tokenizer.decode(tokens)).strip()) for tokens in said], dtype=object)
        reading = contests.dataset(
            {
                "token_accuracy": (("route",), accuracy),
                "exact": (("route",), np.where(np.isnan(accuracy), np.nan, accuracy == 1)),
                "answer": ((), answers.astype(str)),
            },
            route=["old", "new"],
        )
        return sheet.labelled(reading).assign_attrs(provenance(now, model))


def _continuations(model: Model, contests: ContestSet, batch_size: int) -> list[list[int]]:
    """As many tokens behind each prompt as its longest value has; prompts of like length go together."""
    longest = [max(map(len, contest.routes.values())) for contest in contests]
    order = sorted(range(len(contests)), key=lambda number: (longest[number], len(contests[number].prompt)))
    said: list[list[int]] = [[] for _ in contests]
    starts = range(0, len(order), batch_size)
    with progress_bar("decoding", len(starts)) as tick, model.inference():
        for start in starts:
            some = order[start : start + batch_size]
            prompts = [contests[number].prompt for number in some]
            for number, tokens in zip(some, greedy(model, prompts, [longest[number] for number in some]), strict=True):
                said[number] = tokens
            tick()
    return said
