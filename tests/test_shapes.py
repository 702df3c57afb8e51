"""Shapes and types of arrays are checked at run time in tests: a signature that is not true fails."""

from __future__ import annotations

import pytest


def test_a_tensor_of_another_shape_fails_the_test():
    import torch

    from mechmask.read.scoring.unembed import TokenScores

    good = TokenScores(torch.zeros(3), torch.zeros(2, dtype=torch.long))
    assert good.best.shape == (2,)
    with pytest.raises(TypeError, match="logprob"):
        TokenScores(torch.zeros(3, 1), torch.zeros(2, dtype=torch.long))
    with pytest.raises(TypeError, match="best"):
        TokenScores(torch.zeros(3), torch.zeros(2))


def test_two_arguments_that_share_an_axis_have_to_agree():
    import torch

    from mechmask.models.packing import _behind

    assert _behind(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, dtype=torch.long), 4).shape == (2, 7)
    with pytest.raises(TypeError):
        _behind(torch.zeros(2, 3, dtype=torch.long), torch.zeros(3, dtype=torch.long), 4)
