"""The steps of a study of editors: an edit is made, read and forgotten; what it cost is kept beside it.

A step holds what every ruler read after an edit, and no weights. An editor says of some facts that it cannot edit them:
that is kept too, and the study goes on.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechmask.facts.fact_set import FactSet
from mechmask.files import write_text
from mechmask.study.editing.cost import Cost
from mechmask.study.editing.methods import CANNOT_EDIT, Ready, edited
from mechmask.study.editing.readings import Rulers, save_all
from mechmask.study.run import Run
from mechmask.study.states import StudyState, edit_sources, require_as_it_came
from mechmask.study.step import Settings, Step


def rest_of(facts: FactSet, edited: FactSet | None = None) -> FactSet:
    """What no edit changes, and a verdict is held against: controls and facts that were never known.

    Args:
        facts: all facts of a study.
        edited: facts that alone are judged; all by default. Of the pseudo-subjects of others only those are read then
            that tell the noise: two or more of one fact.
    """
    rest = [fact for fact in facts if fact.role != "contradicted"]
    if edited is not None:
        n_of = Counter(fact.stands_for for fact in rest)
        judged = {"", *edited.ids}
        rest = [fact for fact in rest if fact.stands_for in judged or n_of[fact.stands_for] > 1]
    return facts.select(fact.id for fact in rest)


@dataclass(frozen=True)
class Made:
    """One edit, made in every twin.

    Attributes:
        facts: ids of those that were edited; of a sequence all so far.
        steps: what was read, by twin.
        costs: the steps that hold what it cost, as far as that was measured.
    """

    facts: tuple[str, ...]
    steps: Mapping[str, Step]
    costs: Sequence[Step]


class Editing:
    """One editor on one state, step by step.

    Args:
        run: whose steps they are.
        below: what stands before their names.
        start: what is edited.
        ready: the editor.
        rulers: what is read after an edit.
        facts: all facts of the study.
        mode: ``each``, ``together`` or ``sequence``.
    """

    def __init__(
        self, run: Run, below: str, start: StudyState, ready: Ready, rulers: Rulers, facts: FactSet, mode: str
    ) -> None:
        self.run, self.below, self.start, self.ready = run, below, start, ready
        self.rulers, self.facts, self.mode = rulers, facts, mode
        self._sequence: _Sequence | None = None
        self._n_met = 0  # of a sequence: facts of steps before, whose costs those steps hold

    def step(self, number: int, facts: tuple[str, ...], *, is_last: bool) -> tuple[Step, list[Step]]:
        """The step of some facts, and the steps of what it cost.

        Args:
            number: of the step.
            facts: ids of one fact, of all that are edited together, or of a sequence up to its last.
            is_last: whether a sequence ends there, so that everything is read.

        Raises:
            ChangeError: if the editor cannot be made ready.
            ReadingError: if a reading disagrees with the model's own output.
        """
        chosen, in_sequence = self.facts.select(facts), self.mode == "sequence"
        mode = {"edited": self.mode, "ends": is_last and in_sequence}
        settings = Settings.of(self.ready.config) | self.rulers.settings | Settings(mode, mode)
        sources = edit_sources(self.ready.config)
        inputs = {**self.run.inputs, **self.start.inputs, **self.rulers.inputs, **sources}
        inputs["edited"] = chosen.fingerprint()
        cost, prepared = f"costs/{self.below}/{number:04d}", f"costs/{self.below}/prepare"
        of_editor = Settings.of(self.ready.config), {**self.run.inputs, **self.start.inputs, **sources}

        def make(directory: Path) -> Mapping[str, Any]:
            require_as_it_came(self.run, self.start)
            if in_sequence:
                failures, calls = self._make_sequence(directory, chosen, is_last=is_last)
            else:
                failures, calls = self._make(directory, chosen)
            # A step of its own, made before this one is whole: what was measured is no part of what follows from it.
            self.run.step(cost, settings, inputs, lambda place: _noted(place, "edit", calls))
            once = [self.ready.cost.as_json(1)]
            self.run.step(prepared, *of_editor, lambda place: _noted(place, "prepare", once))
            return {"facts": list(facts), "failures": failures}

        step = self.run.step(f"edits/{self.below}/{number:04d}", settings, inputs, make)
        self._n_met = len(facts)
        costs = [self.run.find(cost, settings, inputs), *([] if number else [self.run.find(prepared, *of_editor)])]
        return step, [one for one in costs if one is not None]

    def _make(self, directory: Path, chosen: FactSet) -> tuple[dict[str, str], list[Any]]:
        """Some facts edited at once, and read; what could not be edited, and what each call cost."""
        editor = self.ready.editor()
        try:
            change, cost = edited(editor, chosen)
        except CANNOT_EDIT as error:
            return dict.fromkeys(chosen.ids, str(error)), []
        state = change.on(self.start.state)
        readings = self.rulers.read(state, chosen, rest_of(self.facts, chosen))
        save_all({**readings, **self.rulers.drift(self.start.state, state)}, directory)
        return {}, [cost.as_json(len(chosen))]

    def _make_sequence(self, directory: Path, chosen: FactSet, *, is_last: bool) -> tuple[dict[str, str], list[Any]]:
        """A sequence up to some facts, and what is read of it there; at its end everything."""
        self._sequence = self._sequence or _Sequence(self.ready)
        costs = self._sequence.go_on(chosen)
        new = [costs[fact.id] for fact in chosen[self._n_met :] if fact.id in costs]
        state, everything = self._sequence.editor.state, self.facts.contradicted
        if is_last:
            readings = self.rulers.read(state, everything, rest_of(self.facts))
        else:
            readings = self.rulers.read_answers(state, everything)
        save_all({**readings, **self.rulers.drift(self.start.state, state)}, directory)
        return dict(self._sequence.failures), [cost.as_json(1) for cost in new]


class _Sequence:
    """One editor that goes on from its own edits.

    Args:
        ready: the editor before any of them.

    Attributes:
        editor: as it stands.
        failures: what it said of facts that it could not edit, by id.
    """

    def __init__(self, ready: Ready) -> None:
        self.editor = ready.editor()
        self.failures: dict[str, str] = {}
        self._n_done = 0

    def go_on(self, facts: FactSet) -> dict[str, Cost]:
        """Edit those of the facts that it has not met, and say what each cost, by id.

        Args:
            facts: all facts of the sequence so far, in order.
        """
        costs: dict[str, Cost] = {}
        for fact in facts[self._n_done :]:
            try:
                _, costs[fact.id] = edited(self.editor, facts.select([fact.id]))
            except CANNOT_EDIT as error:
                self.failures[fact.id] = str(error)
        self._n_done = len(facts)
        return costs


def _noted(directory: Path, kind: str, calls: list[Any]) -> Mapping[str, Any]:
    """Details of a step of costs, also as a file: steps without one have one digest, and would supersede each other."""
    write_text(directory / "calls.json", json.dumps(calls))
    return {"kind": kind, "calls": calls}


def calls_of(measured: Mapping[str, Sequence[Step]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Seconds a fact and bytes of every call, by editor and kind (``edit``, ``prepare``).

    Args:
        measured: the steps that hold what an editor cost, by editor.
    """
    calls: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, steps in measured.items():
        of = calls.setdefault(name, {"edit": [], "prepare": []})
        for step in steps:
            for call in step.details["calls"]:
                seconds, memory = call["seconds"] / call["facts"], call["memory_bytes"]
                of[step.details["kind"]].append((seconds, math.nan if memory is None else memory))
    return calls
