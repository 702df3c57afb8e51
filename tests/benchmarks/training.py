"""What a LoRA step costs: mechmask's, that of peft under transformers' own loss, and the limit of the matrix products.

Both take the same examples, AdamW and clipping: forward, backward and update. Theirs is the usual one, rows padded by
the usual collator and labels of -100 outside the value. They are timed in turns, and what is reported is the median
over rounds of the ratio within a round: shared machines drift, ratios less so, and least by the processor's clock,
which does not count what others take. The limit is the work that the loss cannot do without over the rate of a large
matrix product in the same round: each distinct beginning of a row once, forward and back to the activations, and the
unembedding where a token of a value is asked for. The work of the factors themselves is left out, so that the share is
rather too small. A step of ours in bfloat16 is timed beside them, where the processor has it. Measures, never gates.

    python tests/benchmarks/training.py --rounds 9
"""

import argparse
from pathlib import Path

import torch
from peft import get_peft_model
from timing import CLOCKS, alternately, matmul_rate, medians, small_study, write
from transformers import DataCollatorForSeq2Seq

import mechmask as mm
from mechmask.models.routes import encode_examples
from mechmask.write.finetune import Finetuning, lora_config

RESULTS = Path(__file__).parent / "results"
PHRASINGS = 2


def limit_flop(model, encoded):
    """Floating-point work of the least that a step has to compute."""
    rows = [e.prompt + e.value[:-1] for e in encoded]
    tokens = len({row[:n] for row in rows for n in range(1, len(row) + 1)})
    asked = len({(e.prompt + e.value[:i], token) for e in encoded for i, token in enumerate(e.value)})
    weights = sum(p.weight.numel() for p in model.anatomy.projections())
    return 4 * weights * tokens + 4 * model.vocab_size * model.width * asked


class PeftStep:
    """A step as a user of peft and transformers takes it."""

    def __init__(self, name, config, encoded, device, dtype):
        model = mm.load_model(name, device=device, dtype=dtype)
        self.module = get_peft_model(model.module, lora_config(model, config)).train()
        tokenizer = model.tokenizer
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        rows = [{"input_ids": [*e.prompt, *e.value], "labels": [-100] * len(e.prompt) + list(e.value)} for e in encoded]
        self.batch = DataCollatorForSeq2Seq(tokenizer, padding=True)(rows).to(device)
        self.factors = [p for p in self.module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.factors, lr=config.lr, weight_decay=config.weight_decay)
        self.max_grad_norm = config.max_grad_norm

    def __call__(self):
        loss = self.module(**self.batch).loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.factors, self.max_grad_norm)
        self.optimizer.step()
        return loss.item()


def rounds_of(options, facts, config):
    """The ratios of every round on one batch."""
    model = mm.load_model(options.model, device=options.device, dtype=options.dtype)
    examples = facts.contradiction_examples(PHRASINGS)
    encoded = encode_examples(model.tokenizer, examples)
    theirs = PeftStep(options.model, config, encoded, options.device, options.dtype)
    flop = limit_flop(model, encoded)
    narrow = mm.load_model(options.model, device=options.device, dtype=options.dtype)
    in_bfloat16 = config.model_copy(update={"precision": "bfloat16"})
    with Finetuning(model, examples, config) as run, Finetuning(narrow, examples, in_bfloat16) as half:
        works = {"ours": lambda: run.advance(1), "peft": theirs, "bfloat16": lambda: half.advance(1)}
        first = {name: work() for name, work in works.items()}  # warm-up
        if abs(run.losses[0] - first["peft"]) > 1e-3 * first["peft"]:
            raise SystemExit(f"The losses differ: {run.losses[0]} and {first['peft']}. What is timed is not one step.")
        for _ in range(options.rounds):
            took = alternately(works, options.device, 1, options.clock)
            limit = flop / matmul_rate(model, options.device, options.clock)
            yield {
                "step_seconds": took["ours"],
                "peft_step_seconds": took["peft"],
                "times_faster_than_peft": took["peft"] / took["ours"],
                "limit_share": limit / took["ours"],
                "peft_limit_share": limit / took["peft"],
                "bfloat16_step_seconds": took["bfloat16"],
                "bfloat16_times_faster": took["ours"] / took["bfloat16"],
            }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    config = small_study()[1].contradict
    report = {"rounds": options.rounds, "clock": options.clock}
    for name, facts in {"synthetic_24": mm.synthetic_facts(24, seed=0), "small": small_study()[0]}.items():
        print(name)
        report[name] = medians(list(rounds_of(options, facts, config)))
    model = mm.load_model(options.model, device=options.device, dtype=options.dtype)
    write(options.out or RESULTS / f"training-{options.device.split(':')[0]}.json", options.device, model, report)


if __name__ == "__main__":
    main()
