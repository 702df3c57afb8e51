"""The self-check: readings that are broken on purpose are refused, by errors far from those of a sound one."""

from __future__ import annotations

import pytest
import torch

import mechmask as mm
from mechmask.errors import ReadingError
from mechmask.models import packing
from mechmask.models.anatomy import Anatomy
from mechmask.models.packing import Batch
from mechmask.read.scoring.check import TOLERANCE_NATS

REFUSED = "does not agree with the model's own output"


def measured(monkeypatch, read):
    """The error of a reading in nats per token, with the check's border out of the way."""
    with monkeypatch.context() as patch:
        for dtype in TOLERANCE_NATS:
            patch.setitem(TOLERANCE_NATS, dtype, float("inf"))
        return read().attrs["check_error_nats"]


def refuses(monkeypatch, read, times=10):
    """Refused, and by ``times`` the tolerance: the border lies in the gap and not near a broken reading."""
    with pytest.raises(ReadingError, match=REFUSED):
        read()
    error = measured(monkeypatch, read)
    assert error > times * TOLERANCE_NATS[torch.float32], error


@pytest.mark.parametrize("score", ["sequence", "divergence"])
def test_a_sound_reading_is_far_below_the_tolerance(tiny, family, awkward, score):
    model = tiny(family)
    assert mm.read_logits(model, awkward, score).attrs["check_error_nats"] < 1e-4 < TOLERANCE_NATS[torch.float32] / 4
    assert mm.read_depth(model, awkward, score=score).attrs["check_error_nats"] < 1e-4


def test_a_softcap_left_out(tiny, facts, monkeypatch):
    model = tiny("gemma2")
    monkeypatch.setattr(Anatomy, "softcap", None)
    refuses(monkeypatch, lambda: mm.read_logits(model, facts))
    refuses(monkeypatch, lambda: mm.read_depth(model, facts))


def test_a_softcap_that_is_not_there(tiny, facts, monkeypatch):
    model = tiny("llama")
    monkeypatch.setattr(Anatomy, "softcap", 3.0)
    refuses(monkeypatch, lambda: mm.read_logits(model, facts))


def test_a_final_norm_left_out(tiny, family, awkward, monkeypatch):
    model = tiny(family)
    monkeypatch.setattr(Anatomy, "final_norm", torch.nn.Identity())
    refuses(monkeypatch, lambda: mm.read_depth(model, awkward, score="sequence"))


def test_a_final_norm_applied_twice(tiny, family, awkward, monkeypatch):
    model = tiny(family)
    norm = model.anatomy.final_norm
    monkeypatch.setattr(Anatomy, "final_norm", torch.nn.Sequential(norm, norm))
    refuses(monkeypatch, lambda: mm.read_depth(model, awkward, score="sequence"))


def test_a_mask_that_lets_routes_see_each_other(tiny, family, awkward, monkeypatch):
    model = tiny(family)
    monkeypatch.setattr("mechmask.models.packing.additive", lambda mask, dtype: torch.zeros(mask.shape, dtype=dtype))
    refuses(monkeypatch, lambda: mm.read_logits(model, awkward), times=3)  # measured: 0.013 nats per token and more
    refuses(monkeypatch, lambda: mm.read_depth(model, awkward, score="sequence"), times=3)


def test_a_mask_that_is_causal_over_the_row_but_not_over_the_tree(tiny, family, awkward, monkeypatch):
    """The quiet leak: each route sees those that were packed before it."""
    model = tiny(family)

    def causal(mask, dtype):
        n = mask.shape[-1]
        below = torch.ones(n, n, dtype=torch.bool).tril().expand_as(mask)
        return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~below, torch.finfo(dtype).min)

    monkeypatch.setattr("mechmask.models.packing.additive", causal)
    refuses(monkeypatch, lambda: mm.read_logits(model, awkward), times=2)  # measured: 0.0056 nats per token and more


def test_positions_counted_along_the_row(tiny, family, awkward, monkeypatch):
    model = tiny(family)
    inputs = Batch.inputs

    def counted(self, device, dtype):
        made = inputs(self, device, dtype)
        return made | {"position_ids": torch.arange(made["input_ids"].shape[1]).expand_as(made["input_ids"])}

    monkeypatch.setattr(Batch, "inputs", counted)
    refuses(monkeypatch, lambda: mm.read_logits(model, awkward))


def test_the_wrong_blocks_end(tiny, facts):
    """A lens that hands the last layer what an earlier one held."""
    model = tiny("llama")

    class Late:
        name = "late"

        def transport(self, residual, layer):
            self.first = residual if layer == 0 else self.first
            return self.first if layer == model.n_layers else residual

    with pytest.raises(ReadingError, match=REFUSED):
        mm.read_depth(model, facts, lens=Late())


@pytest.mark.parametrize("read", [mm.read_logits, mm.read_depth])
@pytest.mark.parametrize("where", ["first", "norm"])
def test_nan_weights_are_named_with_the_fact(tiny, facts, read, where):
    model = tiny("llama")
    weight = model.module.model.norm.weight if where == "norm" else model.module.model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        weight[..., 0] = torch.nan
    with pytest.raises(ReadingError, match=r"fact '.*' are NaN"):
        read(model, facts)


