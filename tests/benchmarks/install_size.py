"""What an install without extras brings: each package's size on disk, and through whom it comes.

python tests/benchmarks/install_size.py [--least 20]
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from importlib.metadata import Distribution, distributions

from packaging.requirements import Requirement


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(distribution: Distribution, extras: frozenset[str]) -> set[tuple[str, frozenset[str]]]:
    """What a distribution needs with some of its extras, each with the extras that it asks for."""
    parsed = map(Requirement, distribution.requires or ())
    asked = [
        one
        for one in parsed
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]
    return {(normalised(one.name), frozenset(one.extras)) for one in asked}


def mebibytes(distribution: Distribution) -> float:
    sizes = (path.locate() for path in distribution.files or ())
    return sum(path.stat().st_size for path in sizes if path.exists()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--least", type=float, default=20, help="MiB that a package has to have to be shown")
    least = parser.parse_args().least
    installed = {normalised(one.name): one for one in distributions()}
    through: dict[str, set[str]] = defaultdict(set)
    reached: set[tuple[str, frozenset[str]]] = set()
    todo = [("mechmask", frozenset[str]())]
    while todo:
        name, extras = todo.pop()
        if name not in installed or (name, extras) in reached:
            continue
        reached.add((name, extras))
        for needed, with_extras in required(installed[name], extras):
            through[needed].add(name)
            todo.append((needed, with_extras))
    sizes = {name: mebibytes(installed[name]) for name in {name for name, _ in reached} - {"mechmask"}}
    print(f"{len(sizes)} packages, {sum(sizes.values()):.0f} MiB")
    for name, size in sorted(sizes.items(), key=lambda entry: -entry[1]):
        if size >= least:
            who = "mechmask" if "mechmask" in through[name] else ", ".join(sorted(through[name]))
            print(f"{size:8.1f}  {name:<20} {who}")


if __name__ == "__main__":
    main()
