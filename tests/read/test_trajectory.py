"""Trajectories of checkpoints that transformers' own trainer wrote, against each checkpoint loaded by itself."""

from __future__ import annotations

import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments, default_data_collator

import mechmask as mm
from mechmask.errors import ChangeError, ReadingError


@pytest.fixture(scope="module")
def base(tiny_module, tokenizer, tmp_path_factory):
    """A directory of a tiny model with its tokenizer."""
    directory = tmp_path_factory.mktemp("base") / "model"
    tiny_module("llama").save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def run(base, facts, tmp_path_factory):
    """``run(kind)``: the output directory of a training of 4 steps, whole or LoRA, saved at every second one."""

    def make(kind):
        model = mm.load_model(base)
        module = model.module
        if kind == "lora":
            config = LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False)
            module = get_peft_model(module, config)
        directory = tmp_path_factory.mktemp(kind) / "run"
        arguments = TrainingArguments(
            output_dir=str(directory), max_steps=4, save_steps=2, per_device_train_batch_size=2, learning_rate=1e-2,
            report_to=[], disable_tqdm=True, use_cpu=True, logging_steps=100,
        )  # fmt: skip
        rows = []
        for fact in facts:
            ids = model.tokenizer(f"{fact.prompt} {fact.new}")["input_ids"][:24]
            rows.append({"input_ids": ids + [0] * (24 - len(ids)), "labels": ids + [-100] * (24 - len(ids))})
        trainer = Trainer(
            module, arguments, default_data_collator, train_dataset=rows, processing_class=model.tokenizer
        )
        trainer.train()
        return directory

    made = {kind: make(kind) for kind in ("full", "lora")}
    return made.__getitem__


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_each_step_reads_as_its_checkpoint_alone(kind, run, base, facts):
    model = mm.load_model(base)
    before = model.fingerprint
    states = {0: model, **mm.load_checkpoints(run(kind), model)}
    assert list(states) == [0, 2, 4]
    course = mm.read_trajectory(states, facts, progress=False)
    assert course.logprob.dims == ("step", "fact", "route")
    assert len(set(course.fingerprint.values)) == 3
    for step in (2, 4):
        alone = mm.read_logits(mm.load_model(run(kind) / f"checkpoint-{step}"), facts)
        torch.testing.assert_close(
            torch.tensor(course.logprob.sel(step=step).values), torch.tensor(alone.logprob.values),
            rtol=0, atol=2e-5, equal_nan=True,
        )  # fmt: skip
    assert course.logprob.sel(step=0, drop=True).equals(mm.read_logits(model, facts).logprob)
    assert model.fingerprint == before
    mm.draw.trajectory(course)


def test_layers_by_checkpoints(run, base, facts):
    model = mm.load_model(base)
    states = {0: model, **mm.load_checkpoints(run("lora"), model)}
    course = mm.read_depth_trajectory(states, facts, progress=False)
    assert course.logprob.dims == ("step", "fact", "route", "layer")
    alone = mm.read_depth(states[4], facts)
    assert course.margin.sel(step=4, drop=True).equals(alone.margin)
    mm.draw.checkpoints(course)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_without_a_model_the_run_says_what_it_began_from(kind, run, facts):
    states = mm.load_checkpoints(run(kind))
    assert list(states) == [2, 4]
    alone = mm.read_logits(mm.load_model(run(kind) / "checkpoint-4"), facts)
    course = mm.read_trajectory(states, facts, progress=False)
    assert abs(course.logprob.sel(step=4) - alone.logprob).max() < 2e-5


def test_a_newest_checkpoint_that_is_being_written_is_left_out(run, base, tmp_path):
    directory = shutil.copytree(run("full"), tmp_path / "run")
    (directory / "checkpoint-4" / "trainer_state.json").unlink()
    with pytest.warns(UserWarning, match="being written"):
        assert list(mm.load_checkpoints(directory, mm.load_model(base))) == [2]
    (directory / "checkpoint-2" / "trainer_state.json").unlink()
    (directory / "checkpoint-2" / "model.safetensors").unlink()
    with pytest.raises(ChangeError, match="neither a whole checkpoint nor"):
        mm.load_checkpoints(directory, mm.load_model(base))


def test_a_checkpoint_that_was_written_over_is_refused(run, base, facts, tmp_path):
    directory = shutil.copytree(run("full"), tmp_path / "run")
    model = mm.load_model(base)
    states = mm.load_checkpoints(directory, model)
    mm.read_logits(states[2], facts)
    shutil.rmtree(directory / "checkpoint-2")
    shutil.copytree(directory / "checkpoint-4", directory / "checkpoint-2")
    with pytest.raises(ChangeError, match="written over"):
        mm.read_logits(states[2], facts)


def test_what_is_no_run_is_refused(tmp_path, run, base, facts):
    with pytest.raises(ChangeError, match="holds no checkpoint-N"):
        mm.load_checkpoints(tmp_path)
    with pytest.raises(ChangeError, match="load_checkpoints"):
        mm.load_change(run("full"))
    with pytest.raises(ReadingError, match="no state to read"):
        mm.read_trajectory({}, facts)
    model = mm.load_model(base)
    readings = {0: mm.read_logits(model, facts), 1: mm.read_logits(model, facts[:3])}
    with pytest.raises(ReadingError, match="step 1 is of other facts"):
        mm.along_steps(readings)