def test_nan_of_one_fact_alone_is_found(tiny, facts):
    """Tokens that only the Unicode fact has are poisoned: the check looks at every number read, not at its probe."""
    model = tiny("llama")  # embedding and unembedding are two matrices: only what reads those tokens is poisoned
    others = [f"{fact.prompt} {value}" for fact in facts[:-1] for value in fact.values.values()]
    odd = set(model.tokenizer("Łódź").input_ids) - {i for text in others for i in model.tokenizer(text).input_ids}
    assert odd
    with torch.no_grad():
        model.module.get_input_embeddings().weight[sorted(odd)] = torch.nan
    for read in (mm.read_logits, mm.read_margin):
        with pytest.raises(ReadingError, match="Łódź/mayor"):
            read(model, facts)
    mm.read_logits(model, facts[:-1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_half_precision_stays_within_its_own_tolerance(tiny, family, facts, dtype):
    model = tiny(family, dtype)
    assert mm.read_logits(model, facts).attrs["check_error_nats"] < TOLERANCE_NATS[dtype] / 2
    assert mm.read_depth(model, facts).attrs["check_error_nats"] < TOLERANCE_NATS[dtype] / 2


def test_what_broken_means_in_half_precision(tiny, facts, monkeypatch):
    """The wider border still stands between a sound reading and a norm or softcap that is left out."""
    for family, part, instead in [("llama", "final_norm", torch.nn.Identity()), ("gemma2", "softcap", None)]:
        model = tiny(family, torch.bfloat16)
        with monkeypatch.context() as patch:
            patch.setattr(Anatomy, part, instead)
            with pytest.raises(ReadingError, match=REFUSED):
                mm.read_depth(model, facts, score="sequence")


def longrope(tiny):
    """A Phi-3 whose positions turn otherwise beyond 16 tokens."""
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [7.0] * 4, "rope_theta": 10000.0}
    config = {"original_max_position_embeddings": 16, "max_position_embeddings": 256}
    return tiny("phi3", rope_parameters={**rope, "original_max_position_embeddings": 16}, **config)


@pytest.mark.parametrize("read", [mm.read_logits, mm.read_depth, mm.read_margin])
def test_a_long_fact_moves_no_other(tiny, facts, read):
    """Batches never cross the length at which rotary frequencies change, and each side is checked by itself."""
    model = longrope(tiny)
    fact = facts["France/capital"]
    long = fact.model_copy(update={"prompt": "He said that the king of the birds said: " + fact.prompt, "id": "long"})
    lengths = [len(model.tokenizer(f.prompt).input_ids) for f in (fact, long)]
    assert lengths[0] < 14 and lengths[1] > 16
    together = read(model, [fact, long])
    value = next(iter(together.data_vars))
    for one in (fact, long):
        alone = read(model, [one])
        assert abs(together[value].sel(fact=one.id) - alone[value].sel(fact=one.id)).max() < 1e-4
    assert together.attrs["check_error_nats"] < 1e-4


@pytest.mark.parametrize("read", [mm.read_logits, mm.read_depth])
def test_facts_that_crossed_the_threshold_would_be_refused(tiny, facts, read, monkeypatch):
    """The longest fact stays right when one batch holds both sides: the shortest shows what happened to the others."""
    model = longrope(tiny)
    fact = facts["France/capital"]
    long = fact.model_copy(update={"prompt": "He said that the king of the birds said: " + fact.prompt, "id": "long"})
    batches = packing.batches
    monkeypatch.setattr(
        "mechmask.read.scoring.contests.batches", lambda *args, threshold, **options: batches(*args, **options)
    )
    with pytest.raises(ReadingError, match="reading of fact 'France/capital' does not agree"):
        read(model, [fact, long])


def test_a_wrong_number_of_a_short_fact_is_noticed(tiny, facts, monkeypatch):
    """A reading that is wrong everywhere but at its longest fact."""
    model = tiny("llama")
    rows = [len(model.tokenizer(f.prompt).input_ids) for f in facts]
    inputs = Batch.inputs

    def shifted(self, device, dtype):
        made = inputs(self, device, dtype)
        if self.input_ids.shape[1] < max(rows):
            made["position_ids"] = made["position_ids"] * 2
        return made

    monkeypatch.setattr(Batch, "inputs", shifted)
    with pytest.raises(ReadingError, match=REFUSED):
        mm.read_logits(model, facts, "divergence", batch_size=1)


def test_the_sentence_names_the_users_own_hook(tiny, facts):
    """A hook that touches some lengths only makes packed rows and plain ones differ."""
    model = tiny("llama")

    def my_probe(_module, _args, output):
        return output * 1.5 if output.shape[0] * output.shape[1] > 100 else output

    hook = model.module.model.layers[1].mlp.register_forward_hook(my_probe)
    try:
        with pytest.raises(ReadingError, match=r"Check the forward hook .*my_probe on model\.layers\.1\.mlp"):
            mm.read_logits(model, facts, batch_size=32)
    finally:
        hook.remove()
