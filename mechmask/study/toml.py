"""A study as a TOML file: which model, which facts, what is done with them.

.. code-block:: toml

    [model]
    source = "smollm2-135m"       # and revision, dtype, device, device_map

    [facts]
    path = "facts.jsonl"          # or [facts.synthetic] n = 24, seed = 0
                                  # or [facts.world] n_contradicted = 12, n_control = 8, n_never = 12,
                                  # which takes path = "counterfact.json" for facts of a data set

    [study]
    protocol = "mask"             # or contrast, correction, dose, precision, twins: see mechmask/study/registry.py
    checkpoint_every = 6
    contradict = { lr = 2e-4, steps = 30 }
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, create_model

from mechmask.configuration import Configuration, validated
from mechmask.errors import StudyError, known_names
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import load_facts
from mechmask.models.load import load_model
from mechmask.models.model import Model
from mechmask.study.config import StudyConfig, read_toml
from mechmask.study.draws import Draws, reseeded
from mechmask.study.fact_tables import SyntheticTable, WorldTable
from mechmask.study.registry import MASK, PROTOCOLS, Registered, Study


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
    format: str | None = None  # of the file, where it does not say it itself
    synthetic: SyntheticTable | None = None
    world: WorldTable | None = None


class DrawsTable(Configuration):
    """Over how many draws of facts, and seeds of training, the study is done and pooled.

    Attributes:
        n: draws of facts; the seed of the facts goes up by one for each.
        seeds: trainings of each draw; the seed of every training goes up by one for each.
    """

    n: int = Field(default=1, ge=1)
    seeds: int = Field(default=1, ge=1)


class StudyFile(Configuration):
    """What a file describes: a model, facts, over how many draws, and what is done with them."""

    model: ModelTable = ModelTable()
    draws: DrawsTable | None = None
    facts: _FactsTable = _FactsTable()
    study: StudyConfig = StudyConfig()


def study_from_file(path: Path) -> Study:
    """The study that a TOML file describes; a path in it is relative to the file.

    Raises:
        StudyError: listing every field that is not usable, or if the protocol is not known.
    """
    described = description(read_toml(path), path)
    model = LastModel().of(described.file.model)
    draws = described.file.draws
    if draws is None:
        return described.study(model)
    return Draws(lambda draw, seed: described.study(model, draw, seed), range(draws.n), range(draws.seeds))


@dataclass(frozen=True)
class Description:
    """What a file describes, before the model is there.

    Attributes:
        path: of the file.
        protocol: what is done.
        file: the tables of the file.
    """

    path: Path
    protocol: Registered
    file: StudyFile

    def study(self, model: Model, draw: int = 0, seed: int = 0) -> Study:
        """The study.

        Args:
            model: that it is about.
            draw: added to the seed of the facts.
            seed: added to that of every training.
        """
        if self.protocol.draws_facts:
            return self.protocol.study(model, self.file.study)
        facts = _facts(self.file.facts, model, self.path, draw)
        return self.protocol.study(model, facts, reseeded(self.file.study, seed))


class LastModel:
    """The model of one description after another, loaded only where it is another than that of the last."""

    def __init__(self) -> None:
        self._table: ModelTable | None = None
        self._model: Model | None = None

    def of(self, table: ModelTable) -> Model:
        """The model that a table names, loaded; of the last one nothing is kept.

        Args:
            table: of a file.
        """
        if self._model is None or table != self._table:
            self._model = None  # which makes room before the next one comes
            self._model = load_model(**table.model_dump())
            self._table = table
        return self._model


def description(content: Mapping[str, Any], path: Path) -> Description:
    """What the tables of a file describe, each held against its class.

    Args:
        content: the tables.
        path: of the file, to which paths in it are relative.

    Raises:
        StudyError: listing every field that is not usable, or if the protocol is not known.
    """
    content = copy.deepcopy(dict(content))
    table = content.get("study")
    _beside_file(path, _in(content.get("facts"), "world"), "path")
    _beside_file(path, _in(table, "known"), "path")
    _beside_file(path, content.get("model"), "source", may_be_elsewhere=True)
    for edit in (table.get("edits") if isinstance(table, dict) else None) or ():
        for named in ("corpus", "hypernetwork"):
            _beside_file(path, edit, named, may_be_elsewhere=True)
    for task in (table.get("tasks") if isinstance(table, dict) else None) or ():
        _beside_file(path, task, "source")
    if _in(table, "text") not in ("model", "none"):  # which are no paths
        _beside_file(path, table, "text", may_be_elsewhere=True)
    for correction in (table, _in(table, "correction")):
        _beside_file(path, correction, "reference", may_be_elsewhere=True)
    name = table.pop("protocol", MASK) if isinstance(table, dict) else MASK
    if name not in PROTOCOLS:
        raise StudyError(f"{path.name}: no protocol is called {name!r}. {known_names(str(name), PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    file = create_model("StudyFile", __base__=StudyFile, study=(protocol.config, protocol.config()))
    described = Description(path, protocol, validated(file, content, path.name))
    _require_sources(described.file.facts, path, 0 if protocol.draws_facts else 1)
    _require_drawn(described.file, protocol.draws_facts, path)
    return described


def _in(table: object, name: str) -> object:
    return table.get(name) if isinstance(table, dict) else None


def _beside_file(path: Path, table: object, name: str, may_be_elsewhere: bool = False) -> None:
    """A path in a table of the file, as it is from where the command runs.

    Args:
        path: the file.
        table: a table of it, where it has one of that name.
        name: which holds the path.
        may_be_elsewhere: whether it may be no path, but a Hub id or the embedded model.
    """
    if isinstance(table, dict) and isinstance(table.get(name), str):
        place = path.parent / table[name]
        if place.exists() or not may_be_elsewhere:
            table[name] = str(place)


def _require_sources(table: _FactsTable, path: Path, n: int) -> None:
    named = [name for name, value in table if value is not None and name != "format"]
    if table.format is not None and table.path is None:
        raise StudyError(f"{path.name}: format is that of a file of facts, and there is none. Give its path.")
    if len(named) != n:
        remedy = "Give one of path, synthetic, world." if n else "This protocol draws its own: leave the table out."
        raise StudyError(f"{path.name}: [facts] names {len(named)} sources. {remedy}")


def _require_drawn(described: StudyFile, draws_facts: bool, path: Path) -> None:
    if described.draws is None:
        return
    if draws_facts:
        raise StudyError(f"{path.name}: this protocol draws its facts itself. Give draws under [study], not [draws].")
    if described.facts.path is not None and described.draws.n > 1:
        raise StudyError(f"{path.name}: the facts of a file are one draw. Leave n out of [draws], or give other facts.")


def _facts(table: _FactsTable, model: Model, path: Path, draw: int) -> FactSet:
    if table.path is not None:
        return load_facts(path.parent / table.path, table.format or "auto")
    if table.synthetic is not None:
        return table.synthetic.facts(draw)
    return (table.world or WorldTable()).facts(model, draw)
