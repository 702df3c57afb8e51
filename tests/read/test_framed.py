"""A framed reading is the reading of framed facts; a frame that runs into the prompt as tokens is refused."""

from __future__ import annotations

import numpy as np
import pytest

from mechmask import framed, read_framed, read_logits
from mechmask.errors import ReadingError
from mechmask.facts.frames import FRAMES
from mechmask.read.framed import require_frame


def test_it_is_the_reading_of_framed_facts(tiny, facts):
    model = tiny("llama")
    reading = read_framed(model, facts, "news")
    by_hand = read_logits(model, framed(facts, "news"), phrasings="all")
    np.testing.assert_array_equal(reading.logprob, by_hand.logprob)
    assert reading.fact.values.tolist() == list(facts.ids) and reading.attrs["frame"] == FRAMES["news"]
    bare = read_framed(model, facts, "none")
    np.testing.assert_array_equal(bare.logprob, read_logits(model, facts, phrasings="all").logprob)
    assert not np.allclose(reading.margin, bare.margin)


@pytest.mark.parametrize("name", ["tokenizer", "bos_tokenizer", "metaspace_tokenizer"])
def test_shipped_frames_leave_prompts_and_values_their_tokens(request, facts, name):
    tokenizer = request.getfixturevalue(name)
    known = facts if name != "metaspace_tokenizer" else facts[:9]  # the others hold characters that it lacks
    for frame in FRAMES:
        if name == "metaspace_tokenizer" and frame != "none":
            continue  # it was trained on other letters
        require_frame(tokenizer, known, frame)


def test_a_frame_that_ends_in_a_space_runs_into_the_prompt(tokenizer, facts):
    """Byte-level tokenizers join a space and the word behind it."""
    require_frame(tokenizer, facts[:9], "Said of it:\n")
    with pytest.raises(ReadingError, match="runs into the prompt"):
        require_frame(tokenizer, facts[:9], "Said of it: ")


def test_batch_size_changes_nothing(tiny, facts):
    one, many = (read_framed(tiny("llama"), facts, "news", batch_size=n).logprob for n in (1, 64))
    np.testing.assert_allclose(one, many, atol=1e-4)
