"""Lenses as files: here and in plain tuned-lens, both ways; what is damaged or malformed is refused, all of it."""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tuned_lens.nn.lenses import TunedLens, TunedLensConfig

from mechmask.errors import DamageError, FileError, MechmaskError, ReadingError
from mechmask.read.lenses.affine import RidgeLens
from mechmask.read.lenses.fit import fit_lens
from mechmask.read.lenses.lens import Lens
from mechmask.read.lenses.load import load_lens
from mechmask.read.lenses.tuned import SharedUnembed

WRITTEN = ["config.json", "digests.json", "mechmask.json", "params.pt", "report.nc"]
FUZZED = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def as_from_elsewhere(saved, target):
    """The same lens as tuned-lens would have written it."""
    target.mkdir()
    for name in ("config.json", "params.pt"):
        shutil.copy(saved / name, target)
    return target


@pytest.fixture
def foreign(saved, tmp_path):
    return as_from_elsewhere(saved, tmp_path / "foreign")


def same_tensors(lens, other):
    ours, theirs = lens.layer_translators.state_dict(), other.layer_translators.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


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


def test_saved_by_tuned_lens_it_loads_here(fitted, plain_lens, tmp_path):
    model, _ = fitted
    plain = plain_lens(model)
    plain.save(tmp_path / "plain")
    lens = load_lens(tmp_path / "plain", model)
    assert isinstance(lens, TunedLens) and lens.report is None and lens.unembedding_matches
    assert lens.provenance["lens_fingerprint"] == "unknown"
    x = torch.randn(4, model.width, generator=torch.Generator().manual_seed(0))
    for layer in range(model.n_layers):
        np.testing.assert_allclose(lens.transport(x, layer), plain.transform_hidden(x, layer).detach(), atol=1e-5)


def test_a_lens_without_bias_has_none(fitted, foreign):
    model, lens = fitted
    state = torch.load(foreign / "params.pt", weights_only=True)
    torch.save({name: tensor for name, tensor in state.items() if name.endswith("weight")}, foreign / "params.pt")
    x = torch.randn(4, model.width)
    bare = load_lens(foreign, model)
    np.testing.assert_allclose(bare.transport(x, 1), lens.transport(x, 1) - lens[1].bias.detach(), atol=1e-5)


@pytest.mark.parametrize("kind", ["tuned", "ridge"])
def test_a_lens_comes_back_as_it_was(fitted, small, tmp_path, kind):
    model, lens = fitted
    if kind == "ridge":
        lens = fit_lens(model, **small, kind="ridge", progress=False)
        assert isinstance(lens, RidgeLens)
    lens.save(tmp_path / "new" / kind)
    again = load_lens(str(tmp_path / "new" / kind), model)
    assert type(again) is type(lens) and again.name == kind
    assert again.provenance == lens.provenance and again.details == lens.details
    assert again.provenance["lens_fingerprint"] == model.fingerprint
    xr.testing.assert_identical(again.report, lens.report)
    with pytest.raises(ReadingError, match="already exists"):
        lens.save(tmp_path / "new" / kind)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [kind]


def test_what_is_written_is_sealed(saved):
    assert sorted(path.name for path in saved.iterdir()) == WRITTEN


def test_any_flipped_bit_of_a_saved_lens_is_refused(fitted, saved):
    model, _ = fitted
    whole = {name: (saved / name).read_bytes() for name in WRITTEN}
    draw = random.Random(0)
    for _ in range(400):
        name = draw.choice(WRITTEN)
        damaged = bytearray(whole[name])
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        (saved / name).write_bytes(damaged)
        with pytest.raises(DamageError, match=name):
            load_lens(saved, model)
        (saved / name).write_bytes(whole[name])
    assert same_tensors(load_lens(saved, model), fitted[1])


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_that_is_cut_emptied_or_missing_is_named(fitted, saved, name):
    model, whole = fitted[0], (saved / name).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole + b"\0"):
        (saved / name).write_bytes(damaged)
        with pytest.raises(DamageError, match=name):
            load_lens(saved, model)
    (saved / name).unlink()
    with pytest.raises(DamageError, match=name):
        load_lens(saved, model)


def test_a_flipped_bit_of_a_lens_from_elsewhere_is_refused_or_changes_nothing(fitted, foreign):
    """By the checksums of the archive, which torch itself passes over."""
    model, lens = fitted
    whole = (foreign / "params.pt").read_bytes()
    draw, refused, silent_in_torch = random.Random(1), 0, 0
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        (foreign / "params.pt").write_bytes(damaged)
        try:
            assert same_tensors(load_lens(foreign, model), lens)
        except (DamageError, ReadingError):
            refused += 1
            silent_in_torch += loads_in_torch(foreign / "params.pt")
    assert refused > 200 and silent_in_torch > 100


def loads_in_torch(path):
    try:
        return bool(torch.load(path, weights_only=True))
    except Exception:
        return False


def test_a_lens_of_an_older_mechmask_loads_without_digests(fitted, saved):
    model, lens = fitted
    about = json.loads((saved / "mechmask.json").read_text())
    (saved / "mechmask.json").write_text(json.dumps({**about, "schema_version": 1}))
    (saved / "digests.json").unlink()
    again = load_lens(saved, model)
    assert same_tensors(again, lens) and again.details == lens.details
    (saved / "report.nc").write_bytes(b"no report")
    with pytest.raises(ReadingError, match=r"delete report\.nc"):
        load_lens(saved, model)
    (saved / "report.nc").unlink()
    assert load_lens(saved, model).report is None


