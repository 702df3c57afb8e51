"""What ContestCallback costs a training run: the same run of transformers' Trainer with it and without, in turns.

python tests/benchmarks/callback.py --rounds 3 --out tests/benchmarks/results/callback-cpu.json
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments, default_data_collator

import mechmask as mm


def seconds(options, facts, rows, every):
    """Of one run, and how often the facts were read in it."""
    model = mm.load_model(options.model, dtype="float32", device=options.device)
    callback = mm.ContestCallback(facts, every=every, depth=options.depth) if every else None
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            output_dir=directory, max_steps=options.steps, per_device_train_batch_size=options.batch_size,
            learning_rate=1e-5, report_to=[], disable_tqdm=True, use_cpu=options.device == "cpu", save_strategy="no",
            logging_strategy="no", seed=0,
        )  # fmt: skip
        trainer = Trainer(
            model.module, arguments, default_data_collator, train_dataset=rows, processing_class=model.tokenizer,
            callbacks=[callback] if callback else [],
        )  # fmt: skip
        begin = time.perf_counter()
        trainer.train()
        spent = time.perf_counter() - begin
    return spent, callback.trajectory.sizes["step"] if callback else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--facts", type=int, default=24)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--depth", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    facts = mm.world_facts()[: options.facts]
    ids = torch.randint(0, 40_000, (256, options.tokens), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": row} for row in ids]
    ratios, plain = [], []
    for number in range(options.rounds):
        spent = {}
        for every in (0, options.every) if number % 2 else (options.every, 0):
            spent[every], n_read = seconds(options, facts, rows, every)
            print(number, every, round(spent[every], 2), n_read, flush=True)
        ratios.append(spent[options.every] / spent[0])
        plain.append(spent[0])
    found = {
        "ratio": statistics.median(ratios), "ratios": ratios, "plain_seconds": statistics.median(plain),
        "threads": torch.get_num_threads(), "torch": torch.__version__,
        **{name: value for name, value in vars(options).items() if name not in ("out", "rounds")},
    }  # fmt: skip
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
