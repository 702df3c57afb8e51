"""What reading a data set costs: seconds a file, from the file as it is published to a set of facts.

The file is read some times over in one process, so that it comes from memory and not from the disk; the median is
reported, with the number of facts and the rate.

    python tests/benchmarks/readers.py ../shared/data/counterfact/counterfact.json --rounds 5
"""

import argparse
import time
import warnings
from pathlib import Path
from statistics import median

import mechmask as mm


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--format", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".* were left out")
    seconds = []
    for _ in range(options.rounds):
        began = time.perf_counter()
        facts = mm.load_facts(options.data, options.format)
        seconds.append(time.perf_counter() - began)
    took = median(seconds)
    print(
        f"{len(facts)} facts in {took:.2f} s [{min(seconds):.2f}, {max(seconds):.2f}], {len(facts) / took:.0f} a second"
    )


if __name__ == "__main__":
    main()
