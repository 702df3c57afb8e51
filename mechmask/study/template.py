"""``mechmask study --init``: a configuration with every setting, its default and what it means, made from the classes.

Nothing is written twice: the sentences are those of the classes' docstrings.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mechmask.errors import StudyError, known_names
from mechmask.file_errors import file_errors
from mechmask.files import write_text
from mechmask.study.config import StudyConfig
from mechmask.study.fact_tables import SyntheticTable, WorldTable
from mechmask.study.toml import DrawsTable, ModelTable

_WIDTH = 100


def template() -> str:
    """The configuration as TOML; as it stands, it describes a study that runs."""
    parts = [
        _comment(
            "A study: which model, which facts, and what is done with them. Run it: mechmask study FILE --out DIR"
        ),
        _table("model", ModelTable()),
        _comment("Facts: one of the three. A file of your own (JSONL or CSV):"),
        '# [facts]\n# path = "facts.jsonl"',
        _comment("Facts about things that do not exist, which the study installs first:"),
        _table("facts.synthetic", SyntheticTable()),
        _comment('Facts of the world that the model knows; use install = "none" below:'),
        textwrap.indent(_table("facts.world", WorldTable()), "# ", lambda line: not line.startswith("#")),
        _comment("Over several draws of facts and seeds of training, pooled with the draw as cluster:"),
        textwrap.indent(_table("draws", DrawsTable(n=5)), "# ", lambda line: not line.startswith("#")),
        _comment(
            'What is done: the protocol "mask", whose settings follow. Others, named by protocol = under [study], take '
            'settings of their own: "correction" (facts that the model knows), "twins" (facts that it is taught), '
            '"dose" (how much it takes), "precision" (the verdict with rounded weights), "contrast" (edits beside '
            'fine-tuning), "reactance" (installed to several strengths), "reacquisition" (old taught again), '
            '"renewal" (old asked in another context), "retention" (edits under later training) and '
            '"elasticity" (the way back by dose).'
        ),
        _table("study", StudyConfig()),
    ]
    return "\n\n".join(parts) + "\n"


def ready_papers() -> dict[str, Path]:
    """The ready configurations of all the paper's experiments, by the model that each is for."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "papers").glob("*.toml"))}


def write_template(path: Path, paper: str | None = None) -> None:
    """Write a configuration into a new file.

    Args:
        path: the file.
        paper: the model of a ready configuration of all the paper's experiments; by default, every setting of a study.

    Raises:
        StudyError: if there is something of that name already, or no such ready configuration.
        FileError: if the file cannot be written.
    """
    ready = ready_papers()
    if paper is not None and paper not in ready:
        raise StudyError(f"There is no ready configuration for {paper!r}. {known_names(paper, ready)}")
    with file_errors(path):
        if path.exists():
            raise StudyError(f"{path} already exists. Name a new file for the configuration.")
    write_text(path, template() if paper is None else ready[paper].read_text(encoding="utf-8"))


def _table(name: str, config: BaseModel) -> str:
    """A table of a configuration and, below it, those of the configurations that it holds."""
    meanings = _meanings(type(config))
    lines, below = [f"[{name}]"], []
    for field in _fields(type(config)):
        value, meaning = getattr(config, field), meanings.get(field, "")
        if isinstance(value, BaseModel):
            below.append(f"{_comment(f'{field}: {meaning}')}\n{_table(f'{name}.{field}', value)}")
            continue
        written = _toml(value)
        lines += [_comment(f"{field}: {meaning}")] if meaning else []
        lines.append(f"# {field} = (left out by default)" if written is None else f"{field} = {written}")
    return "\n\n".join(["\n".join(lines), *below])


def _fields(config: type[BaseModel]) -> list[str]:
    """What the class itself decides, then what it takes over."""
    return sorted(config.model_fields, key=lambda name: name not in config.__annotations__)


def _meanings(config: type) -> dict[str, str]:
    """What every field means, as docstrings say under ``Attributes:``: the class's own and those that it stands on."""
    meanings = {}
    for kind in reversed(config.__mro__):
        _, _, listed = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
        entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", listed, re.MULTILINE)
        meanings |= {name: re.sub(r"\s+", " ", text).replace("``", "") for name, text in entries}
    return meanings


def _comment(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _toml(value: Any) -> str | None:
    """A value as TOML, which writes numbers, truth values, texts and lists as JSON does; ``None`` has no form."""
    if value is None:
        return None
    return json.dumps(list(value) if isinstance(value, tuple) else value)
