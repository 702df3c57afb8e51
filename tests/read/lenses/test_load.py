"""Lenses from the hub and from the cache, of models and of states; readings by name."""

from __future__ import annotations

import copy
import json
import sys
from contextlib import contextmanager

import pytest
import torch
import xarray as xr
from peft import LoraConfig, get_peft_model

import mechmask as mm
from mechmask.errors import ReadingError
from mechmask.models.states import Variant
from mechmask.read.lenses import load
from mechmask.read.lenses.affine import RidgeLens
from mechmask.read.lenses.config import LensConfig
from mechmask.read.lenses.fit import fit_lens
from mechmask.read.lenses.lens import LENSES, lens_of
from mechmask.read.lenses.load import cached_lens, load_lens


@pytest.fixture
def quick(monkeypatch, small, tmp_path):
    """An empty cache, and settings under which a lens is a matter of a tenth of a second."""
    monkeypatch.setenv("MECHMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(load, "LensConfig", lambda: LensConfig(**small))
    return tmp_path / "cache"


def test_a_lens_of_another_shape_is_refused(fitted, saved, plain_lens, tiny):
    model, lens = fitted
    deeper, wider = tiny("llama", num_hidden_layers=4), tiny("llama", hidden_size=64)
    with pytest.raises(ReadingError, match="num_hidden_layers 3"):
        load_lens(saved, deeper, allow_other_unembedding=True)
    with pytest.raises(ReadingError, match="d_model 32"):
        load_lens(saved, wider, allow_other_unembedding=True)
    for given in (lens, plain_lens(model)):
        with pytest.raises(ReadingError, match="for 3 layers of width 32"):
            lens_of(given, deeper)


def test_another_unembedding_is_refused_or_recorded(fitted, saved, tiny, facts):
    model, lens = fitted
    other = tiny("llama", seed=5)
    with pytest.raises(ReadingError, match="another unembedding"):
        load_lens(saved, other)
    taken = load_lens(saved, other, allow_other_unembedding=True)
    assert taken.unembed_hash == taken.config.unembed_hash == lens.unembed_hash
    reading = mm.read_depth(other, facts[:2], lens=taken)
    assert reading.attrs["lens_unembedding_matches"] == 0
    assert reading.attrs["lens_fingerprint"] == model.fingerprint != reading.attrs["fingerprint"]
    for reader in (mm.read_depth, mm.read_margin):  # one made for a model says so too when it reads another one
        assert reader(other, facts[:2], lens=lens).attrs["lens_unembedding_matches"] == 0
        assert reader(model, facts[:2], lens=lens).attrs["lens_unembedding_matches"] == 1
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "unembed_hash": None}))
    for name in ("digests.json", "mechmask.json"):
        (saved / name).unlink()  # as one from elsewhere
    with pytest.raises(ReadingError, match="does not say with which unembedding"):
        load_lens(saved, model)


def test_a_published_lens_is_taken_from_the_hubs_cache(fitted, plain_lens, tmp_path, monkeypatch):
    """The code path without a network: a snapshot of the Space as huggingface_hub lays it out."""
    import huggingface_hub.constants as constants

    model, _ = fitted
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ReadingError, match="cannot be reached"):
        load_lens("tiny/model", model)
    root = tmp_path / "hub" / "spaces--AlignmentResearch--tuned-lens"
    plain_lens(model).save(root / "snapshots" / "abc" / "lens" / "tiny" / "model")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    assert load_lens("tiny/model", model).shape == (3, 32)
    with pytest.raises(ReadingError, match="does not publish a lens of that name"):
        load_lens("gpt2", model)


def test_without_the_library_the_tuned_lens_says_how_to_install_it(fitted, saved, small, monkeypatch):
    model, _ = fitted
    for name in [name for name in sys.modules if name.split(".")[0] == "tuned_lens"]:
        monkeypatch.setitem(sys.modules, name, None)
    for asked in (lambda: fit_lens(model), lambda: lens_of("tuned", model), lambda: load_lens(saved, model)):
        with pytest.raises(ReadingError, match="pip install 'tuned-lens"):
            asked()
    ridge = fit_lens(model, **small, kind="ridge", progress=False)
    assert isinstance(lens_of(ridge, model), RidgeLens)


@pytest.mark.parametrize("kind", ["ridge", "tuned"])
def test_by_name_it_is_fitted_once_and_reads_the_end_as_the_model_does(tiny, facts, quick, kind, monkeypatch):
    model = tiny("gpt2")
    assert kind in LENSES
    reading = mm.read_depth(model, facts[:3], lens=kind)
    assert reading.attrs["lens"] == kind
    assert reading.attrs["lens_fingerprint"] == reading.attrs["fingerprint"] == model.fingerprint
    logit = mm.read_depth(model, facts[:3])
    xr.testing.assert_equal(reading.logprob.isel(layer=-1), logit.logprob.isel(layer=-1))
    assert "lens_hash" not in logit.attrs
    monkeypatch.setattr(load, "fit_lens", None)  # to fit again would fail
    again = mm.read_depth(model, facts[:3], lens=kind)
    xr.testing.assert_identical(again, reading)
    cached = [path for path in (quick / "lenses").iterdir() if path.is_dir()]
    assert len(cached) == 1 and cached[0].name.startswith(kind)
    path = quick / "reading.nc"
    mm.save_reading(reading, path)
    assert mm.load_reading(path).attrs["lens_hash"] == reading.attrs["lens_hash"]


