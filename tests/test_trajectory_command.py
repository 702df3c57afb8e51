"""``mechmask read --after`` and ``mechmask trajectory``: the library's numbers, and one sentence for what is wrong."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

import mechmask as mm


@pytest.fixture(scope="module")
def lab(tiny, tiny_module, facts, tmp_path_factory):
    """A base, a run of two adapters that was trained from it, a whole checkpoint, and facts."""
    root = tmp_path_factory.mktemp("lab")
    model = tiny("llama")
    model.module.save_pretrained(root / "base")
    model.tokenizer.save_pretrained(root / "base")
    facts.to_jsonl(root / "facts.jsonl")
    wrapped = get_peft_model(tiny_module("llama"), LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    for step in (5, 10):
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(2.0)
        wrapped.save_pretrained(root / f"run/checkpoint-{step}")
    module = tiny_module("llama")
    with torch.no_grad():
        module.model.norm.weight.mul_(1.5)
    module.save_pretrained(root / "whole")
    return root


def test_read_after(mechmask, lab):
    for change in ("run/checkpoint-10", "whole"):
        done = mechmask("read", lab / "base", lab / "facts.jsonl", "--after", lab / change, "--json")
        assert done.code == 0, done.err
        rows = json.loads(done.out)
        model = mm.load_model(lab / "base")
        state = mm.load_change(lab / change).on(model)
        expected = mm.read_logits(state, lab / "facts.jsonl")
        found = {row["fact"]: row["margin"] for row in rows if row["state"] == "after"}
        assert found == pytest.approx({str(f.fact.item()): float(f) for f in expected.margin})
        assert len([row for row in rows if row["state"] == "before"]) == len(found)


def test_trajectory(mechmask, lab, tmp_path):
    command = ["trajectory", lab / "base", lab / "run", lab / "facts.jsonl"]
    done = mechmask(*command, "--out", tmp_path / "course.nc", "--figure", tmp_path / "course.png", "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    assert [row["step"] for row in rows] == [0, 5, 10]
    course = mm.load_reading(tmp_path / "course.nc")
    assert [row["margin"] for row in rows] == pytest.approx(course.margin.mean("fact").values.tolist())
    assert (tmp_path / "course.png").stat().st_size > 10_000
    done = mechmask(*command, "--depth", "--out", tmp_path / "depth.nc", "--figure", tmp_path / "depth.pdf")
    assert done.code == 0, done.err
    assert np.isfinite(mm.load_reading(tmp_path / "depth.nc").margin).all()


def test_nonsense_is_one_sentence(mechmask, lab, tmp_path):
    shutil.copytree(lab / "base", tmp_path / "nothing")
    for command, said in (
        (["trajectory", lab / "base", tmp_path, lab / "facts.jsonl"], "holds no checkpoint-N"),
        (["read", lab / "base", lab / "facts.jsonl", "--after", tmp_path], "holds no change"),
        (["read", lab / "base", lab / "facts.jsonl", "--after", tmp_path / "nothing"], "changes nothing"),
        (["read", lab / "base", lab / "facts.jsonl", "--after", lab / "run"], "load_checkpoints"),
        (["read", lab / "base", lab / "facts.jsonl", "--after", lab / "whole", "--adapter", "x"], "no adapter"),
    ):
        done = mechmask(*command)
        assert done.code == 2
        assert said in done.err
        assert "Traceback" not in done.err
