"""Editors of a study: their settings by name, each made ready once, and every edit with what it cost.

An editor that stands ready is copied for every edit of a fact alone: contexts, second moments and whatever else a
method reads of the model are read once, and no copy knows of another's edits, since where an editor stands is replaced
as a whole and never changed in place.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mechmask.configuration import validated
from mechmask.errors import ChangeError, RouteError
from mechmask.facts.fact_set import FactSet
from mechmask.models.model import Model
from mechmask.models.states import Variant
from mechmask.study.config import read_toml
from mechmask.study.editing.config import EditingConfig
from mechmask.study.editing.cost import Cost, costing
from mechmask.study.states import edit_settings
from mechmask.write.edit import METHODS, EditConfig, prepare, preset_for
from mechmask.write.editor import Edit, Editor

ALL = "all"

CANNOT_EDIT = (ChangeError, RouteError)
"""What an editor says of a fact that it cannot edit."""


def methods_with_presets(model: Model) -> list[str]:
    """Every method that has a setting for a model's family and size and is not trained first, in the registry's order.

    Args:
        model: the model.

    Raises:
        ChangeError: if none has.
    """
    found, said = [], ""
    for name, method in METHODS.items():
        if method.editor.needs_training:
            continue
        try:
            preset_for(model, name)
        except ChangeError as error:
            said = said or str(error).split(". ")[0]
        else:
            found.append(name)
    if not found:
        raise ChangeError(
            f"No edit method has a preset for {model.name} ({said}). Give an editor's own settings in a study's file: "
            "protocol = 'editing' and [[study.edits]]."
        )
    return found


def configured(model: Model, methods: str, settings: Mapping[str, Any]) -> EditingConfig:
    """The configuration that the command line asks for; what is named twice with the same settings is one editor.

    Args:
        model: whose presets are taken.
        methods: with commas between them names of methods, files (``.toml``) with an editor's own settings, or ``all``,
            every method that has a preset and is not trained first, as MALMEN is.
        settings: the other fields of ``EditingConfig``, as far as they are given.

    Raises:
        StudyError: if a method is not known, a file cannot be read, or a setting is not usable.
        ChangeError: if no method has a preset, or one that is named has none.
    """
    edits: list[Any] = []
    for entry in filter(None, (part.strip() for part in methods.split(","))):
        if entry == ALL:
            edits += methods_with_presets(model)
        else:
            edits.append(read_toml(Path(entry)) if entry.lower().endswith(".toml") else entry)
    config = validated(EditingConfig, {**settings, "edits": edits}, "mechmask edit")
    resolved = list(edit_settings(model, config.edits).values())
    once = tuple(entry for number, entry in enumerate(config.edits) if resolved[number] not in resolved[:number])
    return config.model_copy(update={"edits": once})


class Ready:
    """An editor of one state, made ready when it is first needed.

    Args:
        state: what is edited; it is left as it was.
        config: of the editor.

    Attributes:
        state, config: as above.
        cost: of making it ready; NaN until then.
    """

    def __init__(self, state: Model | Variant, config: EditConfig) -> None:
        self.state, self.config, self.cost = state, config, Cost()
        self._editor: Editor[Any] | None = None

    def editor(self) -> Editor[Any]:
        """An editor that stands at the start and knows of no edit.

        Raises:
            ChangeError: if it cannot be made ready.
        """
        if self._editor is None:
            with costing(self.state.device) as self.cost:
                editor = prepare(self.state, config=self.config)
                editor.get_ready()  # which the first edit would do, and pay for all others
            self._editor = editor
        return copy.copy(self._editor)


def edited(editor: Editor[Any], facts: FactSet) -> tuple[Edit, Cost]:
    """One edit, and what it cost.

    Args:
        editor: goes on from it.
        facts: what is edited, together.

    Raises:
        ChangeError: if the edit fails.
        RouteError: if there is no place to write a fact at.
    """
    with costing(editor.state.device) as cost:
        change = editor.edited(facts, progress=False)
    return change, cost
