"""What the benchmarks share: a clock, the machine's own rate, and medians of what was timed in rounds."""

import json
import statistics
import time

import torch

import mechmask as mm

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}  # the latter counts no time that others took


def small_study():
    """The facts and the configuration of a small study: what its training and its readings cost is measured."""
    facts = mm.synthetic_facts(12, seed=0, n_never=8)
    return facts, mm.StudyConfig(taught_phrasings=2, contradict=mm.FinetuneConfig(steps=20))


def seconds(work, device, clock="wall"):
    """How long ``work()`` takes."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    begin = CLOCKS[clock]()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return CLOCKS[clock]() - begin


def alternately(works, device, times=5, clock="wall"):
    """The median time of each piece of work, taken in turns: what is compared closely meets the same machine."""
    took = {name: [] for name in works}
    for _ in range(times):
        for name, work in works.items():
            took[name].append(seconds(work, device, clock))
    return {name: statistics.median(values) for name, values in took.items()}


def matmul_rate(model, device, clock="wall"):
    """FLOP/s of a product as the MLP makes it, in the model's dtype."""
    width, wide = model.width, model.module.config.intermediate_size
    left = torch.randn(1024, width, device=device, dtype=model.dtype)
    right = torch.randn(width, wide, device=device, dtype=model.dtype)
    repeats = 30
    return 2 * 1024 * width * wide * repeats / seconds(lambda: [left @ right for _ in range(repeats)], device, clock)


def medians(rounds):
    """Median, least and most of every number over the rounds, printed as they are made."""
    report = {}
    for name in rounds[0]:
        values = sorted(r[name] for r in rounds)
        report[name] = {"median": statistics.median(values), "min": values[0], "max": values[-1]}
        print(f"{name:<56} {report[name]['median']:9.3f}  [{values[0]:.3f}, {values[-1]:.3f}]")
    return report


def write(path, device, model, report):
    """The report under a header that says on what it was measured."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"cpu, {torch.get_num_threads()} threads"
    header = {
        "device": name,
        "dtype": str(model.dtype),
        "torch": torch.__version__,
        "model": model.name,
        "fingerprint": model.fingerprint,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**header, **report}, indent=1) + "\n")
