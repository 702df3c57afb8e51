"""Rounding to narrower types against the same written entry by entry, the published codes, and what it promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mechmask.errors import ChangeError
from mechmask.write.rounding import PRECISIONS, nf4_codes, rounded

# Dettmers et al. 2023, appendix E
PUBLISHED = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]


def naive_int8(weight):
    rows = []
    for row in weight.tolist():
        largest = max(map(abs, row))
        rows.append([round(v * 127 / largest) * largest / 127 if largest else 0.0 for v in row])
    return torch.tensor(rows)


def naive_nf4(weight):
    values, found = weight.flatten().tolist(), []
    for start in range(0, len(values), 64):
        block = values[start : start + 64]
        largest = max(map(abs, block))
        for value in block:
            found.append(min(PUBLISHED, key=lambda code: abs(code * largest - value)) * largest)
    return torch.tensor(found).view_as(weight)


def naive_bfloat16(weight):
    """The upper half of the bits, rounded to the even one."""
    bits = weight.numpy().view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return torch.from_numpy(bits.astype(np.uint32).view(np.float32))


NAIVE = {"bfloat16": naive_bfloat16, "int8": naive_int8, "nf4": naive_nf4}


def random_weight(outputs, inputs, seed, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(outputs, inputs, generator=generator) * torch.rand(outputs, 1, generator=generator)


def largest_of(weight, precision):
    """Of what shares a scale with each entry, ``[output, input]``."""
    if precision == "bfloat16":
        return weight.abs()
    if precision == "int8":
        return weight.abs().amax(1, keepdim=True).expand_as(weight)
    blocks = weight.flatten().split(64)
    return torch.cat([block.abs().max().expand_as(block) for block in blocks]).view_as(weight)


def test_the_codes_are_the_published_ones_and_half_are_above_zero():
    assert nf4_codes() == pytest.approx(PUBLISHED, abs=6e-8)
    assert sum(code > 0 for code in nf4_codes()) == 8


def test_the_codes_are_quantiles_as_scipy_has_them():
    ends = [stats.norm.ppf(np.linspace(0.9677083, 0.5, n + 1)[:-1]) for n in (8, 7)]
    wanted = np.sort([*ends[0], 0, *-ends[1]]) / ends[0][0]
    assert nf4_codes() == pytest.approx(wanted, abs=2e-7)  # probabilities are float32 where they were published


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(8, 64), (3, 50), (1, 1), (5, 7), (2, 129)])
def test_it_is_the_same_entry_by_entry(precision, shape):
    weight = random_weight(*shape, seed=sum(shape))
    torch.testing.assert_close(rounded(weight, precision), NAIVE[precision](weight), rtol=1e-6, atol=0)


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=60, deadline=None)
@given(outputs=st.integers(1, 9), inputs=st.integers(1, 150), seed=st.integers(0, 10**6), power=st.integers(-20, 20))
def test_twice_is_once_within_its_bound_and_the_sign_stays(precision, outputs, inputs, seed, power):
    weight = random_weight(outputs, inputs, seed, 2.0**power)
    once = rounded(weight, precision)
    assert torch.equal(rounded(once, precision), once)
    bound = {"bfloat16": 1 / 256, "int8": 1 / 254, "nf4": 0.152}[precision] * largest_of(weight, precision)
    assert ((once - weight).abs() <= bound * (1 + 1e-6)).all()
    assert ((once * weight) >= 0).all()
    assert torch.equal(rounded(-weight, "int8"), -rounded(weight, "int8"))


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_the_largest_of_each_scale_comes_back_and_zeros_stay(precision):
    weight = random_weight(4, 64, seed=2)
    weight[1] = 0
    weight[2, 5] = -9
    once = rounded(weight, precision)
    where = weight.abs().argmax(1)
    assert torch.equal(once[range(4), where].abs(), weight[range(4), where].abs())
    assert torch.equal(once[1], torch.zeros(64)) and (once[2, 5] == -9 or precision == "nf4")


def test_there_are_as_many_values_as_bits_allow():
    weight = random_weight(1, 64, seed=1)
    assert len(rounded(weight, "nf4").unique()) <= 16
    assert len(rounded(random_weight(1, 5000, seed=1), "int8").unique()) <= 255
    assert math.log2(len(rounded(random_weight(1, 5000, seed=1), "int8").unique())) > 7


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_it_keeps_the_weights_own_type(precision, dtype):
    weight = random_weight(4, 64, seed=3).to(dtype)
    assert rounded(weight, precision).dtype == dtype
    if dtype == torch.bfloat16:
        assert torch.equal(rounded(weight, "bfloat16"), weight)


@pytest.mark.parametrize("name", ["float32", "int4", "NF4"])
def test_another_precision_is_refused_with_those_that_there_are(name):
    with pytest.raises(ChangeError, match=r"not rounded to .*Known are bfloat16, int8, nf4\. For float32"):
        rounded(torch.ones(2, 2), name)
