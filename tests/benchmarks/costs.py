"""What readings, training and loading cost, as ratios to a plain forward pass of the same tokens and to the limit.

Everything is timed in rounds, one after the other, and reported as the median over rounds of the ratio within a round:
shared machines drift, ratios less so. The limit is the floating-point work of the result over the rate of a large
matrix product measured in the same round. The readout is that of a small study at a checkpoint of its contradiction.
Measures, never gates.

    python tests/benchmarks/costs.py --rounds 5
"""

import argparse
import statistics
from pathlib import Path

import torch
from timing import matmul_rate, medians, seconds, small_study, write

import mechmask as mm
from mechmask.models.forward import decoded
from mechmask.models.packing import batches
from mechmask.models.routes import encode_contests
from mechmask.read.checkpoint import read_logits_and_depth
from mechmask.write.finetune import Finetuning
from mechmask.write.objective import packed_targets

RESULTS = Path(__file__).parent / "results"


def block_parameters(model):
    """Weights that every token is multiplied with, the embedding left out."""
    return sum(p.weight.numel() for p in model.anatomy.projections())


def one_round(model, facts, config, installed, device):
    contests = encode_contests(model.tokenizer, facts)
    packed = list(batches(contests, score="sequence"))
    narrow = list(batches(contests, score="divergence"))
    n_layers, head = model.n_layers + 1, model.vocab_size * model.width
    tokens = {
        "packed": sum(int(b.input_ids.numel()) for b in packed),
        "narrow": sum(int(b.input_ids.numel()) for b in narrow),
    }
    nodes = {"packed": sum(len(b.rows) for b in packed), "narrow": sum(len(b.rows) for b in narrow)}
    unpacked = sum(len(c.prompt) + len(ids) - 1 for c in contests for ids in c.routes.values())
    weights = block_parameters(model)

    def plain(chosen):
        with model.inference():
            for batch in chosen:
                decoded(model, batch)

    took = {"matmul_rate": matmul_rate(model, device)}
    took["plain_packed"] = seconds(lambda: plain(packed), device)
    took["plain_narrow"] = seconds(lambda: plain(narrow), device)
    took["read_logits"] = seconds(lambda: mm.read_logits(model, facts), device)
    mm.read_depth(model, facts[:1])  # makes the bridge
    took["read_depth"] = seconds(lambda: mm.read_depth(model, facts), device)
    reading = mm.read_logits(model, facts)
    took["generate"] = seconds(lambda: mm.generate(model, facts, reading=reading), device)
    examples = facts.contradiction_examples(config.taught_phrasings)
    with Finetuning(model, examples, config.contradict, installed) as run:
        passes = packed_targets(model, run._examples)
        took["training_step"] = seconds(lambda: run.advance(1), device)

        def readout():
            read_logits_and_depth(model, facts, depth_facts=facts.contradicted, generation=True)

        def readout_in_two_passes():
            mm.generate(model, facts, reading=mm.read_logits(model, facts))
            mm.read_depth(model, facts.contradicted)

        mm.read_depth(model, facts.contradicted[:1])  # makes the bridge, which a phase does once
        took["steps_between"] = seconds(lambda: run.advance(config.checkpoint_every), device)
        took["readout"] = seconds(readout, device)
        took["readout_in_two_passes"] = seconds(readout_in_two_passes, device)

    def plain_training_tokens():
        with model.inference():
            for asked in passes:
                decoded(model, asked.batch)

    took["plain_training"] = seconds(plain_training_tokens, device)
    rate = took["matmul_rate"]
    trained, asked = sum(p.batch.input_ids.numel() for p in passes), sum(len(p.tokens) for p in passes)
    limit = {
        "read_logits": (2 * weights * tokens["packed"] + 2 * head * nodes["packed"]) / rate,
        "read_depth": (2 * weights * tokens["narrow"] + 2 * head * nodes["narrow"] * n_layers) / rate,
        # forward, and backward to the activations: the base weights ask for no gradient
        "training_step": (4 * weights * trained + 4 * head * asked) / rate,
    }
    return {
        "matmul_gflops": rate / 1e9,
        "read_logits_seconds": took["read_logits"],
        "read_logits_over_plain_forward_of_its_tokens": took["read_logits"] / took["plain_packed"],
        "read_logits_limit_share": limit["read_logits"] / took["read_logits"],
        "read_logits_tokens_packed_over_unpacked": tokens["packed"] / unpacked,
        "read_depth_seconds": took["read_depth"],
        "read_depth_over_plain_forward_of_its_tokens": took["read_depth"] / took["plain_narrow"],
        "read_depth_limit_share": limit["read_depth"] / took["read_depth"],
        "training_step_seconds": took["training_step"],
        "training_step_over_plain_forward_of_its_tokens": took["training_step"] / took["plain_training"],
        "training_step_limit_share": limit["training_step"] / took["training_step"],
        "readout_over_steps_between_checkpoints": took["readout"] / took["steps_between"],
        "readout_in_two_passes_over_steps_between_checkpoints": took["readout_in_two_passes"] / took["steps_between"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    mm.load_model(options.model)
    loading = [
        seconds(lambda: mm.load_model(options.model, device=options.device, dtype=options.dtype), options.device)
        for _ in range(3)
    ]
    model = mm.load_model(options.model, device=options.device, dtype=options.dtype)
    facts, config = small_study()
    installed = mm.finetune(model, facts.install_examples(config.taught_phrasings), config.install)
    one_round(model, facts, config, installed, options.device)  # warm-up
    rounds = [one_round(model, facts, config, installed, options.device) for _ in range(options.rounds)]
    report = {"rounds": options.rounds, "load_model_seconds": statistics.median(loading), **medians(rounds)}
    print(f"{'load_model_seconds':<56} {report['load_model_seconds']:9.3f}")
    write(options.out or RESULTS / f"costs-{options.device.split(':')[0]}.json", options.device, model, report)


if __name__ == "__main__":
    main()
