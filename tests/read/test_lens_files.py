"""Lenses as files: here and in plain tuned-lens, both ways; what is refused; the cache; readings by name."""

from __future__ import annotations

import copy
import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
import xarray as xr
from peft import LoraConfig, get_peft_model
from tuned_lens.nn.lenses import TunedLens, TunedLensConfig
from tuned_lens.utils import tensor_hash

import mechmask as mm
from mechmask.errors import ReadingError
from mechmask.read.lenses import cached
from mechmask.read.lenses.affine import RidgeLens
from mechmask.read.lenses.cached import cached_lens
from mechmask.read.lenses.config import LensConfig
from mechmask.read.lenses.fit import fit_lens
from mechmask.read.lenses.hash import unembedding_hash
from mechmask.read.lenses.lens import LENSES, Lens, lens_of
from mechmask.read.lenses.load import load_lens
from mechmask.read.lenses.tuned import SharedUnembed

SMALL = {"n_tokens": 640, "steps": 5, "tokens_per_step": 64}


@pytest.fixture(scope="module")
def fitted(tiny):
    model = tiny("llama")
    return model, fit_lens(model, **SMALL, progress=False)


@pytest.fixture
def saved(fitted, tmp_path):
    fitted[1].save(tmp_path / "lens")
    return tmp_path / "lens"


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """A cache of its own, and settings under which a lens is a matter of a second."""
    monkeypatch.setenv("MECHMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cached, "LensConfig", lambda: LensConfig(**SMALL))
    return tmp_path / "cache"


def plain_lens(model, seed=1):
    """A TunedLens of tuned-lens itself, with random corrections."""
    config = TunedLensConfig(base_model_name_or_path="tiny", d_model=model.width, num_hidden_layers=model.n_layers)
    lens = TunedLens(SharedUnembed(model), config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in lens.layer_translators.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return lens


def test_the_hash_is_that_of_tuned_lens(tiny):
    for family in ("llama", "gpt2"):
        weight = tiny(family).module.get_output_embeddings().weight.detach()
        with np.printoptions(precision=3):
            assert unembedding_hash(weight) == tensor_hash(weight.numpy())
    with np.printoptions(threshold=10**9):
        assert unembedding_hash(weight) != tensor_hash(weight.numpy())
        found = unembedding_hash(weight)
    assert found == tensor_hash(weight.numpy())


def test_saved_here_it_loads_in_tuned_lens(fitted, saved):
    model, lens = fitted
    assert isinstance(lens, TunedLens) and isinstance(lens, Lens)
    plain = TunedLens.from_unembed_and_pretrained(SharedUnembed(model), str(saved))
    assert type(plain) is TunedLens and plain.config.unembed_hash == lens.config.unembed_hash
    x = torch.randn(4, model.width, generator=torch.Generator().manual_seed(0))
    for layer in range(model.n_layers):
        np.testing.assert_allclose(plain(x, layer).detach(), lens(x, layer).detach(), atol=1e-5)
    assert set(torch.load(saved / "params.pt", weights_only=True)) == {
        f"{i}.{part}" for i in range(model.n_layers) for part in ("weight", "bias")
    }


def test_saved_by_tuned_lens_it_loads_here(fitted, tmp_path):
    model, _ = fitted
    plain = plain_lens(model)
    plain.save(tmp_path / "plain")
    lens = load_lens(tmp_path / "plain", model)
    assert isinstance(lens, TunedLens) and lens.report is None and lens.unembedding_matches
    assert lens.provenance["lens_fingerprint"] == "unknown"
    x = torch.randn(4, model.width, generator=torch.Generator().manual_seed(0))
    for layer in range(model.n_layers):
        np.testing.assert_allclose(lens.transport(x, layer), plain.transform_hidden(x, layer).detach(), atol=1e-5)


def test_a_lens_without_bias_has_none(fitted, saved):
    model, lens = fitted
    state = torch.load(saved / "params.pt", weights_only=True)
    torch.save({name: tensor for name, tensor in state.items() if name.endswith("weight")}, saved / "params.pt")
    x = torch.randn(4, model.width)
    bare = load_lens(saved, model)
    np.testing.assert_allclose(bare.transport(x, 1), lens.transport(x, 1) - lens[1].bias.detach(), atol=1e-5)


@pytest.mark.parametrize("kind", ["tuned", "ridge"])
def test_a_lens_comes_back_as_it_was(fitted, tmp_path, kind):
    model, lens = fitted
    if kind == "ridge":
        lens = fit_lens(model, **SMALL, kind="ridge", progress=False)
        assert isinstance(lens, RidgeLens)
    lens.save(tmp_path / "new" / kind)
    again = load_lens(str(tmp_path / "new" / kind), model)
    assert type(again) is type(lens) and again.name == kind
    assert again.provenance == lens.provenance and again.details == lens.details
    assert again.provenance["lens_fingerprint"] == model.fingerprint
    xr.testing.assert_identical(again.report, lens.report)
    with pytest.raises(ReadingError, match="is there already"):
        lens.save(tmp_path / "new" / kind)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [kind]


def test_what_jupyter_shows(fitted, tmp_path):
    """The report's own numbers, and what a lens has that comes without one."""
    model, lens = fitted
    assert repr(lens) == f"FittedTunedLens({model.name!r}, 3 layers of width 32)"
    shown = [float(cell) for cell in re.findall("<td>([^<]+)</td>", lens._repr_html_())]
    np.testing.assert_allclose(shown, lens.report.kl.transpose("layer", "lens").values.ravel(), atol=0.006)
    plain_lens(model).save(tmp_path / "plain")
    assert "<table" not in load_lens(tmp_path / "plain", model)._repr_html_()


def test_another_unembedding_is_refused_or_said(fitted, saved, tiny, facts):
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
    with pytest.raises(ReadingError, match="does not say with which unembedding"):
        load_lens(saved, model)


def test_a_lens_of_another_shape_is_refused(fitted, saved, tiny):
    model, lens = fitted
    deeper, wider = tiny("llama", num_hidden_layers=4), tiny("llama", hidden_size=64)
    with pytest.raises(ReadingError, match="num_hidden_layers 3"):
        load_lens(saved, deeper, allow_other_unembedding=True)
    with pytest.raises(ReadingError, match="d_model 32"):
        load_lens(saved, wider, allow_other_unembedding=True)
    for given in (lens, plain_lens(model)):
        with pytest.raises(ReadingError, match="for 3 layers of width 32"):
            lens_of(given, deeper)


def _spoil_shape(state):
    return {**state, "1.weight": torch.zeros(3, 3)}


def _spoil_nan(state):
    return {**state, "2.bias": state["2.bias"] / 0}


def _spoil_code(state):
    return {**state, "0.weight": TunedLensConfig("x", 1, 1)}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(_spoil_shape, "1.weight"), (_spoil_nan, "2.bias in .* not finite"), (_spoil_code, "cannot be read as tensors")],
)
def test_damaged_weights_are_refused(fitted, saved, spoil, message):
    model, _ = fitted
    torch.save(spoil(torch.load(saved / "params.pt", weights_only=True)), saved / "params.pt")
    with pytest.raises(ReadingError, match=message):
        load_lens(saved, model)


