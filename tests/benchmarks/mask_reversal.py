"""How much of the old knowledge does a learned mask over an edit's own weights give back?

Each fact is edited alone. A mask (learn_reversal) is learned on four fifths of the edits and tried on the others: it
switches off weights of the matrix that the edits wrote into. Beside it stand a random mask that removes as many weights
of each row, and the model without any edit under the mask. A fact is recalled where greedy decoding says the old value.

    python tests/benchmarks/mask_reversal.py ../shared/data/counterfact/counterfact.json --facts 50
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import xarray as xr

import mechmask as mm
from mechmask.measure.clustered_share import share_of_facts
from mechmask.study.editing.facts import drawn_facts

OUT = Path(__file__).parent / "results" / "mask_reversal.json"


def share(told):
    """A share of facts with its interval."""
    return share_of_facts(xr.DataArray(np.asarray(told, dtype=float), dims="fact"))._asdict()


def says(state, fact):
    """Whether greedy decoding says the old value, and whether old leads new."""
    reading = mm.read_logits(state, [fact])
    logprob = reading.logprob.isel(fact=0)
    return bool(reading.recalled.sel(route="old")[0]), bool(logprob.sel(route="old") > logprob.sel(route="new"))


def asked(states, facts):
    found = np.array([says(state, fact) for state, fact in zip(states, facts, strict=True)])
    return {"recalled": share(found[:, 0]), "old leads new": share(found[:, 1])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--facts", type=int, default=50)
    parser.add_argument("--methods", default="ft_l,rome")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    model = mm.load_model(options.model)
    drawn = drawn_facts(model, mm.load_facts(options.data), options.facts, seed=options.seed)
    facts = list(drawn.contradicted)
    n_learned = len(facts) * 4 // 5
    parts = {"learned on": slice(0, n_learned), "held out": slice(n_learned, None)}
    config = mm.ReversalConfig(steps=options.steps)
    report = {"model": model.name, "fingerprint": model.fingerprint, "steps": options.steps, "methods": {}}
    for method in options.methods.split(","):
        first = mm.prepare(model, method)
        first.get_ready()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            edits = [mm.prepare(model, config=first.config).edit([fact], progress=False) for fact in facts]
        mask = mm.learn_reversal(model, edits[:n_learned], facts[:n_learned], config)
        random = mask.shuffled()
        found = {"share removed": mask.share, "divergence, nats": [mask.losses[0], mask.losses[-1]]}
        for name, part in parts.items():
            states = [edit.on(model) for edit in edits[part]]
            some = facts[part]
            found[name] = {
                "edited": asked(states, some),
                "under the mask": asked([mask.change(state).on(state) for state in states], some),
                "under a random mask": asked([random.change(state).on(state) for state in states], some),
                "no edit, under the mask": asked([mask.change(model).on(model)] * len(some), some),
            }
            print(method, name, json.dumps(found[name]), flush=True)
        report["methods"][method] = found
        options.out.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
