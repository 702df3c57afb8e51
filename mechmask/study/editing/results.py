"""The results of a study of editors, opened without a model and without torch; ``summary`` is the one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from mechmask.measure.names import state_name
from mechmask.measure.reading import load_reading
from mechmask.measure.verdict import VERDICTS, describe
from mechmask.study.editing.tables import BEFORE, Edited
from mechmask.study.results import StudyResults
from mechmask.study.step import Step, file_in
from mechmask.study.tabled import Tables

_COLUMNS = {
    "ES": "efficacy_score",
    "PS": "paraphrase_score",
    "NS": "neighborhood_score",
    "S": "harmonic_score",
    "GE": "generation_entropy",
    "erase_index": "erase_index",
    "EI*": "normalised",
    "standing": "standing",
    "trace": "trace",
    "commit_layer": "commit_layer",
    "rebound": "paraphrase_rebound",
    "kl": "kl",
    "perplexity_ratio": "perplexity_ratio",
}
_MIB = 2.0**20


class EditResults(StudyResults):
    """What a study of editors found: ``summary()`` is one row an editor.

    Args:
        directory: of the study.

    Raises:
        StudyError: if there is no study, or its card is damaged.
    """

    _in_notebook = "summary"

    @property
    def editing(self) -> xr.Dataset:
        """Every metric ``[state, metric]`` with its interval, in the unit of ``unit[metric]`` (shares, nats, ...)."""
        return self.reading("results/editing")

    @property
    def verdicts(self) -> xr.Dataset:
        """Verdict and reason ``[state, fact]``, and those of the group over ``state``."""
        return self.reading("results/verdicts")

    @property
    def cost(self) -> xr.Dataset:
        """Seconds and bytes of memory ``[state, metric]``, as they were measured."""
        return self.reading("results/cost")

    @property
    def sequence(self) -> xr.Dataset:
        """Of a sequence, how it wears the model down ``[state, edits, metric]``; what ``sequence_of`` gives."""
        return self.reading("results/sequence")

    def summary(self) -> pd.DataFrame:
        """The one table: a row for the model before any edit and for every editor.

        Returns:
            With their intervals (``_low``, ``_high``): ES, PS, NS and S (shares), GE (bits) where texts were sampled;
            ``erase_index``, ``standing`` and ``trace`` of the old value (nats), EI* of the facts on which the edit took
            (a ratio), ``commit_layer`` of the new value (layers), ``rebound``, the share of paraphrases on which old
            leads again where the edit took, and of a text ``kl`` (nats per token) and ``perplexity_ratio``. Counts
            ``n`` of facts, ``took`` and ``failed``; the ``verdict`` on the group of facts on which the edit took with
            ``why``, and counts of verdicts on single facts; ``seconds`` a fact and ``memory_mib`` of an edit,
            ``prepare_seconds`` of making the editor ready. NaN where nothing was read or measured.
        """
        editing, verdicts, cost = self.editing, self.verdicts, self.cost
        rows = {}
        for state in editing.state.values.tolist():
            row: dict[str, object] = {}
            for column, metric in _COLUMNS.items():
                if metric in editing.metric.values:
                    row |= _cell(column, editing.sel(state=state, metric=metric))
            row |= self._judged(verdicts, state, int(verdicts.sizes["fact"]))
            row |= _costs(cost, state)
            rows[state] = row
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("state")

    def failures(self) -> pd.DataFrame:
        """The facts that an editor could not edit, with what it said: one row for each editor and fact."""
        failure = self.verdicts.failure.reset_coords(drop=True)
        rows = failure.to_series()
        return rows[rows != ""].to_frame("failure")

    def by_fact(self) -> pd.DataFrame:
        """Erase index beside commit layer: a row for each editor and fact."""
        return super().summary()

    def conclusion(self) -> str:
        """The outcome in a sentence for each editor."""
        rows: dict[str, dict[str, Any]] = self.summary().to_dict("index")
        return " ".join(_sentence(state, row) for state, row in rows.items() if state != BEFORE)

    def tables(self) -> Tables:
        """Every table by its name, to be made when it is asked for."""
        return {**super().tables(), "by_fact": self.by_fact, "failures": self.failures}

    def _judged(self, verdicts: xr.Dataset, state: str, n: int) -> dict[str, object]:
        """What stands about verdicts in a row of the table; none before any edit."""
        counts = ("took", "failed", *VERDICTS)
        if state == BEFORE:
            return {"n": n, "verdict": "", "why": "", **dict.fromkeys(counts, 0)}
        one = verdicts.sel(state=state)
        group, reason = str(one.group_verdict.values), str(one.group_reason.values)
        return {
            "n": n,
            "verdict": group,
            "why": describe(reason),
            **{name: int(one[f"n_{name}"]) for name in counts},
        }


def open_edits(directory: str) -> EditResults:
    """The results of a study of editors, without its model and without torch.

    Args:
        directory: where ``EditStudy.run`` was told to work. It is only read.

    Raises:
        StudyError: if it holds no study, or a file of it is damaged; the message names the file.
    """
    return EditResults(directory)


def readings_in(step: Step) -> dict[str, xr.Dataset]:
    """Every reading that a step holds, by the name of its ruler.

    Args:
        step: made before an edit, or by one.

    Raises:
        StudyError: if another step of its name has taken its place since.
    """
    return {path.stem: load_reading(file_in(step, path.name)) for path in sorted(step.directory.glob("*.nc"))}


def edited_in(facts: Sequence[str], steps: Mapping[str, Step]) -> Edited:
    """What was read under one edit in every twin; nothing where it failed in one of them.

    Args:
        facts: ids of those that were edited.
        steps: by twin.
    """
    failures: dict[str, str] = {}
    for step in steps.values():
        failures |= step.details["failures"]
    readings = {twin: readings_in(step) for twin, step in steps.items()}
    return Edited(tuple(facts), readings if all(readings.values()) else {}, failures)


def _sentence(state: str, row: Mapping[str, Any]) -> str:
    """What an editor did, and what it left."""
    refused = f", could not edit {row['failed']}" if row["failed"] else ""
    scores = ", ".join(f"{name} {row[name]:.2f}" for name in ("ES", "S") if not np.isnan(row[name]))
    said = f"{state_name(state)} takes on {row['took']} of {row['n']} facts{refused} ({scores})"
    if row["verdict"] == "undecided":
        return f"{said}; whether old values are masked or erased is undecided ({row['why']})."
    ratio = f"EI* {row['EI*']:.2f} [{row['EI*_low']:.2f}, {row['EI*_high']:.2f}]"
    return f"{said}; where it takes, old values are as a group {row['verdict']} ({ratio})."


def _cell(column: str, one: xr.Dataset) -> dict[str, object]:
    return {column: float(one.estimate), f"{column}_low": float(one.low), f"{column}_high": float(one.high)}


def _costs(cost: xr.Dataset, state: str) -> dict[str, object]:
    if state not in cost.state.values:
        return dict.fromkeys(("seconds", "memory_mib", "prepare_seconds"), np.nan)
    estimate = cost.estimate.sel(state=state)
    return {
        "seconds": float(estimate.sel(metric="seconds")),
        "memory_mib": float(estimate.sel(metric="memory_bytes")) / _MIB,
        "prepare_seconds": float(estimate.sel(metric="prepare_seconds")),
    }