def test_damaged_files_are_refused(fitted, saved, tmp_path):
    model, _ = fitted
    (saved / "params.pt").write_bytes((saved / "params.pt").read_bytes()[:100])
    with pytest.raises(ReadingError, match="cannot be read as tensors"):
        load_lens(saved, model)
    (saved / "params.pt").unlink()
    with pytest.raises(ReadingError, match="cannot be read as tensors"):
        load_lens(saved, model)
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "lens_type": "mlp_lens"}))
    with pytest.raises(ReadingError, match="is a mlp_lens"):
        load_lens(saved, model)
    (saved / "config.json").write_text("{")
    with pytest.raises(ReadingError, match="cannot be read as JSON"):
        load_lens(saved, model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReadingError, match="this is no lens"):
        load_lens(tmp_path / "empty", model)


def test_a_published_lens_is_taken_from_the_hubs_cache(fitted, tmp_path, monkeypatch):
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
    with pytest.raises(ReadingError, match="publishes no lens of that name"):
        load_lens("gpt2", model)


def test_without_the_library_the_tuned_lens_says_how_to_install_it(fitted, saved, monkeypatch):
    model, _ = fitted
    for name in [name for name in sys.modules if name.split(".")[0] == "tuned_lens"]:
        monkeypatch.setitem(sys.modules, name, None)
    for asked in (lambda: fit_lens(model), lambda: lens_of("tuned", model), lambda: load_lens(saved, model)):
        with pytest.raises(ReadingError, match="pip install 'tuned-lens"):
            asked()
    ridge = fit_lens(model, **SMALL, kind="ridge", progress=False)
    assert isinstance(lens_of(ridge, model), RidgeLens)


