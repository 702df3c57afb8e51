"""The stream of residuals against plain hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mechmask.models.corpora import Corpus
from mechmask.read.backends import backend_of
from mechmask.read.lenses.residuals import Stream


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2", "opt"])
def test_the_stream_is_what_hooks_see(tiny, hooked, family):
    """Sequences of several lengths in one pass, the first positions left out."""
    model = tiny(family)
    sequences = (tuple(range(5, 14)), tuple(range(40, 44)), tuple(range(70, 82)))
    stream = Stream(backend_of("transformer_lens", model), Corpus(sequences, 2, "text"))
    with torch.no_grad():
        streamed = torch.cat(list(stream.once()), dim=1)
        naive = torch.cat([hooked(model, list(ids))[:, 2:] for ids in sequences], dim=1)
        np.testing.assert_allclose(streamed, naive, atol=1e-4)
        mixed = stream.shuffled(5, torch.Generator().manual_seed(0))
        batches = torch.cat([next(mixed) for _ in range(3)], dim=1)  # 15 of the 19
    distance = torch.cdist(batches[-1], naive[-1])
    assert distance.min(1).values.max() < 1e-3
    assert len(set(distance.argmin(1).tolist())) == 15