_BAD = {
    "shape": (lambda state: {**state, "1.weight": torch.zeros(3, 3)}, "1.weight differs"),
    "more": (lambda state: {**state, "7.bias": torch.zeros(3)}, "7.bias differs"),
    "nan": (lambda state: {**state, "2.bias": state["2.bias"] / 0}, "2.bias in .* not finite"),
    "code": (lambda state: {**state, "0.weight": TunedLensConfig("x", 1, 1)}, "cannot be read as tensors"),
    "number": (lambda state: {**state, "0.weight": 3}, "0.weight differs"),
    "whole numbers": (lambda state: {**state, "0.weight": state["0.weight"].int()}, "0.weight differs"),
    "complex": (lambda state: {**state, "0.weight": state["0.weight"] * 1j}, "0.weight differs"),
    "sparse": (lambda state: {**state, "0.weight": state["0.weight"].to_sparse()}, "0.weight differs"),
    "nowhere": (lambda state: {**state, "0.weight": state["0.weight"].to("meta")}, "0.weight differs"),
    "names": (lambda state: dict(enumerate(state.values())), "do not|does not hold"),
    "a list": (lambda state: list(state.values()), "does not hold"),
}


@pytest.mark.parametrize("kind", _BAD)
def test_weights_that_are_no_lens_are_refused(fitted, foreign, kind):
    spoil, message = _BAD[kind]
    torch.save(spoil(torch.load(foreign / "params.pt", weights_only=True)), foreign / "params.pt")
    with pytest.raises(ReadingError, match=message):
        load_lens(foreign, fitted[0])


def test_files_that_are_no_lens_are_refused(fitted, foreign, tmp_path):
    model, _ = fitted
    (foreign / "params.pt").unlink()
    with pytest.raises(ReadingError, match="cannot be read as tensors"):
        load_lens(foreign, model)
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps({**config, "lens_type": "mlp_lens", "d_model": "32"}))
    with pytest.raises(ReadingError, match="2 problems in the lens") as caught:
        load_lens(foreign, model)
    assert "lens_type is 'mlp_lens'" in str(caught.value) and "d_model is '32'" in str(caught.value)
    assert "http" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReadingError, match="this is not a lens"):
        load_lens(tmp_path / "empty", model)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("base_model_name_or_path", "d_model", "num_hidden_layers", "bias", "unembed_hash", "lens_type")


def refused_or_loaded(directory, model):
    """Nothing but a sentence comes out, and what is loaded can be shown."""
    try:
        repr(load_lens(directory, model, allow_other_unembedding=True).provenance)
    except MechmaskError as error:
        assert len(str(error)) < 2000


@FUZZED
@given(st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES), st.sets(st.sampled_from(FIELDS)))
@example({"d_model": 10**4000}, set())
@example({"base_model_name_or_path": "\ud800"}, set())
@example({"num_hidden_layers": 10**9}, set())
def test_any_fields_of_the_config(fitted, foreign, fields, without):
    path = foreign / "config.json"
    whole = path.read_text()
    config = {name: value for name, value in json.loads(whole).items() if name not in without}
    path.write_text(json.dumps({**config, **fields}))
    refused_or_loaded(foreign, fitted[0])
    path.write_text(whole)


@FUZZED
@given(st.dictionaries(st.sampled_from(("schema_version", "kind", "details")), JSON_VALUES))
@example({"details": {"fingerprint": "a\0b", "model": 3}})
@example({"details": {"model": [[[]]]}, "schema_version": True})
def test_any_fields_of_what_mechmask_says(fitted, foreign, fields):
    (foreign / "mechmask.json").write_text(json.dumps({"schema_version": 1, "kind": "ridge", "details": {}, **fields}))
    refused_or_loaded(foreign, fitted[0])


@FUZZED
@given(st.sampled_from(("config.json", "mechmask.json", "params.pt")), st.binary(max_size=60))
@example("config.json", b"[" * 100_000)
@example("config.json", b'{"d_model": ' + b"9" * 5000 + b"}")
@example("mechmask.json", b'{"details": ' + b'{"a":' * 900 + b"1" + b"}" * 901)
@example("config.json", b"\xff\xfe{}")
@example("params.pt", b"PK\x03\x04" + b"\0" * 100)
@example("params.pt", b"\x80\x02}q\x00.")
def test_any_bytes(fitted, foreign, name, content):
    whole = (foreign / name).read_bytes() if (foreign / name).exists() else None
    (foreign / name).write_bytes(content)
    refused_or_loaded(foreign, fitted[0])
    (foreign / name).unlink()
    if whole is not None:
        (foreign / name).write_bytes(whole)


def test_where_a_lens_cannot_be_saved(fitted, saved, tmp_path, monkeypatch):
    """One sentence that names the directory as the user did, and nothing is left behind."""
    lens = fitted[1]
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.iterdir())
    for place in (tmp_path / "file" / "lens", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(FileError, match="Cannot write"):
            lens.save(place)
        with pytest.raises(MechmaskError):
            load_lens(place, fitted[0])
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place in (saved, tmp_path / "file", tmp_path / "link"):
        with pytest.raises(ReadingError, match="already exists"):
            lens.save(place)
    (tmp_path / "link").unlink()
    longest = tmp_path / ("é" * 127)
    lens.save(longest)
    assert same_tensors(load_lens(longest, fitted[0]), lens)
    shutil.rmtree(longest)

    def full(*_, **__):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 640 vs 534")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(FileError, match=r"Cannot write .*lens2: No space left on device. Free some space"):
        lens.save(tmp_path / "lens2")
    assert sorted(tmp_path.iterdir()) == before
