"""The callback in real runs of transformers' and TRL's trainers: what it reads, and that it leaves no trace."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

import mechmask as mm
from mechmask.errors import FactError, ReadingError, StudyError

DROPOUT = {"resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.2}


def arguments(directory, kind=TrainingArguments, **options):
    given = {
        "max_steps": 6, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "report_to": [], "disable_tqdm": True,
        "use_cpu": True, "logging_steps": 1, "save_strategy": "no", "seed": 3,
    }  # fmt: skip
    return kind(output_dir=str(directory), **{**given, **options})


@pytest.fixture
def rows(facts, tokenizer):
    made = []
    for fact in facts:
        ids = tokenizer(f"{fact.prompt} {fact.new}")["input_ids"][:24]
        made.append({"input_ids": ids + [0] * (24 - len(ids)), "labels": ids + [-100] * (24 - len(ids))})
    return made


@pytest.fixture
def run(rows, tokenizer, tiny_module, tmp_path):
    """``run(callbacks, ...)``: a trainer after its run; the model is whole (gpt2 with dropout) or a LoRA."""

    def make(callbacks=(), *, module=None, lora=False, resume=None, directory="run", dataset=None, **options):
        module = tiny_module("gpt2", **DROPOUT) if module is None else module
        if lora:
            torch.manual_seed(0)
            module = get_peft_model(
                module, LoraConfig(target_modules=["c_proj"], lora_dropout=0.3, fan_in_fan_out=True)
            )
        trainer = Trainer(
            module, arguments(tmp_path / directory, **options), default_data_collator,
            train_dataset=dataset or rows, eval_dataset=rows[:2], processing_class=tokenizer, callbacks=list(callbacks),
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return make


class Recorder(TrainerCallback):
    """Stands where ``report_to`` puts TensorBoard and others: before the user's own callbacks."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **_):
        self.logs.append((state.global_step, dict(logs)))


