"""MALMEN on a small model: trains hypernetworks on a part of a data set and edits the rest of it with them.

Facts held out are edited some at a time, as many as in a step of training, each time from the unedited model. Scores
are the field's (mechmask.editing_scores) with intervals over facts: of the unedited model, of networks that have taken
one step, which are all but the identity they begin as, and of networks after each number of steps asked for. With
--steps and no number only the former: at another --start-lr they say what a larger step of the identity trades.

    python tests/benchmarks/malmen.py ../shared/data/zsre/zsre_mend.json --format zsre_counterfactual \
        --out tests/benchmarks/results/malmen.json
"""

import argparse
import json
import random
import tempfile
import time
import warnings
from pathlib import Path

import torch
import xarray as xr

import mechmask as mm
from mechmask.facts.fact import Example
from mechmask.models.routes import encode_contests, encode_examples
from mechmask.write.malmen.training import MALMENTrainingConfig, train_malmen
from mechmask.write.methods.malmen import MALMENConfig

METRICS = ["efficacy_score", "paraphrase_score", "neighborhood_score", "reliability", "generalization"]
METRICS += ["specificity", "locality"]


def usable(model, facts):
    """Facts with a paraphrase and a neighbor whose values this tokenizer can tell apart."""
    kept = []
    for fact in facts:
        one = fact.model_copy(update={"distractors": (), "implications": ()})
        asked = [Example(prompt=n.prompt, value=n.value) for n in one.neighbors]
        try:
            for phrasing in range(len(one.phrasings)):
                encode_contests(model.tokenizer, [one], phrasing)
            encode_examples(model.tokenizer, asked)
        except mm.RouteError:
            continue
        if one.paraphrases and one.neighbors:
            kept.append(one)
    return kept


def scores(before, reading):
    found = mm.editing_scores(reading, before)
    return {
        metric: {field: round(float(found[field].sel(metric=metric)), 4) for field in ("estimate", "low", "high", "n")}
        for metric in METRICS
        if metric in found.metric
    }


def edited(model, held, directory, layers, size):
    """Readings of the facts held out, each edited together with some others of them."""
    readings = []
    config = MALMENConfig(layers=layers, hypernetwork=str(directory))
    for start in range(0, len(held), size):
        some = held[start : start + size]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The .* edit did not take")
            change = mm.edit(model, some, config=config, progress=False)
        # all are read, so that readings have one shape
        readings.append(mm.read_editing(change.on(model), held).sel(fact=[fact.id for fact in some]))
    return xr.concat(readings, "fact", combine_attrs="override")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("facts", type=Path)
    parser.add_argument("--format", default="auto")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--layers", type=int, nargs="+", default=[24, 25, 26, 27, 28, 29])
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--train", type=int, default=100_000, help="facts to train on, at most")
    parser.add_argument("--n-edits", type=int, default=16)
    parser.add_argument("--steps", type=int, nargs="*", default=[80])
    parser.add_argument("--rank", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--start-lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", type=Path, help="a directory in which the trained networks are kept")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = mm.load_model(options.model, device=options.device)
    layers = tuple(options.layers)
    facts = usable(model, mm.load_facts(options.facts, format=options.format))
    random.Random(options.seed).shuffle(facts)
    held, train = facts[: options.held_out], facts[options.held_out :][: options.train]
    before = mm.read_editing(model, held)
    rows = {"unedited": scores(before, before)}
    seconds, course = {}, {}
    for steps in [1, *options.steps]:
        config = MALMENTrainingConfig(
            layers=layers, rank=options.rank, n_edits=options.n_edits, n_steps=steps, lr=options.lr,
            start_lr=options.start_lr, seed=options.seed,
        )  # fmt: skip
        begin = time.perf_counter()
        networks = train_malmen(model, train, config)
        seconds[steps] = round(time.perf_counter() - begin, 1)
        with tempfile.TemporaryDirectory() as scratch:
            directory = (options.networks or Path(scratch)) / f"{steps}-steps"
            networks.save(directory)
            after = edited(model, held, directory, layers, options.n_edits)
        rows[f"{steps} steps"] = scores(before, after)
        course[steps] = {key: networks.training[key] for key in ("equivalence_nats", "locality_nats")}
        print(
            steps, seconds[steps], {name: row["estimate"] for name, row in rows[f"{steps} steps"].items()}, flush=True
        )
    report = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "facts": options.facts.name,
        "n_train": len(train),
        "n_held_out": len(held),
        "config": config.model_dump(mode="json"),
        "seconds": seconds,
        "scores": rows,
        "course": course,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