def logprobs_by(model, fact, route, transform):
    """[layer] of the first token of a one-token contest, by plain hooks."""
    kept, blocks = [], model.anatomy.blocks
    first = lambda value: value[0] if isinstance(value, tuple) else value  # noqa: E731
    handles = [blocks[0].register_forward_pre_hook(lambda m, a, k: kept.append(first(a)), with_kwargs=True)]
    handles += [block.register_forward_hook(lambda m, a, out: kept.append(first(out))) for block in blocks]
    prompt = model.tokenizer(fact.prompt).input_ids
    token = model.tokenizer(f"{fact.prompt} {fact.values[route]}").input_ids[len(prompt)]
    with torch.no_grad():
        model.module(torch.tensor([prompt]))
        for handle in handles:
            handle.remove()
        last = [transform(residual[0, -1:], layer) for layer, residual in enumerate(kept)]
        head = model.module.get_output_embeddings()
        cap = getattr(model.module.config, "final_logit_softcapping", None)
        logits = [head(model.anatomy.final_norm(h)) for h in last]
        logits = [cap * torch.tanh(z / cap) if cap else z for z in logits]
    return [z.log_softmax(-1)[0, token].item() for z in logits]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_read_depth_through_a_tuned_lens_is_what_the_formula_says(tiny, facts, family):
    """``h + A h + b`` by plain hooks; one made by tuned-lens itself, and the same one loaded here."""
    model = tiny(family)
    fact = next(f for f in facts if f.subject == "France")
    plain = plain_lens(model)
    state = plain.layer_translators.state_dict()

    def transform(h, layer):
        if layer == model.n_layers:
            return h
        return h + h @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]

    reading = mm.read_depth(model, [fact], lens=plain)
    assert reading.attrs["lens"] == "tuned" and reading.attrs["lens_unembedding_matches"] == 1
    for route in ("old", "new"):
        np.testing.assert_allclose(
            reading.logprob.sel(route=route)[0], logprobs_by(model, fact, route, transform), atol=1e-4
        )
    logit = mm.read_depth(model, [fact])
    assert abs(reading.logprob - logit.logprob).isel(layer=0).max() > 0.01
    xr.testing.assert_equal(reading.logprob.isel(layer=-1), logit.logprob.isel(layer=-1))


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
    monkeypatch.setattr(cached, "fit_lens", None)  # to fit again would fail
    again = mm.read_depth(model, facts[:3], lens=kind)
    xr.testing.assert_identical(again, reading)
    kept = [path for path in (quick / "lenses").iterdir() if path.is_dir()]
    assert len(kept) == 1 and kept[0].name.startswith(kind)
    path = quick / "reading.nc"
    mm.save_reading(reading, path)
    assert mm.load_reading(path).attrs["lens_hash"] == reading.attrs["lens_hash"]


def test_other_weights_or_settings_are_another_lens(tiny, quick):
    model, other = tiny("llama"), tiny("llama", seed=3)
    small = LensConfig(**SMALL)
    made = [
        cached_lens(model, "ridge", small, progress=False),
        cached_lens(other, "ridge", small, progress=False),
        cached_lens(model, "ridge", small.model_copy(update={"seed": 1}), progress=False),
    ]
    assert len({lens.provenance["lens_hash"] for lens in made}) == 3
    cached_lens(model, "ridge", small.model_copy(update={"lr": 1.0}), progress=False)  # of the tuned lens only
    assert len([path for path in (quick / "lenses").iterdir() if path.is_dir()]) == 3


@pytest.mark.parametrize("kind", ["ridge", "tuned"])
def test_one_lens_reads_before_and_after_an_adapter(tiny, facts, quick, kind):
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
    lens = cached_lens(model, kind, LensConfig(**SMALL), progress=False)
    explicit = mm.read_depth(adapted, facts[:3], lens=lens)
    xr.testing.assert_equal(explicit.logprob, after.logprob)


def test_a_damaged_lens_in_the_cache_is_refused(tiny, quick):
    model = tiny("llama")
    cached_lens(model, "ridge", LensConfig(**SMALL), progress=False)
    directory = next(path for path in (quick / "lenses").iterdir() if path.is_dir())
    (directory / "params.pt").write_bytes(b"")
    with pytest.raises(ReadingError, match="cannot be read as tensors"):
        cached_lens(model, "ridge", LensConfig(**SMALL), progress=False)
    shutil.rmtree(directory)
    assert cached_lens(model, "ridge", LensConfig(**SMALL), progress=False).shape == (3, 32)


def test_what_is_no_lens_is_refused(tiny):
    model = tiny("llama")
    with pytest.raises(ReadingError, match="no lens 'jacobian'"):
        lens_of("jacobian", model)
    with pytest.raises(ReadingError, match="A Linear is no lens"):
        lens_of(torch.nn.Linear(2, 2), model)
