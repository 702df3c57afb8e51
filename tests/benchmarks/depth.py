"""What a depth reading costs, beside what the peers pay for the same numbers, in one run.

256 facts, all layers. Every ratio is of two times of one round; the median over rounds is reported, with the range. The
limit is the floating-point work that the result needs (each distinct token once through the blocks, each place that is
read once a layer through the unembedding) over the rate of a large matrix product of the same round. Two peers unembed
every position: tuned-lens as its users call it, prompt by prompt into numpy (one prompt in eight is timed), and
its way in batches that throw away what they have made. Measures, never gates.

    python tests/benchmarks/depth.py --rounds 3
"""

import argparse
import resource
import statistics
import threading
from pathlib import Path

import torch
from timing import alternately, matmul_rate, medians, seconds, write
from transformer_lens.model_bridge import TransformerBridge
from tuned_lens.nn.lenses import LogitLens
from tuned_lens.plotting import PredictionTrajectory

import mechmask as mm
from mechmask.models.packing import batches
from mechmask.models.routes import encode_contests
from mechmask.read.lenses.tuned import SharedUnembed
from mechmask.read.margin import read_margin

RESULTS = Path(__file__).parent / "results"


def by_length(contests, device, most=32):
    """Prompts up to where old and new diverge, in batches without padding, as the peers like them."""
    lengths = {}
    for contest in contests:
        ids = contest.prompt + contest.routes["old"][: contest.n_common]
        lengths.setdefault(len(ids), []).append(ids)
    return [
        torch.tensor(rows[i : i + most], device=device) for rows in lengths.values() for i in range(0, len(rows), most)
    ]


@torch.no_grad()
def prediction_trajectories(model, rows):
    """tuned-lens itself, on one prompt after the other; its own ``Unembed`` fails beside TransformerLens 4."""
    lens = LogitLens(SharedUnembed(model))
    for prompt in (prompt for ids in rows for prompt in ids.tolist()):
        PredictionTrajectory.from_lens_and_model(lens, model.module, prompt, model.tokenizer)


@torch.inference_mode()
def every_position(model, rows):
    """tuned-lens's way in batches: the log-probabilities of the whole vocabulary at every position of every layer."""
    anatomy, kept = model.anatomy, []

    def keep(_, args, kwargs):
        kept.append((*args, *kwargs.values())[0])

    hooks = [block.register_forward_pre_hook(keep, with_kwargs=True) for block in anatomy.blocks]
    for ids in rows:
        kept.clear()
        model.module(input_ids=ids, use_cache=False).logits.log_softmax(-1)
        for residual in kept:
            anatomy.unembedding(anatomy.final_norm(residual)).float().log_softmax(-1)
    for hook in hooks:
        hook.remove()


@torch.inference_mode()
def accumulated_resid(bridge, rows):
    """TransformerLens's way: cache, accumulated residual at the last position, unembedding."""
    wanted = {
        f"blocks.{i}.{hook}" for i in range(bridge.cfg.n_layers) for hook in ("hook_resid_pre", "hook_resid_post")
    }
    wanted |= {"hook_embed", "ln_final.hook_scale"}
    for ids in rows:
        _, cache = bridge.run_with_cache(ids, names_filter=lambda name: name in wanted, prepend_bos=False)
        stack = cache.accumulated_resid(apply_ln=True, pos_slice=-1)
        (stack @ bridge.W_U + bridge.b_U).float().log_softmax(-1)


