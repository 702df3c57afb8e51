"""What Ray costs a sweep: 12 small studies on two workers, against the seconds that the studies themselves take.

python tests/benchmarks/sweep.py --out tests/benchmarks/results/sweep-cpu.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ray

import mechmask as mm
from mechmask.study.step import unsealed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tables = {
        "facts": {"synthetic": {"n": 4, "n_never": 8}},
        "study": {"install": {"steps": 4, "rank": 4}, "contradict": {"steps": 4, "rank": 4}, "edits": []},
        "sweep": {"draw": list(range(options.draws)), "study": {"contradict": {"lr": [1e-4, 3e-4, 1e-3]}}},
    }
    sweep = mm.Sweep(tables)
    with tempfile.TemporaryDirectory() as directory:
        begin = time.perf_counter()
        results = sweep.run(directory, on="ray", workers=options.workers)
        wall = time.perf_counter() - begin
        marks = [unsealed(path.read_text()) for path in Path(directory, "finished").iterdir()]
        print(results.conclusion())
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import mechmask.study.on_ray, mechmask.study.registry"], check=True)
    imports = time.perf_counter() - begin  # of each worker, which a process without Ray has as well
    n, work = len(marks), sum(mark["seconds"] for mark in marks)
    with_imports = (wall * options.workers - work) / n
    overhead = with_imports - imports * options.workers / n
    found = {
        "studies": n, "workers": options.workers, "wall_seconds": wall, "work_seconds": work, "import_seconds": imports,
        "overhead_seconds_a_study": overhead, "share_at_a_minute_a_study": overhead / (60 + overhead),
        "share_with_imports": with_imports / (60 + with_imports),
        "ray": ray.__version__, "model": "smollm2-135m",
    }  # fmt: skip
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
