"""Second moments of keys: seconds and memory of five layers, what solving costs beside dense LU, what they are worth.

Memory is the process's peak above what it holds with the model loaded and read once (its files are mapped). Solves are
of 100 right sides, by the factor that is made once and by ``torch.linalg.solve`` each time, in turns; the ratio is the
median over rounds, which a shared machine moves little. With WikiText-2 beside the repository also the excess that the
shrinkage is chosen by: an update towards the key k by ``u = C^-1 k`` costs the keys of other text
``u' C_other u / (u' k)^2``, of which the least is ``1 / (k' C_other^-1 k)``. And what an update does to the value at a
text's first position, which is not among the keys, beside what it does at others: |u' k_0| / |u' k|, and the squared
norm of k_0 as a multiple of the mean. Measures, never gates.

    python tests/benchmarks/moments.py --rounds 3
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import torch
from timing import alternately, medians, write

import mechmask as mm
from mechmask.models.corpora import Corpus, text_corpus
from mechmask.write.moments.estimate import SecondMoment, second_moments

RESULTS = Path(__file__).parent / "results"
WIKITEXT = Path(__file__).parents[3] / "shared" / "data" / "wikitext2"
SHRINKAGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
N_RIGHT = 100


def resident_mb(field):
    """A line of the kernel's account of this process, in megabytes."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) / 1024


def peak_above(work):
    """What ``work()`` returns, and its peak of resident memory above what was there before, in megabytes."""
    before = resident_mb("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    except OSError:
        return work(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    return work(), resident_mb("VmHWM") - before


def costs(model, layers, corpus, n_tokens):
    """Second moments made in an empty cache: themselves, and what they cost."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["MECHMASK_CACHE"] = cache
        wall, processor = time.perf_counter(), time.process_time()
        found, peak = peak_above(lambda: second_moments(model, layers, corpus, n_tokens=n_tokens))
        cost = {
            "seconds": time.perf_counter() - wall,
            "processor_seconds": time.process_time() - processor,
            "peak_mb_above_model": peak,
            "n_tokens": found[layers[0]].n_tokens,
        }
        begin = time.perf_counter()
        second_moments(model, layers, corpus, n_tokens=n_tokens, progress=False)
        cost["seconds_from_cache"] = time.perf_counter() - begin
    return found, cost


def solving(moment, rounds, device):
    """Rounds of one factorization, of solves with it, and of dense LU solves of the same system."""
    width = len(moment.matrix)
    right = torch.randn(width, N_RIGHT, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dense = moment.matrix + moment.shrinkage * moment.matrix.trace() / width * torch.eye(width, dtype=torch.float64)
    fresh = lambda: SecondMoment(moment.layer, moment.n_tokens, moment.matrix, moment.shrinkage)  # noqa: E731
    works = {
        "factor_and_solve": lambda: fresh().solve(right[:, :1]),
        "solve": lambda: moment.solve(right),
        "dense_lu": lambda: torch.linalg.solve(dense, right),
    }
    difference = (moment.solve(right) - works["dense_lu"]()).norm() / works["dense_lu"]().norm()
    if difference > 1e-9:
        raise SystemExit(f"The solutions differ by {difference:.2g}. What is timed is not one system.")
    for _ in range(rounds):
        took = alternately(works, device, 1)
        yield {
            f"width_{width}_factor_seconds": took["factor_and_solve"],
            f"width_{width}_solve_100_seconds": took["solve"],
            f"width_{width}_dense_lu_100_seconds": took["dense_lu"],
            f"width_{width}_times_faster_than_lu": took["dense_lu"] / took["solve"],
        }


def keys_of(model, layer, corpus):
    """The keys of a text one by one, in float64: after its sequences' first positions, and at them."""
    caught = []
    projection = model.module.get_submodule(model.anatomy.mlp_output(layer).name)
    hook = projection.register_forward_pre_hook(lambda _module, args: caught.append(args[0].double()))
    with torch.no_grad():
        for start in range(0, len(corpus.sequences), 32):
            ids = torch.tensor(corpus.sequences[start : start + 32])
            model.module.model(input_ids=ids, use_cache=False)
    hook.remove()
    keys = torch.cat(caught)
    return keys[:, 1:].flatten(0, 1), keys[:, 0]


def worth(model, layer, found):
    """The excess by shrinkage, of the second moments by name, and what happens at first positions."""
    text = text_corpus(model, WIKITEXT / "valid.txt", 40 * 1536)
    whole = Corpus(tuple(ids for ids in text.sequences if len(ids) == 64), 1, "text")
    keys, first = keys_of(model, layer, whole)
    other = keys.T @ keys / len(keys)
    chosen = keys[torch.randperm(len(keys), generator=torch.Generator().manual_seed(0))[:200]].T
    least = 1 / (chosen * torch.linalg.solve(other, chosen)).sum(0)
    report = {}
    for name, moment in found.items():
        for shrinkage in SHRINKAGES:
            u = SecondMoment(layer, moment.n_tokens, moment.matrix, shrinkage).solve(chosen)
            u = u / (u * chosen).sum(0)
            report[f"{name} shrinkage {shrinkage:g}"] = ((u * (other @ u)).sum(0) / least).median().item()
    u = found["wikitext"].solve(chosen)
    u = u / (u * chosen).sum(0)
    values = found["wikitext"].eigenvalues
    return {
        "excess": report,
        "least_median_and_largest_eigenvalue_over_mean": (values[[0, len(values) // 2, -1]] / values.mean()).tolist(),
        "first_position": {
            "squared_norm_over_mean": (first.square().sum(1).mean() / keys.square().sum(1).mean()).item(),
            "moved_rms": (u.T @ first[:200].T).square().mean().sqrt().item(),
            "moved_rms_at_others": (u.T @ keys[:4000].T).square().mean().sqrt().item(),
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 5, 6, 7, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--solve-rounds", type=int, default=9)
    parser.add_argument("--skip-worth", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = mm.load_model(options.model, device=options.device)
    seconds_of_a_fingerprint = timed_fingerprint(model)
    texts = {"sampled": None, **({"wikitext": WIKITEXT / "test.txt"} if WIKITEXT.is_dir() else {})}
    report, found = {"layers": options.layers, "load_at_start": list(os.getloadavg())}, {}
    for name, corpus in reversed(texts.items()):
        rounds = []
        for _ in range(options.rounds):
            found[name], cost = costs(model, options.layers, corpus, None)
            rounds.append(cost)
        report[name] = medians(rounds)
    last = options.layers[-1]
    report["solving"] = medians(list(solving(found["sampled"][last], options.solve_rounds, options.device)))
    wide = torch.randn(4096, 8192, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    report["solving"] |= medians(list(solving(SecondMoment(0, 8192, wide @ wide.T / 8192, 1e-2), 3, options.device)))
    if WIKITEXT.is_dir() and not options.skip_worth:
        moments = {name: by_layer[last] for name, by_layer in found.items()}
        width = len(moments["sampled"].matrix)
        moments["wikitext, one token a direction"] = costs(model, [last], WIKITEXT / "test.txt", width)[0][last]
        report["worth"] = {"layer": last, "units": "multiple of the least cost", **worth(model, last, moments)}
        for name, value in report["worth"]["excess"].items():
            print(f"{name:<56} {value:9.3f}")
    report["load_at_end"] = list(os.getloadavg())
    report["seconds_of_a_fingerprint"] = seconds_of_a_fingerprint
    write(options.out or RESULTS / f"moments-{options.device.split(':')[0]}.json", options.device, model, report)


def timed_fingerprint(model):
    begin = time.perf_counter()
    _ = model.fingerprint
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
