"""The ruler where the truth is known: which statistic of the old value tells the pools apart, and how often it errs.

Runs or takes up the draws below ``--directory`` and keeps the page, its figure and the tables beside the other
results. The first draws choose, the last ones judge.

    python tests/benchmarks/ruler.py --directory runs/ruler --choosing 4 --judging 4
"""

import argparse
import json
import math
import shutil
from pathlib import Path

import pandas as pd
from timing import write

import mechmask as mm
from mechmask.study.calibration_results import FIGURE

RESULTS = Path(__file__).parent / "results"


def report(found):
    """What a calibration says as JSON values, but for its AUROCs."""
    savings = {name: correlation._asdict() for name, correlation in found.savings.items()}
    return {
        "statistic": found.statistic,
        "unpaired": found.unpaired,
        "choosing": found.choosing,
        "judging": found.judging,
        "expected": found.expected and found.expected.model_dump(),
        "savings": {
            name: {field: None if math.isnan(value) else value for field, value in fields.items()}
            for name, fields in savings.items()
        },
        "rates": json.loads(found.rates.reset_index().round(4).to_json(orient="records")),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--choosing", type=int, default=4)
    parser.add_argument("--judging", type=int, default=4)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    model = mm.load_model(options.model, device=options.device)
    seeds = range(options.choosing + options.judging)
    found = mm.calibrate(
        model, options.directory, choosing=seeds[: options.choosing], judging=seeds[options.choosing :]
    )
    print(found.to_markdown())
    kind = options.device.partition(":")[0]
    write(options.out / f"ruler-{kind}.json", options.device, model, report(found))
    (options.out / f"ruler-{kind}.md").write_text(found.to_markdown().replace(FIGURE, f"ruler-{kind}.png"))
    units = {"fact": found.by_fact, "model": found.by_model}
    aurocs = pd.concat([table.assign(unit=unit) for unit, table in units.items()])
    aurocs.round(3).to_csv(options.out / f"ruler-{kind}.csv", index=False)
    shutil.copyfile(options.directory / FIGURE, options.out / f"ruler-{kind}.png")


if __name__ == "__main__":
    main()
