"""A frozen norm against the norm itself, at the inputs at which it was frozen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mechmask.errors import ModelError
from mechmask.models.final_norm import frozen


def test_a_norm_of_another_kind_is_refused():
    class LargestIsOne(nn.Module):
        def forward(self, x):
            return x.clamp(-1, 1)

    with pytest.raises(ModelError, match="neither a LayerNorm nor an RMSNorm"):
        frozen(LargestIsOne(), torch.randn(3, 8))


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.LayerNorm(8, elementwise_affine=False), nn.RMSNorm(8)])
def test_a_frozen_norm_is_the_norm_where_it_is_frozen(norm):
    generator = torch.Generator().manual_seed(0)
    inputs, direction = (torch.randn(shape, generator=generator) for shape in [(3, 8), (3, 2, 8)])
    for parameter in norm.parameters():
        nn.init.normal_(parameter, generator=generator)
    held = frozen(norm, inputs)
    there = torch.einsum("nw,ntw->nt", inputs, held.pull_back(direction)) + direction @ held.bias
    torch.testing.assert_close(there, torch.einsum("nw,ntw->nt", norm(inputs), direction))
