"""What ContestCallback costs a training run: the same run of transformers' Trainer with it and without, in turns.

Where a machine's speed varies by more than the cost from one run to the next, ``share`` tells more than ``ratio``: the
seconds within the callback by those of the rest of the same run.

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


class Timed(mm.ContestCallback):
    """Knows how long it takes."""

    seconds = 0.0

    def _timed(self, event, *args, **kwargs):
        begin = time.perf_counter()
        event(*args, **kwargs)
        self.seconds += time.perf_counter() - begin

    def on_train_begin(self, *args, **kwargs):
        self._timed(super().on_train_begin, *args, **kwargs)

    def on_step_end(self, *args, **kwargs):
        self._timed(super().on_step_end, *args, **kwargs)

    def on_train_end(self, *args, **kwargs):
        self._timed(super().on_train_end, *args, **kwargs)


def seconds(options, facts, rows, every):
    """Of one run, how many of them within the callback, and how often the facts were read in it."""
    model = mm.load_model(options.model, dtype="float32", device=options.device)
    callback = Timed(facts, every=every, depth=options.depth) if every else None
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
    return (spent, callback.seconds, callback.trajectory.sizes["step"]) if callback else (spent, 0.0, 0)


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
    ratios, shares, plain = [], [], []
    for number in range(options.rounds):
        spent = {}
        for every in (0, options.every) if number % 2 else (options.every, 0):
            spent[every], within, n_read = seconds(options, facts, rows, every)
            print(number, every, round(spent[every], 2), round(within, 2), n_read, flush=True)
            if every:
                shares.append(within / (spent[every] - within))
        ratios.append(spent[options.every] / spent[0])
        plain.append(spent[0])
    found = {
        "ratio": statistics.median(ratios), "ratios": ratios, "share": statistics.median(shares), "shares": shares,
        "plain_seconds": statistics.median(plain),
        "threads": torch.get_num_threads(), "torch": torch.__version__,
        **{name: value for name, value in vars(options).items() if name not in ("out", "rounds")},
    }  # fmt: skip
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
