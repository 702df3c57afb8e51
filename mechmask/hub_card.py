"""The card of a repository on the Hub: what it is, which code loads it, what it was made from, what numbers it carries.

The head is huggingface_hub's own, which quotes what YAML would misread; the body escapes texts of facts and names.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

_LONGEST = 6000  # characters of settings in a card; the whole of them is in the artefact's own file


@dataclass(frozen=True)
class Card:
    """What a repository says of itself.

    Attributes:
        kind: what it is, such as ``change``.
        title: its heading.
        about: a paragraph of plain text.
        code: Python that loads it.
        made_from: names and values of what it was made from.
        numbers: a table: its columns, then its rows.
        settings: how it was made, as JSON values.
        tags: beside ``mechmask``.
        license: of the content, as the Hub names it; none by default.
        base_model: id on the Hub of the model that it is of.
        more: further fields of the head.
    """

    kind: str
    title: str
    about: str
    code: str
    made_from: Mapping[str, object] = field(default_factory=dict)
    numbers: Sequence[Sequence[object]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    tags: Sequence[str] = ()
    license: str | None = None
    base_model: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def text(self, repo_type: Literal["model", "dataset"]) -> str:
        """The card as Markdown with its head."""
        from huggingface_hub import DatasetCardData, ModelCardData

        shared = {"license": self.license, "library_name": "mechmask", "tags": ["mechmask", *self.tags], **self.more}
        if repo_type == "dataset":
            data = DatasetCardData(pretty_name=self.title, **shared)
        else:
            data = ModelCardData(base_model=self.base_model, **shared)
        return f"---\n{data.to_yaml().strip()}\n---\n\n{self._body()}"

    def _body(self) -> str:
        made_from = {**self.made_from, "made with": f"mechmask {version('mechmask')}"}
        parts = [
            f"# {_plain(self.title)}",
            _plain(self.about),
            f"## How to load it\n\n```python\n{self.code}\n```",
            f"## What it was made from\n\n{_table([('', ''), *made_from.items()])}",
        ]
        if self.numbers:
            parts.append(f"## Numbers\n\n{_table(self.numbers)}")
        if self.settings:
            parts.append(f"## How it was made\n\n```json\n{_json(self.settings)}\n```")
        return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Sequence[object]]) -> str:
    head, *body = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def _cell(value: object) -> str:
    return _plain(f"{value:.4g}" if isinstance(value, float) else str(value)).replace("|", "\\|")


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    return html.escape(" ".join(text.split()), quote=False).replace("`", "\\`").replace("[", "\\[")


def _json(settings: Mapping[str, Any]) -> str:
    """Settings as JSON, none of whose lines ends its block; only the short ones where they are long."""
    whole = json.dumps(settings, indent=1, sort_keys=True, ensure_ascii=False, default=str)
    if len(whole) <= _LONGEST:
        return whole
    short = {name: value for name, value in settings.items() if len(json.dumps(value, default=str)) <= _LONGEST // 10}
    return json.dumps(short, indent=1, sort_keys=True, ensure_ascii=False, default=str)
