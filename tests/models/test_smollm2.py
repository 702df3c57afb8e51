"""The embedded model is the one that the numbers of the paper's replication were measured on."""

from __future__ import annotations

import pytest
import torch

import mechmask as mm
from mechmask.models import smollm2


def test_its_shape(smol):
    assert (smol.family, smol.n_layers, smol.width, smol.vocab_size) == ("llama", 30, 576, 49152)
    assert smol.dtype == torch.float32
    assert smol.name == smollm2.NAME
    assert smol.anatomy.softcap is None and smol.anatomy.sliding_window is None


def test_it_knows_the_capital_of_france(smol):
    ids = smol.tokenizer("The capital of France is", return_tensors="pt").input_ids
    paris = smol.tokenizer(" Paris").input_ids
    assert len(paris) == 1
    with torch.no_grad():
        probability = smol.module(ids).logits[0, -1].softmax(-1)[paris[0]].item()
    assert probability == pytest.approx(0.77, abs=0.05)


def test_it_is_found_again_in_the_cache(smol, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("nothing is downloaded or converted twice")

    monkeypatch.setattr(smollm2, "convert", refuse)
    monkeypatch.setattr(smollm2.subprocess, "run", refuse)
    directory = smollm2.embedded_directory()
    assert (directory / "model.safetensors").is_file()
    assert mm.load_model("smollm2-135m").fingerprint == smol.fingerprint


def test_its_digits_stand_alone(smol):
    """What makes values of one length comparable digit by digit."""
    assert len(smol.tokenizer(" 417").input_ids) == 4