def test_other_weights_or_settings_are_another_lens(tiny, small, quick):
    model, other = tiny("llama"), tiny("llama", seed=3)
    config = LensConfig(**small)
    made = [
        cached_lens(model, "ridge", config, progress=False),
        cached_lens(other, "ridge", config, progress=False),
        cached_lens(model, "ridge", config.model_copy(update={"seed": 1}), progress=False),
    ]
    assert len({lens.provenance["lens_hash"] for lens in made}) == 3
    cached_lens(model, "ridge", config.model_copy(update={"lr": 1.0}), progress=False)  # of the tuned lens only
    assert len([path for path in (quick / "lenses").iterdir() if path.is_dir()]) == 3


@pytest.mark.parametrize("kind", ["ridge", "tuned"])
def test_one_lens_reads_before_and_after_an_adapter(tiny, facts, small, quick, kind):
    model = tiny("llama")
    base = model.fingerprint
    torch.manual_seed(0)
    wrapped = get_peft_model(model.module, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    adapted = mm.load_model(wrapped.eval(), tokenizer=copy.deepcopy(model.tokenizer))
    after = mm.read_depth(adapted, facts[:3], lens=kind)  # first asked for while the adapter is on
    with adapted.without_adapter():
        before = mm.read_depth(adapted, facts[:3], lens=kind)
    assert after.attrs["lens_fingerprint"] == before.attrs["lens_fingerprint"] == base
    assert before.attrs["fingerprint"] == base != after.attrs["fingerprint"]
    assert after.attrs["lens_hash"] == before.attrs["lens_hash"]
    assert abs(after.logprob - before.logprob).max() > 0.01
    at_output = mm.read_depth(adapted, facts[:3]).logprob.isel(layer=-1)
    xr.testing.assert_equal(after.logprob.isel(layer=-1), at_output)
    lens = cached_lens(model, kind, LensConfig(**small), progress=False)
    explicit = mm.read_depth(adapted, facts[:3], lens=lens)
    xr.testing.assert_equal(explicit.logprob, after.logprob)


def only_directory(cache):
    (directory,) = (path for path in (cache / "lenses").iterdir() if path.is_dir())
    return directory


def test_a_damaged_lens_in_the_cache_is_made_again(tiny, small, quick, monkeypatch):
    """Any file of it flipped, emptied or missing."""
    model, config = tiny("llama"), LensConfig(**small)
    whole = cached_lens(model, "ridge", config, progress=False)
    directory, made = only_directory(quick), []
    monkeypatch.setattr(
        load, "fit_lens", lambda *args, **options: made.append(1) or whole
    )  # the fit itself is as above

    def flip(path):
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)

    for damage in (flip, lambda path: path.write_bytes(b""), lambda path: path.unlink()):
        for name in ("config.json", "digests.json", "mechmask.json", "params.pt", "report.nc"):
            damage(directory / name)
            made.clear()
            again = cached_lens(model, "ridge", config, progress=False)
            assert made and type(again) is type(whole) and again.provenance == whole.provenance
            xr.testing.assert_identical(again.report, whole.report)
            assert only_directory(quick) == directory


def test_a_damaged_lens_is_fitted_again_to_the_same_bits(tiny, small, quick):
    model, config = tiny("llama"), LensConfig(**small)
    whole = cached_lens(model, "tuned", config, progress=False)
    (only_directory(quick) / "params.pt").write_bytes(b"")
    assert cached_lens(model, "tuned", config, progress=False).provenance == whole.provenance


class Shift:
    """A change of a block's weights."""

    method = "shift"

    @contextmanager
    def applied(self, model):
        weight = model.anatomy.mlp_output(1).weight
        before = weight.detach().clone()
        with torch.no_grad():
            weight.add_(0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(7)))
        try:
            yield model
        finally:
            with torch.no_grad():
                weight.copy_(before)


def test_a_state_is_applied_while_its_lens_is_fitted(tiny, small, quick, tmp_path):
    model, config = tiny("llama"), LensConfig(**small)
    base = model.fingerprint
    state = Variant(model, Shift())
    with Shift().applied(model):
        changed, by_hand = model.fingerprint, fit_lens(model, kind="ridge", **small, progress=False)
    lens = fit_lens(state, kind="ridge", **small, progress=False)
    assert model.fingerprint == base != changed == lens.provenance["lens_fingerprint"]
    assert lens.provenance == by_hand.provenance
    assert lens.details["model"] == state.name
    assert cached_lens(state, "ridge", config, progress=False).provenance == by_hand.provenance
    of_the_base = cached_lens(model, "ridge", config, progress=False)
    assert of_the_base.provenance["lens_fingerprint"] == base
    assert of_the_base.provenance["lens_hash"] != lens.provenance["lens_hash"]
    lens.save(tmp_path / "lens")
    assert load_lens(tmp_path / "lens", state).provenance == lens.provenance
    assert lens_of("ridge", state).provenance["lens_fingerprint"] == changed
    assert lens_of(lens, state) is lens
    assert model.fingerprint == base


def test_an_unembedding_that_an_adapter_brought(tiny, facts, quick):
    """``modules_to_save``: no lens is fitted while it is on; that of the base reads it, and says so."""
    model = tiny("llama")
    base = cached_lens(model, "ridge", progress=False)
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], init_lora_weights=False)
    adapted = mm.load_model(get_peft_model(model.module, config).eval(), tokenizer=copy.deepcopy(model.tokenizer))
    with torch.no_grad():
        adapted.module.get_output_embeddings().modules_to_save["default"].weight.mul_(2)
    with pytest.raises(ReadingError, match="An adapter is applied to the unembedding"):
        fit_lens(adapted, kind="ridge", progress=False)
    assert cached_lens(adapted, "ridge", progress=False).provenance == base.provenance
    reading = mm.read_depth(adapted, facts[:2], lens="ridge")
    assert reading.attrs["lens_unembedding_matches"] == 0
    assert reading.attrs["lens_hash"] == base.provenance["lens_hash"]
