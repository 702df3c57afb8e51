"""``read_framed``: the contest of every fact with a context frame before its prompt.

The reading refuses a frame whose tokens run into the prompt's, or under which a value has other tokens than without:
what differed then would be the tokens and not the context.
"""

from __future__ import annotations

import xarray as xr
from transformers import PreTrainedTokenizerBase

from mechmask.errors import ReadingError, one_message
from mechmask.facts.fact_set import FactSet
from mechmask.facts.frames import frame_text, framed
from mechmask.models.model import Model
from mechmask.models.routes import encode_contests
from mechmask.models.states import Variant
from mechmask.read.logits import read_logits
from mechmask.read.scoring.contests import Facts, facts_of


def read_framed(model: Model | Variant, facts: Facts, frame: str, *, batch_size: int = 32) -> xr.Dataset:
    """Log-probability of every route of every fact behind a frame, under every phrasing.

    Args:
        model: a model or a state (``change.on(model)``).
        facts: as they are without the frame, in any form that a reading takes.
        frame: a name in ``mechmask.facts.frames.FRAMES``, or a text of your own that ends in white space.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        What ``read_logits`` returns over all phrasings, ``logprob[fact, phrasing, route]`` in nats;
        ``attrs["frame"]`` is the frame's text.

    Raises:
        FactError: if it is no frame, or names a subject or value of some fact.
        RouteError: if a value cannot be told from the prompt or from its rival.
        ReadingError: if the frame runs into the prompt as tokens, a value has other tokens behind it, or the reading
            disagrees with the model's own output.
        ChangeError: if a state's change was made on another model.
    """
    checked = facts_of(facts)
    require_frame(model.tokenizer, checked, frame)
    reading = read_logits(model, framed(checked, frame), phrasings="all", batch_size=batch_size)
    return reading.assign_attrs(frame=frame_text(frame))


def require_frame(tokenizer: PreTrainedTokenizerBase, facts: FactSet, frame: str) -> None:
    """Refuse a frame that changes more than the context.

    Args:
        tokenizer: of the model that is read.
        facts: as they are without the frame.
        frame: a name in ``FRAMES``, or a text that ends in white space.

    Raises:
        FactError: if it is no frame, or names a subject or value of some fact.
        RouteError: if a value cannot be told from the prompt or from its rival.
        ReadingError: listing every phrasing into which the frame runs, or behind which a value has other tokens.
    """
    text, behind = frame_text(frame), framed(facts, frame)
    prompts = [prompt for fact in behind for prompt in fact.phrasings]
    offsets = tokenizer(prompts, return_offsets_mapping=True)["offset_mapping"] if text else []
    problems = [
        f"The frame {text!r} runs into the prompt {prompt[len(text) :]!r}: one token holds the end of the one and the "
        "beginning of the other. End the frame in a newline."
        for prompt, spans in zip(prompts, offsets, strict=False)
        if any(start < len(text) < stop for start, stop in spans)
    ]
    for phrasing in range(max(len(fact.phrasings) for fact in facts)):
        pairs = zip(*(encode_contests(tokenizer, one, phrasing) for one in (facts, behind)), strict=True)
        problems += [
            f"Behind the frame {text!r} the values of fact {bare.fact_id!r} have other tokens than without it. Take "
            "another frame."
            for bare, there in pairs
            if bare is not None and there is not None and bare.routes != there.routes
        ]
    if problems:
        raise ReadingError(one_message("the frame", problems))
