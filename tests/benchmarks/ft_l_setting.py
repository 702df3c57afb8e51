"""Finds layer and clamp of FT-L for a model: the evidence behind a preset in mechmask/write/presets/ft_l.toml.

Single edits of real facts that the model holds, over a grid of layers and clamps; three shares as ROME reports them
(Meng et al. 2022): efficacy (the new value beats the old one on the prompt), generality (on paraphrases), specificity
(neighbors keep their own value against the new one), and their harmonic mean S. Choose the setting of highest S; among
those within its interval, the smallest clamp.

    python tests/benchmarks/ft_l_setting.py --facts 8 --out tests/benchmarks/results/ft_l_setting.json
"""

import argparse
import json
import random
from pathlib import Path
from statistics import harmonic_mean

import mechmask as mm


def score(model, fact, config):
    change = mm.edit(model, [fact], config=config)
    paraphrases = [
        fact.model_copy(update={"prompt": p, "paraphrases": (), "id": f"p{i}"}) for i, p in enumerate(fact.paraphrases)
    ]
    neighbors = [
        mm.Fact(subject=n.prompt, prompt=n.prompt, old=n.value, new=fact.new, id=f"n{i}")
        for i, n in enumerate(fact.neighbors)
        if n.value != fact.new
    ]
    bare = [f.model_copy(update={"distractors": ()}) for f in [fact, *paraphrases, *neighbors]]
    reading = mm.read_logits(change.on(model), bare)
    wins = (reading.margin > 0).values
    n = 1 + len(paraphrases)
    recalled = bool(reading.recalled.sel(route="new").values[0])
    return {
        "efficacy": wins[:1].mean(),
        "recalled": recalled,
        "generality": wins[1:n].mean(),
        "specificity": 1 - wins[n:].mean(),
        "steps": len(change.details["losses_nats"]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--facts", type=int, default=8)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 5, 10, 15, 20, 25])
    parser.add_argument("--clamps", type=float, nargs="+", default=[1e-3, 2e-3, 5e-3, 1e-2, 2e-2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = mm.load_model(options.model, device=options.device)
    held = list(mm.known_facts(model, mm.world_facts()))
    facts = random.Random(options.seed).sample(held, options.facts)
    rows = []
    for layer in options.layers:
        for clamp in options.clamps:
            each = [score(model, fact, mm.FTLConfig(layer=layer, clamp=clamp)) for fact in facts]
            row = {name: float(sum(e[name] for e in each) / len(each)) for name in each[0]}
            row["S"] = harmonic_mean([row["efficacy"], row["generality"], row["specificity"]])
            rows.append({"layer": layer, "clamp": clamp, "n": len(each), **row})
            print(" ".join(f"{k} {v:.3g}" for k, v in rows[-1].items()), flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(
            json.dumps(
                {"model": model.name, "fingerprint": model.fingerprint, "seed": options.seed, "rows": rows}, indent=1
            )
        )


if __name__ == "__main__":
    main()
