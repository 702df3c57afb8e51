"""Where a page's numbers come from, how to cite them, how to run the study again: from what its directory records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xarray as xr

from mechmask.draw.page.content import Code, Paragraph, Section, Terms
from mechmask.measure.reading import load_reading
from mechmask.study.card import FACTS
from mechmask.study.pages.citation import PAPER_DOI, PAPER_TITLE, bibtex
from mechmask.study.pages.toml_text import study_toml
from mechmask.study.results import StudyResults
from mechmask.study.step import MANIFEST, require_whole

_HOW = ("score", "lens", "backend", "statistic", "reference", "threads")
_FILE = "study.toml"


def provenance(results: StudyResults) -> Section:
    """Model, fingerprints, versions, seeds and how it was read.

    Args:
        results: of a study.
    """
    return origin_section(origin(results))


def origin_section(terms: dict[str, str]) -> Section:
    """The section that says where numbers come from.

    Args:
        terms: what is said, by name.
    """
    return Section("Where it comes from", [Terms(terms)])


def origin(results: StudyResults) -> dict[str, str]:
    """What a study's directory records of its model, fingerprints, versions, seeds and readings, by name.

    Args:
        results: of a study.
    """
    card = results.card
    model, inputs = card["model"], card["inputs"]
    pairs = {
        "model": results.model_name,
        "family": str(model.get("family", "")),
        "type of numbers": str(model.get("dtype", "")),
        "fingerprint of the weights": str(inputs["model"]),
        "facts": f"{len(results.facts)}, fingerprint {inputs['facts']}",
        "protocol": results.protocol or "of its own",
    }
    if held := card["about"].get("reference"):
        pairs["reference model"] = f"{held.get('name')}, fingerprint {held.get('fingerprint')}"
    seeds = dict.fromkeys(f"{where} {seed}" for where, seed in _seeds(results.config))
    pairs["seeds"] = ", ".join(seeds) or "none recorded"
    made = _attributes(results)
    pairs |= {name: str(made[name]) for name in _HOW if name in made}
    versions = {name: str(value) for name, value in made.items() if name.startswith("version_")}
    pairs["made with"] = ", ".join(
        f"{name.removeprefix('version_').replace('_', '-')} {value}" for name, value in versions.items()
    )
    pairs["page written with"] = f"mechmask {version('mechmask')}"
    return {name: text for name, text in pairs.items() if text}


def citation() -> Section:
    """The software, and the paper whose readout it follows."""
    said = f"Please cite mechmask and the paper whose readout it follows, {PAPER_TITLE} (https://doi.org/{PAPER_DOI}):"
    return Section("How to cite", [Code(said, bibtex(), "mechmask.bib")])


def run_again(results: StudyResults) -> Section:
    """The file of the study, its facts and the command.

    Args:
        results: of a study.
    """
    facts = Code("The facts of the study, a line each", results.facts.to_jsonl_text(), FACTS, folded=True)
    if results.protocol in (None, "calibrate"):
        said = (
            "This study is no protocol of the command line: run the Python code that made it with the same directory, "
            "and what is finished is taken up. Its configuration as it was recorded:"
        )
        return Section("How to run it again", [Paragraph(said), *_config(results), facts])
    model = results.card["model"]
    dtype = str(model.get("dtype", "auto")).removeprefix("torch.")
    text = study_toml(results.protocol, results.config, results.model_name, dtype, FACTS)
    said = (
        f"Save these two files in one directory ({FACTS} is in the study's own too) and name the model as it is called "
        "where you run it; the seeds stand in the configuration."
    )
    command = Code("Then:", f"mechmask study {_FILE} --out runs/again\n")
    return Section("How to run it again", [Code(said, text, _FILE), facts, command])


def closing(results: StudyResults) -> list[Section]:
    """The sections with which the page of a study ends.

    Args:
        results: of a study.
    """
    return [provenance(results), citation(), run_again(results)]


def _config(results: StudyResults) -> list[Code]:
    text = json.dumps(results.config, indent=2, ensure_ascii=False)
    return [Code("The configuration", text + "\n", "config.json", folded=True)] if results.config else []


def _seeds(config: Any, where: str = "") -> Iterator[tuple[str, int]]:
    """Every seed in a configuration, and where it stands."""
    if isinstance(config, dict):
        for name, value in config.items():
            if name == "seed":
                yield where or "study", value
            else:
                yield from _seeds(value, name if not where else f"{where}.{name}")
    elif isinstance(config, list):
        for value in config:
            yield from _seeds(value, where)


def _attributes(results: StudyResults) -> dict[str, Any]:
    """What the study's results and readings say of how they were made; the first that says it counts."""
    found: dict[str, Any] = {}
    for path in _readings(results.directory):
        found = {**_opened(path).attrs, **found}
        if "version_torch" in found and "statistic" in found:
            break
    return found


def _readings(root: Path) -> Iterator[Path]:
    for room, most in (("results", None), ("readings", 1), ("before", 1), ("checkpoints", 1)):
        manifests = sorted((root / room).rglob(MANIFEST))
        for manifest in manifests[:most]:
            yield from sorted(manifest.parent.glob("*.nc"))[:1]


def _opened(path: Path) -> xr.Dataset:
    require_whole(path.parent)
    return load_reading(path)
