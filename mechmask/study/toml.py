"""A study as a TOML file: which model, which facts, what is done with them.

.. code-block:: toml

    [model]
    source = "smollm2-135m"       # and revision, dtype, device, device_map

    [facts]
    path = "facts.jsonl"          # or [facts.synthetic] n = 24, seed = 0
                                  # or [facts.world] n_contradicted = 12, n_control = 8, n_never = 12

    [study]
    protocol = "mask"             # or contrast, correction, dose, precision, twins: see mechmask/study/registry.py
    checkpoint_every = 6
    contradict = { lr = 2e-4, steps = 30 }
"""

from __future__ import annotations

from pathlib import Path

from pydantic import create_model

from mechmask.configuration import Configuration, validated
from mechmask.errors import StudyError, known_names
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import load_facts
from mechmask.models.load import load_model
from mechmask.models.model import Model
from mechmask.study.config import StudyConfig, read_toml
from mechmask.study.fact_tables import SyntheticTable, WorldTable
from mechmask.study.registry import MASK, PROTOCOLS, Study


class ModelTable(Configuration):
    """Which model.

    Attributes:
        source: smollm2-135m, a Hub id, a directory, a .gguf file or a PEFT adapter; relative to this file.
        revision: branch, tag or commit of a Hub id.
        dtype: float32, bfloat16, float16, or auto: as the weights are stored.
        device: where the whole model goes, such as cuda.
        device_map: for models over several devices, as in transformers, such as auto.
    """

    source: str = "smollm2-135m"
    revision: str | None = None
    dtype: str = "auto"
    device: str | None = None
    device_map: str | None = None


class _FactsTable(Configuration):
    path: Path | None = None
    synthetic: SyntheticTable | None = None
    world: WorldTable | None = None


class StudyFile(Configuration):
    """What a file describes: a model, facts, and what is done with them."""

    model: ModelTable = ModelTable()
    facts: _FactsTable
    study: StudyConfig = StudyConfig()


def study_from_file(path: Path) -> Study:
    """The study that a TOML file describes; a path in it is relative to the file.

    Raises:
        StudyError: listing every field that is not usable, or if the protocol is not known.
    """
    content = read_toml(path)
    table = content.get("study")
    name = table.pop("protocol", MASK) if isinstance(table, dict) else MASK
    if name not in PROTOCOLS:
        raise StudyError(f"{path.name}: no protocol is called {name!r}. {known_names(str(name), PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    file = create_model("StudyFile", __base__=StudyFile, study=(protocol.config, protocol.config()))
    described = validated(file, content, path.name)
    _one_source(described.facts, path)
    beside = path.parent / described.model.source
    source = str(beside) if beside.exists() else described.model.source
    model = load_model(**{**described.model.model_dump(), "source": source})
    return protocol.study(model, _facts(described.facts, model, path), described.study)


def _one_source(table: _FactsTable, path: Path) -> None:
    named = [name for name, value in table if value is not None]
    if len(named) != 1:
        raise StudyError(f"{path.name}: [facts] names {len(named)} sources. Give one of path, synthetic, world.")


def _facts(table: _FactsTable, model: Model, path: Path) -> FactSet:
    if table.path is not None:
        return load_facts(path.parent / table.path)
    if table.synthetic is not None:
        return table.synthetic.facts()
    return (table.world or WorldTable()).facts(model)
