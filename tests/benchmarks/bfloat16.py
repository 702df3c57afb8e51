"""What it does to the verdict that a correction is trained in bfloat16: the same correction beside it in float32.

Facts that the model knows, and facts that it is taught in twins (in float32; the correction alone differs), over
several draws. Both are read in float32; everything is paired by fact and has the draw as cluster.

    python tests/benchmarks/bfloat16.py --directory runs/bfloat16 --draws 5
"""

import argparse
import json
from pathlib import Path

import torch
from timing import write

import mechmask as mm
from mechmask.study.fact_tables import SyntheticTable, WorldTable

RESULTS = Path(__file__).parent / "results"
PRECISIONS = ("float32", "bfloat16")
COMMON = {"grid": {"precision": PRECISIONS}, "scales": (), "text_tokens": 256}


def studies(model, steps):
    """Of each kind of facts, what makes the study of a draw."""
    known = WorldTable(n_contradicted=8, n_control=4, n_never=16)
    taught = SyntheticTable(n=12, n_contradicted=8, n_never=4)
    corrected = mm.FinetuneConfig(lr=1e-4, steps=steps)
    driven = mm.FinetuneConfig(steps=steps)
    of_known = mm.DoseConfig(contradict=corrected, checkpoint_every=steps, **COMMON)
    of_taught = mm.DoseConfig(
        install=mm.FinetuneConfig(steps=40), contradict=driven, taught_phrasings=2, checkpoint_every=steps, **COMMON
    )
    return {
        "known": lambda draw, _: mm.DoseStudy(model, known.facts(model, draw), of_known),
        "taught": lambda draw, _: mm.DoseStudy(model, taught.facts(draw), of_taught),
    }


def compared(found):
    """The comparison over all draws: a row for each precision."""
    erase = found.erase
    states = {name: erase.sel(state=f"precision={name}", drop=True) for name in PRECISIONS}
    return mm.precision_overview(mm.precision_table(states))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = mm.load_model(options.model, device=options.device, dtype="float32")
    report = {"draws": options.draws, "steps": options.steps}
    for kind, study_of in studies(model, options.steps).items():
        table = compared(mm.Draws(study_of, range(options.draws)).run(options.directory / kind))
        print(kind, table.T.to_string(), sep="\n")
        report[kind] = json.loads(table.round(4).to_json(orient="index"))
    write(options.out or RESULTS / f"bfloat16-{options.device.split(':')[0]}.json", options.device, model, report)


if __name__ == "__main__":
    main()
