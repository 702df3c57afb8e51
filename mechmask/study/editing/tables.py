"""Editors side by side, from what was read of every fact under its edit: the editing field's scores beside the verdict.

What became of a fact whose edit failed is not judged.

Labelled arrays in and out; no model and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from mechmask.measure.commit import commit_layer
from mechmask.measure.editing import editing_scores
from mechmask.measure.erase import erase_index
from mechmask.measure.generations import generation_scores
from mechmask.measure.statistics import Interval
from mechmask.measure.summary import overview
from mechmask.measure.verdict import REMEDIES
from mechmask.study.editing.aligned import (
    BEFORE,
    Edited,
    Start,
    depth_of,
    editing_of,
    generations_of,
    joined_facts,
    output_of,
)
from mechmask.study.editing.rows import NOTHING, interval_columns, intervals, row_of_old, row_of_text
from mechmask.study.tables import by_state, concatenated

_UNITS = {
    "generation_entropy": "bits",
    "standing": "nats",
    "trace": "nats",
    "erase_index": "nats",
    "normalised": "ratio",
    "commit_layer": "layers",
    "paraphrase_rebound": "share",
    "kl": "nats per token",
    "perplexity_ratio": "ratio",
}
_ABBREVIATIONS = {"generation_entropy": "GE", "normalised": "EI*"}


def erase_of_editors(start: Start, methods: Mapping[str, Sequence[Edited]], options: Mapping[str, Any]) -> xr.Dataset:
    """What ``erase_index`` gives of every fact under every editor, with its commit layer.

    Args:
        start: what was read before.
        methods: what was read under each editor's edits.
        options: of ``erase_index``.

    Returns:
        The same along ``state``, the editors, with ``commit_layer``, ``commit_low`` and ``commit_high`` over phrasings,
        in layers, and ``failed`` (boolean), each ``[state, fact]``. A fact whose edit failed is undecided
        (``did_not_take``).
    """
    rows = {}
    for method, edits in methods.items():
        parts = []
        for edit in edits:
            after = output_of(start, edit)
            result = erase_index(start.output.sel(fact=after.fact), after, **options)
            failed = [fact in edit.failures for fact in result.fact.values.tolist()]
            parts.append(_not_judged(result.assign(failed=("fact", failed))))
        joined = parts[0] if len(parts) == 1 else joined_facts(parts)
        commits = commit_layer(depth_of(start, edits)).sel(fact=joined.fact.values).reset_coords(drop=True)
        rows[method] = joined.assign(
            commit_layer=commits.sel(phrasing=0, drop=True),
            commit_low=commits.min("phrasing"),
            commit_high=commits.max("phrasing"),
        )
    return by_state(rows)


def metrics_of(start: Start, methods: Mapping[str, Sequence[Edited]], erase: xr.Dataset, level: float) -> xr.Dataset:
    """The one table: every ruler of every editor, with its interval, beside the model before any edit.

    Args:
        start: what was read before.
        methods: what was read under each editor's edits.
        erase: what ``erase_of_editors`` gave of them.
        level: of the intervals.

    A neighbor's prompt that is a phrasing of another fact edited in the same state is left out in every state, that
    before any edit included, and where the other's edit failed: all states are held against the same prompts.

    Returns:
        ``estimate``, ``low``, ``high`` and the count ``n`` over ``state`` (first ``before``) and ``metric``, with
        ``unit[metric]`` and ``abbreviation[metric]``: what ``editing_scores`` gives; ``generation_entropy``; of the old
        value after the edit ``standing`` (on the prompt), ``trace`` against never known, and ``paraphrase_rebound``,
        the share of paraphrases on which it leads new again, of the facts on which the edit took; ``erase_index`` and
        ``normalised`` (EI* of the group); ``commit_layer``, the mean over the facts that commit; and where a text was
        read ``kl`` and ``perplexity_ratio``. NaN and 0 where nothing was read. ``attrs["n_edited_neighbors"]`` counts
        the prompts left out.
    """
    untouched = Edited(tuple(start.facts), {})
    first, edited, n_left_out = editing_of(start, [untouched]), _edited_together(methods), 0
    rows: dict[str, dict[str, Interval]] = {}
    abbreviations: dict[str, str] = {}
    for state, edits in {BEFORE: [untouched], **methods}.items():
        scores = editing_scores(editing_of(start, edits), first, level, edited=edited)
        table, n_left_out = intervals(scores), scores.attrs["n_edited_neighbors"]
        abbreviations |= dict(zip(scores.metric.values.tolist(), scores.abbreviation.values.tolist(), strict=True))
        if "generations" in start.readings[next(iter(start.readings))]:
            table |= intervals(generation_scores(generations_of(start, edits), level=level))
        table |= row_of_old(start, edits, erase, state, level)
        table |= row_of_text(start, edits, level)
        rows[state] = table
    names = list(dict.fromkeys(name for table in rows.values() for name in table))
    cells = [[table.get(metric, NOTHING) for metric in names] for table in rows.values()]
    labels = {
        "state": list(rows),
        "metric": names,
        "unit": ("metric", [_UNITS.get(name, _unit_of_score(name)) for name in names]),
        "abbreviation": ("metric", [_ABBREVIATIONS.get(name, abbreviations.get(name, "")) for name in names]),
    }
    return xr.Dataset(
        interval_columns(cells, ("state", "metric")), labels, {"level": level, "n_edited_neighbors": n_left_out}
    )


def verdicts_of(methods: Mapping[str, Sequence[Edited]], erase: xr.Dataset, level: float) -> xr.Dataset:
    """What became of the old values, fact by fact and of the group of facts on which an edit took.

    Args:
        methods: what was read under each editor's edits.
        erase: what ``erase_of_editors`` gave of them.
        level: of the intervals of shares.

    Returns:
        Over ``state`` and ``fact``, as text: ``verdict``, ``reason``, ``remedy``, and ``failure``, what the editor said
        of a fact that it could not edit, else empty. Over ``state``: ``group_verdict`` and ``group_reason`` of the
        facts on which the edit took, their EI* ``normalised`` (a ratio) with its ends, and the counts ``n_facts``,
        ``n_took``, ``n_failed``, ``n_masked``, ``n_erased``, ``n_suppressed`` and ``n_undecided``.
    """
    rows, groups = {}, {}
    for method, edits in methods.items():
        one = erase.sel(state=method, drop=True)
        said = {fact: sentence for edit in edits for fact, sentence in edit.failures.items()}
        failure = ("fact", np.array([said.get(fact, "") for fact in one.fact.values.tolist()], dtype=str))
        rows[method] = one[["verdict", "reason", "remedy"]].assign(failure=failure).reset_coords(drop=True)
        groups[method] = _group(one, level)
    columns = list(next(iter(groups.values())))
    found = {name: ("state", np.array([group[name] for group in groups.values()])) for name in columns}
    return concatenated(list(rows.values()), "state", rows).assign(found).assign_attrs(level=level)


def _edited_together(methods: Mapping[str, Sequence[Edited]]) -> tuple[str, ...]:
    """Ids of the facts that are edited in one state; none where each has a state of its own."""
    edits = next(iter(methods.values()))
    return edits[0].facts if len(edits) == 1 else ()


def _not_judged(result: xr.Dataset) -> xr.Dataset:
    """The result with facts whose edit failed undecided, whatever the numbers are."""
    said = {
        "verdict": "undecided",
        "paper_verdict": "undecided",
        "reason": "did_not_take",
        "remedy": REMEDIES["did_not_take"],
    }
    texts = {name: ("fact", np.where(result.failed.values, text, result[name].values)) for name, text in said.items()}
    return result.assign(texts).assign(took=result.took & ~result.failed)


def _group(one: xr.Dataset, level: float) -> dict[str, Any]:
    """The verdict on the facts on which an edit took, and how many of which there are."""
    kept = one.isel(fact=np.flatnonzero(one.took.values))
    counts = {"n_facts": one.sizes["fact"], "n_took": kept.sizes["fact"], "n_failed": int(one.failed.sum())}
    for verdict in ("masked", "erased", "suppressed", "undecided"):
        counts[f"n_{verdict}"] = int((one.verdict == verdict).sum())
    if not kept.sizes["fact"]:
        nothing = dict.fromkeys(("normalised", "normalised_low", "normalised_high"), np.nan)
        return {"group_verdict": "undecided", "group_reason": "did_not_take", **nothing, **counts}
    row = overview(kept, level).iloc[0]
    ratio = {name: float(row[name]) for name in ("normalised", "normalised_low", "normalised_high")}
    return {"group_verdict": str(row["verdict"]), "group_reason": str(row["reason"]), **ratio, **counts}


def _unit_of_score(name: str) -> str:
    return "difference of probabilities" if name.endswith("_magnitude") else "share"
