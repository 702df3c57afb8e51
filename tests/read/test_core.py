"""Core parameters against a sort of all differences by numpy."""

from __future__ import annotations

import numpy as np
import pytest

import mechmask as mm
from mechmask.errors import ReadingError


def differences(first, second):
    """Every projection's difference by its name."""
    prefix = f"{first.anatomy.layout.blocks}."
    weights = [dict(model.module.named_parameters()) for model in (first, second)]
    names = [projection.name for projection in first.anatomy.projections()]
    old, new = ({n: w[f"{n}.weight"].detach().numpy() for n in names} for w in weights)
    return {name.removeprefix(prefix): np.abs(new[name] - old[name]) for name in names}


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("share", [0.001, 0.05, 1.0])
def test_the_core_is_the_largest_share_over_all_tensors(tiny, family, share):
    first, second = tiny(family, seed=1), tiny(family, seed=2)
    core = mm.core_parameters(first, second, share)
    moves = differences(first, second)
    ranked = np.sort(np.concatenate([move.ravel() for move in moves.values()]))[::-1]
    n = max(1, int(share * len(ranked)))
    assert core.n_weights == len(ranked) and core.threshold == pytest.approx(ranked[n - 1])
    for name, move in moves.items():
        np.testing.assert_array_equal(core.masks[name].numpy(), move >= ranked[n - 1])
    assert core.n == (ranked >= ranked[n - 1]).sum()
    assert float(core.by_block().sum()) == pytest.approx(1)


def test_overlap_is_the_jaccard_index_beside_chance(tiny):
    base, others = tiny("llama", seed=1), [tiny("llama", seed=seed) for seed in (2, 3)]
    cores = [mm.core_parameters(base, other, 0.1) for other in others]
    flat = [np.concatenate([mask.numpy().ravel() for mask in core.masks.values()]) for core in cores]
    found, by_chance = mm.core_overlap(*cores)
    assert found == pytest.approx((flat[0] & flat[1]).sum() / (flat[0] | flat[1]).sum())
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(200):
        other = rng.permutation(flat[1])
        drawn.append((flat[0] & other).sum() / (flat[0] | other).sum())
    assert by_chance == pytest.approx(np.mean(drawn), rel=0.02)
    assert mm.core_overlap(cores[0], cores[0])[0] == 1


def test_of_an_adapter_the_product_counts_and_untouched_blocks_have_none(tiny, facts):
    model = tiny("llama")
    config = mm.FinetuneConfig(steps=3, lr=1e-2, rank=2, layers=(1,))
    change = mm.finetune(model, facts[:3].install_examples(), config)
    core = mm.core_parameters(model, change.on(model), 0.01)
    shares = core.by_block().sum("projection")
    assert shares.sel(block=1) == pytest.approx(1) and float(shares.sel(block=[0, 2]).sum()) == 0
    whole = mm.core_parameters(model, change.on(model), 1.0)
    assert whole.n < whole.n_weights and whole.threshold > 0


def test_what_has_no_core_is_refused(tiny):
    model = tiny("llama")
    with pytest.raises(ReadingError, match="Nothing moved"):
        mm.core_parameters(model, model)
    with pytest.raises(ReadingError, match="no share of the weights"):
        mm.core_parameters(model, tiny("llama", seed=3), 0)
    with pytest.raises(ReadingError, match="The models differ"):
        mm.core_parameters(model, tiny("gpt2"))
    one = mm.core_parameters(model, tiny("llama", seed=3))
    other = mm.core_parameters(tiny("gpt2", seed=1), tiny("gpt2", seed=2))
    with pytest.raises(ReadingError, match="of different weights"):
        mm.core_overlap(one, other)
