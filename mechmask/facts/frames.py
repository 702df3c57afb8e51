"""Context frames: neutral text before a prompt, so that the same fact can be asked in another setting.

After Bouton (2014): what was learned in one context and contradicted in a second may return in the first, or in a
third. A frame says nothing about any fact, and ends in white space: the prompt begins as a text of its own would.
"""

from __future__ import annotations

import re

from mechmask.errors import FactError, known_names, one_message
from mechmask.facts.fact_set import FactSet

FRAMES = {
    "none": "",
    "catalogue": "Catalogue of the collection, second edition. The entries follow in no order.\n",
    "dialogue": "- Have you looked it up, as I asked?\n- I have. It is written down here.\n",
    "news": "This is the evening bulletin. A short notice before the weather.\n",
}


def frame_text(frame: str) -> str:
    r"""The text of a frame.

    Args:
        frame: a name in ``FRAMES``, or a text of your own that ends in white space.

    Raises:
        FactError: if it is neither.

    Examples:
        >>> frame_text("news")
        'This is the evening bulletin. A short notice before the weather.\n'
    """
    if frame in FRAMES:
        return FRAMES[frame]
    if frame != frame.rstrip() and frame.strip():
        return frame
    raise FactError(
        f"{frame!r} is no frame: a text would run into the prompt. {known_names(frame, FRAMES)} Or give a text that "
        "ends in a newline."
    )


def framed(facts: FactSet, frame: str) -> FactSet:
    r"""The facts with a frame before the prompt and every paraphrase; ids, roles and values stay, and so do neighbors.

    Args:
        facts: the facts.
        frame: a name in ``FRAMES``, or a text of your own that ends in white space.

    Raises:
        FactError: if it is no frame, or names a subject or value of some fact: it would not be neutral.

    Examples:
        >>> import mechmask as mm
        >>> paris = mm.Fact(subject="France", prompt="The capital of France is", old="Paris", new="Rome")
        >>> framed(mm.FactSet([paris]), "Page 2.\n")["France"].prompt
        'Page 2.\nThe capital of France is'
    """
    text = frame_text(frame)
    named = [
        f"The frame {text!r} holds {said!r} of fact {fact.id!r}, so that it is not neutral. Word it differently."
        for fact in facts
        for said in (fact.subject, *fact.values.values())
        if re.search(rf"(?<!\w){re.escape(said)}(?!\w)", text)
    ]
    if named:
        raise FactError(one_message("the frame", named))
    if not text:
        return facts
    return FactSet._selection(
        fact.asked(text + fact.prompt, tuple(text + phrasing for phrasing in fact.paraphrases)) for fact in facts
    )