class PeakMemory:
    """The most that this process holds beyond what it held, in bytes, sampled every few milliseconds."""

    def __enter__(self):
        self._stop = threading.Event()
        self.start = self.peak = self._now()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while not self._stop.wait(0.005):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def half_as_high(model, name, device):
    """The same model without the upper half of its blocks."""
    half = mm.load_model(name, device=device).module
    del half.get_submodule(model.anatomy.layout.blocks)[model.n_layers // 2 :]
    half.config.num_hidden_layers = model.n_layers // 2
    return mm.load_model(half, tokenizer=model.tokenizer)


def one_round(model, low, facts, device):
    contests = encode_contests(model.tokenizer, facts)
    rows = by_length(contests, device)
    paths = [contest.prompt + contest.routes["old"][: contest.n_common] for contest in contests]
    distinct = {path[:n] for path in paths for n in range(1, len(path) + 1)}
    packed = list(batches(contests, score="divergence", batch_size=64))
    weights = sum(p.weight.numel() for p in model.anatomy.projections())
    head = model.vocab_size * model.width
    work = 2 * weights * len(distinct) + 2 * head * len(contests) * (model.n_layers + 1)

    def plain():
        with model.inference():
            for batch in packed:
                model.anatomy.decoder(**batch.inputs(model.device, model.dtype))

    def plain_prompts():
        with model.inference():
            for ids in rows:
                model.anatomy.decoder(input_ids=ids, use_cache=False)

    bridge = TransformerBridge.boot_transformers(
        model.name, hf_model=mm.load_model(device=device).module, tokenizer=model.tokenizer
    )
    some = [prompt[None] for ids in rows for prompt in ids][::8]
    rates = []
    took = {
        **alternately(
            {
                "read_depth": lambda: mm.read_depth(model, facts),
                "matmul": lambda: rates.append(matmul_rate(model, device)),
            },
            device,
            times=3,
        ),
        **alternately(
            {
                "read_margin": lambda: read_margin(model, facts),
                "forward_packed": plain,
                "forward_prompts": plain_prompts,
            },
            device,
        ),
        "prediction_trajectories": len(paths)
        / len(some)
        * seconds(lambda: prediction_trajectories(model, some), device),
        "every_position": seconds(lambda: every_position(model, rows), device),
        "accumulated_resid": seconds(lambda: accumulated_resid(bridge, rows), device),
        "read_depth_nnsight": seconds(lambda: mm.read_depth(model, facts, backend="nnsight"), device),
    }
    half, rate = facts[: len(facts) // 2], statistics.median(rates)
    return {
        "matmul_gflops": rate / 1e9,
        **{f"{name}_seconds": value for name, value in took.items()},
        "read_depth_limit_share": work / rate / took["read_depth"],
        "prediction_trajectories_over_read_depth": took["prediction_trajectories"] / took["read_depth"],
        "every_position_over_read_depth": took["every_position"] / took["read_depth"],
        "accumulated_resid_over_read_depth": took["accumulated_resid"] / took["read_depth"],
        "read_margin_over_forward_of_its_tokens": took["read_margin"] / took["forward_packed"],
        "read_margin_over_forward_of_the_prompts": took["read_margin"] / took["forward_prompts"],
        "tokens_read_over_prompt_tokens": sum(b.input_ids.numel() for b in packed) / sum(map(len, paths)),
        "half_the_facts_seconds_share": seconds(lambda: mm.read_depth(model, half), device) / took["read_depth"],
        "half_the_layers_seconds_share": seconds(lambda: mm.read_depth(low, facts), device) / took["read_depth"],
    }


def peak(model, facts):
    """Peak of a reading over what the loaded model holds, once it has been read once."""
    held = sum(p.numel() * p.element_size() for p in model.module.parameters())
    with PeakMemory() as memory:
        mm.read_depth(model, facts)
    return (held + memory.peak - memory.start) / held


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--facts", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = mm.load_model(options.model, device=options.device)
    facts = mm.synthetic_facts(options.facts, n_never=0)
    mm.read_depth(model, facts[:8])
    peaks = {f"peak_over_model_{n}_facts": peak(model, facts[:n]) for n in (options.facts // 4, options.facts)}
    low = half_as_high(model, options.model, options.device)
    mm.read_depth(low, facts[:8])
    rounds = [one_round(model, low, facts, options.device) for _ in range(options.rounds)]
    report = {"facts": options.facts, "rounds": options.rounds, **peaks, **medians(rounds)}
    for name, value in peaks.items():
        print(f"{name:<56} {value:9.3f}")
    write(options.out or RESULTS / f"depth-{options.device.split(':')[0]}.json", options.device, model, report)


if __name__ == "__main__":
    main()
