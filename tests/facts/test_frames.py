"""A frame stands before every phrasing and changes nothing else; one that is not neutral is refused."""

from __future__ import annotations

import pytest

from mechmask import Fact, FactSet, framed, synthetic_facts
from mechmask.errors import FactError
from mechmask.facts.frames import FRAMES, frame_text

FACTS = synthetic_facts(4, n_never=2, distractors=2, seed=1)


@pytest.mark.parametrize("frame", FRAMES)
def test_every_phrasing_is_prefixed_and_all_else_stays(frame):
    behind = framed(FACTS, frame)
    for fact, bare in zip(behind, FACTS, strict=True):
        assert fact.phrasings == tuple(FRAMES[frame] + phrasing for phrasing in bare.phrasings)
        assert fact.model_copy(update={"prompt": bare.prompt, "paraphrases": bare.paraphrases}) == bare
    assert FactSet(behind) == behind  # no problem that a fact set would find


def test_a_text_of_ones_own_ends_in_white_space():
    assert frame_text("Page 2.\n") == "Page 2.\n"
    for text in ("Page 2.", "", "  \n", "new"):
        with pytest.raises(FactError, match="is no frame"):
            frame_text(text)
    with pytest.raises(FactError, match="Did you mean 'news'"):
        frame_text("new")


def test_a_frame_that_names_a_value_or_a_subject_is_refused():
    paris = FactSet([Fact(subject="France", prompt="The capital of France is", old="Paris", new="Rome")])
    with pytest.raises(FactError, match=r"2 problems(?s:.*)'France'(?s:.*)'Rome'"):
        framed(paris, "In France, not in Rome.\n")
    assert framed(paris, "Romeo meets Juliet.\n")["France"].prompt.endswith("France is")
