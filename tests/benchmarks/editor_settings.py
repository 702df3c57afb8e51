"""Finds settings of editors for a model: the evidence behind its presets in mechmask/write/presets.

Facts that the model holds are taken from a file that no result of this project uses (ParaRel's, without the subjects of
CounterFact). Editors of one fact edit each alone, editors of many all at once. Shares are those of ROME (Meng et al.
2022): efficacy (the new value beats the old one on the prompt), paraphrases, neighborhood (neighbors keep their own
value against the new one), and their harmonic mean S, by which a setting is chosen. What is done is kept: a search that
is started again goes on.

    python tests/benchmarks/editor_settings.py rome memit --facts ../shared/data/pararel \
        --without ../shared/data/counterfact/counterfact.json --out tests/benchmarks/results/editor_settings.json
"""

import argparse
import itertools
import json
import random
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import mechmask as mm
from mechmask.write.edit import METHODS, prepare

WINDOWS = [[2, 3, 4, 5, 6], [4, 5, 6, 7, 8], [8, 9, 10, 11, 12]]
SHORT = [[5, 3], [10, 2]]  # number of tokens and of contexts
GRIDS = {
    "ft": {"layer": [0, 10, 20]},
    "ft_l": {"layer": [0, 10, 20], "clamp": [2e-3, 5e-3, 1e-2]},
    "ft_prompt_last": {"layer": [0, 10, 20]},
    "rome": {"layers": [[3], [6], [9]], "value_decay": [0.5], "context_lengths": [SHORT]},
    "r_rome": {"layers": [[3], [6], [9]], "value_decay": [0.5], "context_lengths": [SHORT]},
    "memit": {"layers": WINDOWS, "value_decay": [0.5], "moment_weight": [1000.0, 5000.0]},
    "emmet": {"layers": [[3], [6], [9]], "value_decay": [0.5], "moment_weight": [100.0]},
    "alphaedit": {"layers": WINDOWS, "value_decay": [0.5], "null_space_threshold": [2e-2], "ridge": [1.0, 10.0]},
}
ALONE = ("ft", "ft_l", "ft_prompt_last", "rome", "r_rome")


def chosen_facts(model, options):
    """Facts that the model holds, about subjects that the other file lacks, with few prompts each."""
    taken = {fact.subject for fact in mm.load_facts(options.without)} if options.without else set()
    facts = [fact for fact in mm.load_facts(options.facts) if fact.subject not in taken and fact.neighbors]
    some = random.Random(options.seed).sample(facts, 40 * options.n)
    held = list(mm.known_facts(model, some))[: options.n]
    return [f.model_copy(update={"paraphrases": f.paraphrases[:2], "neighbors": f.neighbors[:4]}) for f in held]


def scores(model, facts, config, alone):
    """Shares over the facts, seconds an edit, and the reading's neighborhood score before."""
    began = time.perf_counter()
    editor = prepare(model, config=config)
    if hasattr(editor, "moments") and getattr(config, "second_moment", "estimated") == "estimated":
        editor.moments  # noqa: B018  (made once, not timed)
    began, spent, readings = time.perf_counter(), 0.0, []
    for group in [[fact] for fact in facts] if alone else [facts]:
        began = time.perf_counter()
        change = (prepare(model, config=config) if alone else editor).edit(group, progress=False)
        spent += time.perf_counter() - began
        readings.append(mm.read_editing(change.on(model), group))
    each = [mm.editing_scores(reading).estimate for reading in readings]
    found = {name: float(np.nanmean([e.sel(metric=m) for e in each])) for name, m in SHARES.items()}
    return {**found, "S": 3 / sum(1 / max(found[name], 1e-9) for name in SHARES), "seconds": spent / len(facts)}


SHARES = {"ES": "efficacy_score", "PS": "paraphrase_score", "NS": "neighborhood_score"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="+", choices=GRIDS)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--facts", type=Path, required=True)
    parser.add_argument("--without", type=Path)
    parser.add_argument("--n", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="The .* edit did not take")
    model = mm.load_model(options.model, device=options.device)
    facts = chosen_facts(model, options)
    found = json.loads(options.out.read_text()) if options.out.is_file() else {}
    made_of = {"fingerprint": model.fingerprint, "facts": [fact.id for fact in facts]}
    if any(found.get(name, value) != value for name, value in made_of.items()):
        raise SystemExit(f"{options.out} holds settings that were tried on another model or other facts. Name another.")
    found |= {"model": model.name, **made_of, "seed": options.seed, "torch": torch.__version__}
    found["before"] = {
        name: float(mm.editing_scores(mm.read_editing(model, facts)).estimate.sel(metric=m))
        for name, m in SHARES.items()
    }
    print(f"{len(facts)} facts; before: {found['before']}", flush=True)
    for method in options.methods:
        rows = found.setdefault(method, [])
        for values in itertools.product(*GRIDS[method].values()):
            setting = dict(zip(GRIDS[method], values, strict=True))
            if any(row["setting"] == setting for row in rows):
                continue
            config = METHODS[method].config.model_validate(setting)
            try:
                row = {"setting": setting, "n": len(facts), **scores(model, facts, config, method in ALONE)}
            except mm.MechmaskError as error:
                row = {"setting": setting, "n": len(facts), "S": 0.0, "failed": str(error)}
            rows.append(row)
            print(method, json.dumps(row), flush=True)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
