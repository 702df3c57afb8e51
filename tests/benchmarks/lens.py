"""What fitting a lens costs and what it gives: held-out KL from the model's output beside other ways to it.

Prints seconds of each part and, by layer, nats of the logit lens, ridge, the tuned lens, and the recipe of tuned-lens
(Belrose et al. 2023: zero start, SGD with Nesterov momentum 0.9 and lr 1 - 0.9, weight decay 1e-3, linear decay, norm
of the gradient clipped to 1; autograd over whole logits) given three times the steps, which take six times as long.
With WikiText-2 beside the repository also on that, which no lens was fitted on. Measures, never gates.

    python tests/benchmarks/lens.py --out tests/benchmarks/results/lens-cpu.json
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch.nn import functional as F  # noqa: N812

import mechmask as mm
from mechmask.models.corpora import text_corpus
from mechmask.read.lenses.config import LensConfig
from mechmask.read.lenses.fit import Fit

WIKITEXT = Path(__file__).parents[3] / "shared" / "data" / "wikitext2" / "test.txt"
WIKITEXT_TOKENS = 2048


def timed(work, device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    begin = time.perf_counter()
    result = work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return result, time.perf_counter() - begin


def by_the_recipe_of_tuned_lens(fit, steps):
    """Autograd over whole logits, a backward a layer, as its training loop does."""
    layers = {i: torch.nn.Linear(fit.model.width, fit.model.width, device=fit.model.device) for i in fit.layers}
    for linear in layers.values():
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    parameters = [p for linear in layers.values() for p in linear.parameters()]
    # its lr is 1 - momentum times a scale of 1, so that the terminal velocity does not depend on momentum
    optimizer = torch.optim.SGD(parameters, lr=1.0 * (1 - 0.9), momentum=0.9, nesterov=True, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    readout = fit.readout

    def logprobs(residual):
        logits = F.linear(readout.norm(residual), readout.weight, readout.bias)
        return (logits if readout.cap is None else readout.cap * torch.tanh(logits / readout.cap)).log_softmax(-1)

    stream = fit.train.shuffled(fit.config.tokens_per_step, torch.Generator().manual_seed(fit.config.seed))
    with fit.model.evaluation():
        for _ in range(steps):
            with torch.no_grad():
                residuals = next(stream)
                target = logprobs(residuals[-1])
            optimizer.zero_grad()
            for layer, linear in layers.items():
                predicted = logprobs(residuals[layer] + linear(residuals[layer]))
                (target.exp() * (target - predicted)).sum(-1).mean().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
    every_layer = torch.nn.ModuleList(layers.get(i) or torch.nn.Linear(1, 1) for i in range(fit.model.n_layers))
    return every_layer.requires_grad_(False)


def one_round(model, options, seed):
    config = LensConfig(seed=seed, **({} if options.steps is None else {"steps": options.steps}))
    seconds = {}
    fit, seconds["sampling"] = timed(
        lambda: Fit(model, None, config, layers=options.layers, progress=options.progress), options.device
    )
    ridge, seconds["ridge"] = timed(fit.ridge, options.device)
    tuned, seconds["tuned"] = timed(lambda: fit.tuned(ridge), options.device)
    recipe, seconds["recipe"] = timed(
        lambda: by_the_recipe_of_tuned_lens(fit, options.recipe_factor * config.steps), options.device
    )
    lenses = {"logit": None, "ridge": ridge, "tuned": tuned, "recipe": recipe}
    texts = {"sampled": fit.judge}
    if WIKITEXT.is_file():
        texts["wikitext"] = fit.held_out(text_corpus(model, WIKITEXT, WIKITEXT_TOKENS))
    kl = {
        f"{text} {name}": [interval.estimate for interval in fit.kl(translators, held_out)]
        for text, held_out in texts.items()
        for name, translators in lenses.items()
    }
    seconds["layer_step"] = seconds["tuned"] / len(fit.layers) / config.steps
    return seconds, kl, fit.layers


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--layers", type=int, nargs="+")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--recipe-factor", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = mm.load_model(options.model, device=options.device)
    rounds = [one_round(model, options, seed) for seed in range(options.rounds)]
    layers = rounds[0][2]
    seconds = {name: statistics.median(r[0][name] for r in rounds) for name in rounds[0][0]}
    kl = {name: [statistics.median(r[1][name][i] for r in rounds) for i in range(len(layers))] for name in rounds[0][1]}
    for name, value in seconds.items():
        print(f"{name:<18} {value:9.2f} s")
    print(f"{'layer':<18}" + "".join(f"{layer:8d}" for layer in layers))
    for name, values in kl.items():
        print(f"{name:<18}" + "".join(f"{value:8.2f}" for value in values))
    if options.out:
        report = {
            "model": model.name,
            "fingerprint": model.fingerprint,
            "device": options.device,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "rounds": options.rounds,
            "layers": layers,
            "seconds": seconds,
            "kl_nats": kl,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