def trained(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def losses(trainer):
    return [
        (entry["step"], entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history if "loss" in entry
    ]


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("depth", [False, True])
def test_a_run_is_the_same_to_the_bit(lora, depth, run, facts):
    plain = run(lora=lora)
    callback = mm.ContestCallback(facts, every=2, depth=depth)
    watched = run([callback], lora=lora)
    assert losses(plain) == losses(watched)
    before, after = trained(plain), trained(watched)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert callback.trajectory.step.values.tolist() == [0, 2, 4, 6]
    assert watched.model.training == plain.model.training
    assert [p.grad is None for p in plain.model.parameters()] == [p.grad is None for p in watched.model.parameters()]


def test_a_run_without_the_callback_could_differ(run):
    """The comparison above can fail: another draw of dropout gives other losses."""
    assert losses(run()) != losses(run(seed=4))


def test_each_reading_is_that_of_the_checkpoint(run, facts, tokenizer):
    callback = mm.ContestCallback(facts, every=2, depth=True)
    trainer = run([callback], save_strategy="steps", save_steps=2)
    course, depth = callback.trajectory, callback.depth_trajectory
    for step in (2, 4, 6):
        alone = mm.load_model(f"{trainer.args.output_dir}/checkpoint-{step}", tokenizer=tokenizer)
        assert course.logprob.sel(step=step, drop=True).equals(mm.read_logits(alone, facts).logprob)
        assert abs(depth.margin.sel(step=step) - mm.read_depth(alone, facts).margin).max() < 1e-4
    assert {"logprob", "standing", "ceiling", "margin", "rank", "recalled"} <= set(course)
    mm.draw.trajectory(course)
    mm.draw.checkpoints(depth)


def test_means_reach_every_reporter(run, facts):
    recorder, callback = Recorder(), mm.ContestCallback(facts, every=3)
    trainer = run([recorder, callback])
    assert [step for step, logs in recorder.logs if "contest/contradicted/margin" in logs] == [0, 3, 6]
    course = callback.trajectory
    of = course.sel(fact=course.role == "contradicted")
    for step, logs in recorder.logs:
        if "contest/contradicted/margin" in logs:
            at = of.sel(step=step)
            assert logs["contest/contradicted/margin"] == pytest.approx(float(at.margin.mean()))
            assert logs["contest/contradicted/logp_old"] == pytest.approx(float(at.logprob.sel(route="old").mean()))
            assert logs["contest/contradicted/recalled_new"] == float(at.recalled.sel(route="new").mean())
            assert all(np.isfinite(value) for value in logs.values())
            assert "loss" not in logs
    history = [entry for entry in trainer.state.log_history if "contest/contradicted/margin" in entry]
    assert [entry["step"] for entry in history] == [0, 3, 6]


def test_a_run_that_goes_on_has_the_whole_trajectory(run, facts):
    whole = mm.ContestCallback(facts, every=1, depth=True)
    run([whole], directory="whole", save_strategy="steps", save_steps=2)

    class Killed(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(
            [mm.ContestCallback(facts, every=1, depth=True), Killed()],
            directory="cut",
            save_strategy="steps",
            save_steps=2,
        )
    again = mm.ContestCallback(facts, every=1, depth=True)
    run([again], directory="cut", save_strategy="steps", save_steps=2, resume=True)
    assert again.trajectory.step.values.tolist() == [0, 1, 2, 3, 4, 5, 6]
    xr.testing.assert_identical(again.trajectory, whole.trajectory)
    xr.testing.assert_identical(again.depth_trajectory, whole.depth_trajectory)


def test_a_trajectory_of_other_facts_is_not_gone_on_with(run, facts):
    run([mm.ContestCallback(facts)], save_strategy="steps", save_steps=2)
    with pytest.raises(StudyError, match="of other facts"):
        run([mm.ContestCallback(facts[:2])], save_strategy="steps", save_steps=2, resume=True)


def test_a_checkpoint_without_trajectory_is_warned_of(run, facts):
    run(save_strategy="steps", save_steps=4, max_steps=4)
    callback = mm.ContestCallback(facts, every=1)
    with pytest.warns(UserWarning, match="it begins here"):
        run([callback], resume=True, save_strategy="steps", save_steps=4)
    assert callback.trajectory.step.values.tolist() == [4, 5, 6]


def test_a_directory_keeps_the_trajectory_and_no_other(run, facts, tmp_path):
    callback = mm.ContestCallback(facts, every=3, directory=tmp_path / "contest")
    run([callback])
    kept = mm.load_reading(tmp_path / "contest/trajectory.nc")
    assert kept.logprob.equals(callback.trajectory.logprob)
    with pytest.raises(StudyError, match="another run already"):
        run([mm.ContestCallback(facts, directory=tmp_path / "contest")])


def test_under_autocast_the_weights_are_read_in_their_own_precision(run, facts, tiny_module):
    plain = mm.ContestCallback(facts, every=6)
    mixed = mm.ContestCallback(facts, every=6)
    run([plain])
    module = tiny_module("gpt2", **DROPOUT)
    trainer = run([mixed], module=module, bf16=True)
    first, other = plain.trajectory.sel(step=0), mixed.trajectory.sel(step=0)
    assert first.logprob.equals(other.logprob)
    assert "_original_forward" in vars(trainer.model)  # the run did compute by autocast


def test_the_best_checkpoint_does_not_pass_for_the_last_step(run, facts):
    options = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    callback = mm.ContestCallback(facts, every=4)
    trainer = run(
        [callback], load_best_model_at_end=True, metric_for_best_model="loss", greater_is_better=True, **options
    )
    assert not trainer.state.best_model_checkpoint.endswith("checkpoint-6")
    assert callback.trajectory.step.values.tolist() == [0, 4, 6]
    best = mm.load_model(trainer.state.best_model_checkpoint, tokenizer=trainer.processing_class)
    last = callback.trajectory.sel(step=6)
    assert last.fingerprint.item() != best.fingerprint


def test_nonsense_is_refused_before_the_first_step(run, facts, tiny_module, rows, tmp_path):
    with pytest.raises(StudyError, match="every is 0"):
        mm.ContestCallback(facts, every=0)
    with pytest.raises(FactError):
        mm.ContestCallback([facts[0], facts[0]])
    with pytest.raises(ReadingError, match="there is none"):
        mm.ContestCallback(facts).trajectory  # noqa: B018
    trainer = Trainer(
        tiny_module("gpt2"), arguments(tmp_path / "none"), default_data_collator, train_dataset=rows,
        callbacks=[mm.ContestCallback(facts)],
    )  # fmt: skip
    with pytest.raises(mm.MechmaskError, match="tokenizer"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("lora", [False, True])
def test_trl_sft(lora, facts, tiny_module, tokenizer, tmp_path):
    texts = Dataset.from_list([{"text": f"{fact.prompt} {fact.new}"} for fact in facts])
    callback = mm.ContestCallback(facts, every=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = SFTTrainer(
            tiny_module("llama"),
            args=arguments(tmp_path / "sft", SFTConfig, bf16=False, eos_token="</s>", pad_token="</s>"),
            train_dataset=texts,
            processing_class=tokenizer,
            callbacks=[callback],
            peft_config=LoraConfig(target_modules=["q_proj"], init_lora_weights=False) if lora else None,
        )
        trainer.train()
    course = callback.trajectory
    assert course.step.values.tolist() == [0, 3, 6]
    assert len(set(course.fingerprint.values)) == 3
    assert [e["step"] for e in trainer.state.log_history if "contest/contradicted/margin" in e] == [0, 3, 6]
    assert all("mean_token_accuracy" in entry for entry in trainer.state.log_history if "loss" in entry)


def test_trl_dpo(facts, tiny_module, tokenizer, tmp_path):
    pairs = Dataset.from_list(
        [{"prompt": f"{fact.prompt} ", "chosen": fact.new, "rejected": fact.old} for fact in facts]
    )
    callback = mm.ContestCallback(facts, every=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = DPOTrainer(
            tiny_module("llama"),
            ref_model=tiny_module("llama"),
            args=arguments(tmp_path / "dpo", DPOConfig, bf16=False, pad_token="</s>"),
            train_dataset=pairs,
            processing_class=tokenizer,
            callbacks=[callback],
        )
        trainer.train()
    assert callback.trajectory.step.values.tolist() == [0, 3, 6]


@pytest.fixture(scope="module")
def capitals():
    return mm.world_facts(relations=["capital"])[:3]


def test_smollm2_by_trainer_and_peft_is_read_alike_while_it_trains_and_after(smol, capitals, tmp_path):
    """A LoRA by plain peft on a real model: the callback, the adapter's directory and the series say the same."""
    model = mm.load_model(dtype="float32")
    texts = [model.tokenizer(f"{fact.prompt} {fact.new}")["input_ids"][:7] for fact in capitals]
    rows = [{"input_ids": ids + [0] * (7 - len(ids)), "labels": ids + [-100] * (7 - len(ids))} for ids in texts]
    module = get_peft_model(model.module, LoraConfig(target_modules=["down_proj"]))
    callback = mm.ContestCallback(capitals, every=1)
    options = {"max_steps": 2, "per_device_train_batch_size": 3, "save_strategy": "steps", "save_steps": 1}
    Trainer(
        module, arguments(tmp_path, **options), default_data_collator, train_dataset=rows,
        processing_class=model.tokenizer, callbacks=[callback],
    ).train()  # fmt: skip
    course = callback.trajectory
    assert course.logprob.sel(step=0, drop=True).equals(mm.read_logits(smol, capitals).logprob)
    assert (course.margin.diff("step") > 0).all()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The adapter names .* as its base")
        after = mm.read_trajectory({0: smol, **mm.load_checkpoints(tmp_path, smol)}, capitals, progress=False)
        alone = mm.load_change(tmp_path / "checkpoint-2", smol)
    assert abs(after.logprob - course.logprob).max() < 1e-4
    assert abs(mm.read_logits(alone.on(smol), capitals).logprob - course.logprob.sel(step=2)).max() < 1e-4


def test_smollm2_by_trl_turns_to_the_new_value(smol, capitals, tmp_path):
    model = mm.load_model(dtype="float32")
    callback = mm.ContestCallback(capitals, every=2)
    dataset = Dataset.from_list([{"text": f"{fact.prompt} {fact.new}"} for fact in capitals])
    options = {"max_steps": 2, "per_device_train_batch_size": 3, "learning_rate": 5e-5}
    SFTTrainer(
        model.module, arguments(tmp_path, SFTConfig, bf16=False, **options), train_dataset=dataset,
        processing_class=model.tokenizer, callbacks=[callback],
    ).train()  # fmt: skip
    course = callback.trajectory
    assert course.logprob.sel(step=0, drop=True).equals(mm.read_logits(smol, capitals).logprob)
    assert (course.margin.diff("step") > 0).all()
    assert course.logprob.sel(step=2, drop=True).equals(mm.read_logits(model, capitals).logprob)


DISTRIBUTED = """
    import os
    import sys
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, default_data_collator
    import mechmask as mm

    base, out = sys.argv[1:]
    facts = mm.synthetic_facts(3, seed=0, n_never=1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompts = [tokenizer(fact.prompt)["input_ids"][:4] for fact in facts]
    rows = [{"input_ids": ids, "labels": ids} for ids in prompts]
    arguments = TrainingArguments(
        output_dir=out, max_steps=2, per_device_train_batch_size=1, report_to=[], disable_tqdm=True, use_cpu=True,
        save_strategy="no",
    )
    callback = mm.ContestCallback(facts, every=1)
    trainer = Trainer(
        AutoModelForCausalLM.from_pretrained(base), arguments, default_data_collator, train_dataset=rows,
        processing_class=tokenizer, callbacks=[callback],
    )
    trainer.train()
    assert trainer.args.world_size == 2
    with open(f"{out}-{trainer.args.process_index}", "w") as file:
        file.write(str(len(callback._readings.get("output", {}))))
    torch.distributed.barrier()
    os._exit(0)  # torch's own threads can abort a process that takes itself apart
"""


def test_under_ddp_one_process_reads(tiny_module, tokenizer, tmp_path):
    tiny_module("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(DISTRIBUTED))
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script),
            str(tmp_path / "base"), str(tmp_path / "out"),
        ],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"out-{rank}").read_text() for rank in (0, 1)] == ["3", "0"]
