"""Editors side by side, from what was read of every fact under its edit: the editing field's scores beside the verdict.

An edit that failed left the model as it was, so that fact counts, in every ruler, with what was read before: an editor
is not praised for the facts that it refused. What became of such a fact is not judged.

Labelled arrays in and out; no model and no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import xarray as xr

from mechmask.measure.commit import commit_layer
from mechmask.measure.commit_interval import commit_interval
from mechmask.measure.contest import standing
from mechmask.measure.contrast import share_led_by_old
from mechmask.measure.editing import editing_scores
from mechmask.measure.erase import erase_index
from mechmask.measure.generations import generation_scores
from mechmask.measure.normalised import group_normalised
from mechmask.measure.perplexity import divergence_per_token, per_token, text_drift
from mechmask.measure.pool import only
from mechmask.measure.statistics import Interval, over_facts
from mechmask.measure.summary import overview
from mechmask.measure.trace import TWIN
from mechmask.measure.verdict import REMEDIES
from mechmask.study.tables import by_state, concatenated

BEFORE = "before"
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


@dataclass(frozen=True)
class Edited:
    """What was read under one edit.

    Attributes:
        facts: ids of those that were edited.
        readings: by the name of the ruler; by the name of the twin before that (one of an empty name without twins).
            Empty where the edit failed.
        failures: what the editor said, by the id of the fact that it could not edit.
    """

    facts: tuple[str, ...]
    readings: Mapping[str, Mapping[str, xr.Dataset]]
    failures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """What was read before any edit.

    Attributes:
        readings: as of ``Edited``.
        output: the output reading of all facts; of twins, along ``twin`` with ``knew[twin, fact]``.
        shares: ids of the contradicted facts that each twin knows, by its name.
    """

    readings: Mapping[str, Mapping[str, xr.Dataset]]
    output: xr.Dataset
    shares: Mapping[str, Sequence[str]]

    @property
    def facts(self) -> list[str]:
        """Ids of the contradicted facts, in the order of the study."""
        known = {fact for share in self.shares.values() for fact in share}
        return [fact for fact in self.output.fact.values.tolist() if fact in known]


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
            after = _output(start, edit)
            result = erase_index(start.output.sel(fact=after.fact), after, **options)
            failed = [fact in edit.failures for fact in result.fact.values.tolist()]
            parts.append(_not_judged(result.assign(failed=("fact", failed))))
        joined = parts[0] if len(parts) == 1 else _concat(parts)
        commits = commit_layer(depth_of(start, edits)).sel(fact=joined.fact.values).reset_coords(drop=True)
        rows[method] = joined.assign(
            commit_layer=commits.sel(phrasing=0, drop=True),
            commit_low=commits.min("phrasing"),
            commit_high=commits.max("phrasing"),
        )
    return by_state(rows)


def depth_of(start: Start, edits: Iterable[Edited]) -> xr.Dataset:
    """The depth reading of every fact under its own edit, in the twin that knew it.

    Args:
        start: what was read before.
        edits: of one editor.

    Returns:
        ``logprob[fact, phrasing, route, layer]`` and ``margin[fact, phrasing, layer]`` in nats.
    """
    return _concat(_own(start, edits, "depth"))


def editing_of(start: Start, edits: Iterable[Edited]) -> xr.Dataset:
    """What ``read_editing`` gave of every fact under its own edit, prompts of one kind below each other.

    Args:
        start: what was read before.
        edits: of one editor.

    Returns:
        ``nll[fact, prompt, route]`` in nats and what stands beside it; NaN where a fact has fewer prompts than others.
    """
    return joined_prompts(_own(start, edits, "editing"))


def generations_of(start: Start, edits: Iterable[Edited]) -> xr.Dataset:
    """The texts about every fact under its own edit.

    Args:
        start: what was read before.
        edits: of one editor.

    Returns:
        ``text[fact, generation]``; an empty text is none.
    """
    return _concat(_own(start, edits, "generations"))


def joined_prompts(readings: Sequence[xr.Dataset]) -> xr.Dataset:
    """Readings of ``read_editing`` joined along ``fact``: each has as many prompts of a kind as the fullest.

    Args:
        readings: ``nll[fact, prompt, route]`` in nats and more, each with its own prompts.

    Returns:
        One reading, with missing values where a fact has no such prompt, as ``read_editing`` has them.
    """
    most: dict[str, int] = {}
    for reading in readings:
        for group in reading.group.values.tolist():
            most[group] = max(most.get(group, 0), reading.group.values.tolist().count(group))
    columns = [(group, number) for group, n in most.items() for number in range(n)]
    longest = max(reading.sizes["value_token"] for reading in readings)
    parts = [_with_columns(reading, columns, longest) for reading in readings]
    joined = cast("xr.Dataset", xr.concat(parts, "fact", data_vars="all", coords="different", compat="equals"))
    return joined.assign_coords(
        prompt=range(len(columns)), group=("prompt", [group for group, _ in columns])
    ).assign_attrs(_shared(readings))


def joined_states(states: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Readings of the same facts along ``state``.

    Args:
        states: by the name of the state, ``[fact, ...]`` in any unit.
    """
    return concatenated(list(states.values()), "state", states)


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
        table, n_left_out = _intervals(scores), scores.attrs["n_edited_neighbors"]
        abbreviations |= dict(zip(scores.metric.values.tolist(), scores.abbreviation.values.tolist(), strict=True))
        if "generations" in start.readings[next(iter(start.readings))]:
            table |= _intervals(generation_scores(generations_of(start, edits), level=level))
        table |= _of_old(start, edits, erase, state, level)
        table |= _of_text(start, edits, level)
        rows[state] = table
    names = list(dict.fromkeys(name for table in rows.values() for name in table))
    empty = Interval(np.nan, np.nan, np.nan, 0)
    fields = {
        name: (
            ("state", "metric"),
            [[getattr(table.get(metric, empty), name) for metric in names] for table in rows.values()],
        )
        for name in Interval._fields
    }
    labels = {
        "state": list(rows),
        "metric": names,
        "unit": ("metric", [_UNITS.get(name, _unit_of_score(name)) for name in names]),
        "abbreviation": ("metric", [_ABBREVIATIONS.get(name, abbreviations.get(name, "")) for name in names]),
    }
    return xr.Dataset(fields, labels, {"level": level, "n_edited_neighbors": n_left_out})


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


def sequence_of(start: Start, methods: Mapping[str, Mapping[int, Edited]], level: float) -> xr.Dataset:
    """How a sequence of edits wears a model down.

    Args:
        start: what was read before.
        methods: by editor and number of edits what was read after so many; ``facts`` are those edited so far.
        level: of the intervals.

    Returns:
        ``estimate``, ``low``, ``high`` and the count ``n`` over ``state``, ``edits`` (a count, 0 before any) and
        ``metric``: ``efficacy_score`` and ``paraphrase_score`` of the facts edited so far, ``neighborhood_score`` of
        the neighbors of all facts (shares), and where a text was read ``kl`` (nats per token) and
        ``perplexity_ratio``. ``n_edited_neighbors[edits]`` counts the neighbors' prompts that are left out of
        ``neighborhood_score`` as phrasings of other facts edited so far.
    """
    everything = tuple(start.facts)
    numbers = sorted({0, *(number for of in methods.values() for number in of)})
    names = ["efficacy_score", "paraphrase_score", "neighborhood_score", "kl", "perplexity_ratio"]
    empty = Interval(np.nan, np.nan, np.nan, 0)
    cells, n_left_out = [], dict.fromkeys(numbers, 0)
    for of in methods.values():
        row = []
        for number in numbers:
            edit = of.get(number, Edited((), {}))
            table: dict[str, Interval] = {}
            if number in of or not number:
                whole = editing_of(start, [Edited(everything, edit.readings)])
                scores = editing_scores(whole, level=level, edited=edit.facts)
                n_left_out[number] = scores.attrs["n_edited_neighbors"]
                table["neighborhood_score"] = _intervals(scores)["neighborhood_score"]
                table |= _of_text(start, [edit], level, together=True)
                if edit.facts:
                    so_far = _intervals(editing_scores(whole.sel(fact=list(edit.facts)), level=level))
                    table |= {name: so_far[name] for name in names[:2]}
            row.append([table.get(name, empty) for name in names])
        cells.append(row)
    dims = ("state", "edits", "metric")
    fields = {
        name: (dims, [[[getattr(cell, name) for cell in at] for at in row] for row in cells])
        for name in Interval._fields
    }
    found = xr.Dataset(fields, {"state": list(methods), "edits": numbers, "metric": names}, {"level": level})
    return found.assign(n_edited_neighbors=("edits", [n_left_out[number] for number in numbers]))


def costs_of(costs: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], level: float) -> xr.Dataset:
    """What every editor cost, as it was measured.

    Args:
        costs: by editor, ``edit`` and ``prepare``: seconds and bytes of every call that was measured.
        level: of the intervals.

    Returns:
        ``estimate``, ``low``, ``high`` and the count ``n`` of calls over ``state`` and ``metric``: ``seconds`` a fact
        and ``memory_bytes`` of an edit, ``prepare_seconds`` and ``prepare_memory_bytes`` of making the editor ready;
        with ``unit[metric]``.
    """
    kinds = {"": "edit", "prepare_": "prepare"}
    units = {
        f"{prefix}{name}": unit for prefix in kinds for name, unit in (("seconds", "s"), ("memory_bytes", "bytes"))
    }
    rows = []
    for of in costs.values():
        row = []
        for kind in kinds.values():
            measured = np.array(of.get(kind, ()), dtype=float).reshape(-1, 2)
            row += [_mean(measured[:, column], level) for column in (0, 1)]
        rows.append(row)
    fields = {
        name: (("state", "metric"), [[getattr(cell, name) for cell in row] for row in rows])
        for name in Interval._fields
    }
    labels = {"state": list(costs), "metric": list(units), "unit": ("metric", list(units.values()))}
    return xr.Dataset(fields, labels, {"level": level})


def _edited_together(methods: Mapping[str, Sequence[Edited]]) -> tuple[str, ...]:
    """Ids of the facts that are edited in one state; none where each has a state of its own."""
    edits = next(iter(methods.values()))
    return edits[0].facts if len(edits) == 1 else ()


def _output(start: Start, edit: Edited) -> xr.Dataset:
    """The output reading after an edit, of twins along ``twin``; that from before where the edit failed."""
    if not edit.readings:
        rest = start.output.fact.values[start.output.role.values != "contradicted"].tolist()
        return start.output.sel(fact=[*edit.facts, *rest])
    read = {twin: of["output"] for twin, of in edit.readings.items()}
    if TWIN not in start.output.dims:
        return next(iter(read.values()))
    return concatenated(list(read.values()), TWIN, read)


def _own(start: Start, edits: Iterable[Edited], ruler: str) -> list[xr.Dataset]:
    """What one ruler said of every edited fact, in the twin that knew it; before, where its edit failed."""
    parts = []
    for edit in edits:
        for twin, share in start.shares.items():
            facts = [fact for fact in edit.facts if fact in set(share)]
            if facts:
                read = edit.readings or start.readings
                parts.append(read[twin][ruler].sel(fact=facts))
    order = {fact: number for number, fact in enumerate(start.facts)}
    return sorted(parts, key=lambda part: order[str(part.fact.values[0])])


def _concat(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Readings along ``fact``, in the order of the first; a text that some of them lack is empty there."""
    if len(parts) == 1:
        return parts[0]
    joined = cast(
        "xr.Dataset",
        xr.concat(parts, "fact", data_vars="all", coords="different", join="outer", combine_attrs="drop_conflicts"),
    )
    texts = {
        name: (variable.dims, np.where(variable.isnull().values, "", variable.values).astype(str))
        for name, variable in joined.variables.items()
        if variable.dtype.kind == "O"
    }
    return joined.assign({name: of for name, of in texts.items() if name in joined.data_vars}).assign_coords(
        {name: of for name, of in texts.items() if name in joined.coords}
    )


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


def _with_columns(reading: xr.Dataset, columns: Sequence[tuple[str, int]], longest: int) -> xr.Dataset:
    """A reading of ``read_editing`` with these columns, as kind and number within it."""
    groups = reading.group.values.tolist()
    own = [(group, groups[:place].count(group)) for place, group in enumerate(groups)]
    reading = reading.drop_vars("prompt", errors="ignore")  # numbers of columns, which are not these
    place = xr.DataArray([own.index(column) if column in own else -1 for column in columns], dims="prompt")
    there = place >= 0
    parts = {}
    for name in ("nll", "token_accuracy", "exact", "top_token", "text", "value", "token", "n_tokens"):
        taken = reading[name].reset_coords(drop=True).isel(prompt=place.clip(0))
        parts[name] = taken.where(there, _MISSING.get(name, np.nan))
    parts["top_token"] = parts["top_token"].pad(
        value_token=(0, longest - reading.sizes["value_token"]), constant_values=-1
    )
    laid = xr.Dataset(parts).assign_coords(
        {name: reading[name] for name in reading.coords if reading[name].dims == ("fact",)}
    )
    return laid.set_coords(["text", "value", "token", "n_tokens"])


_MISSING = {"text": "", "value": "", "token": "", "n_tokens": 0, "top_token": -1}


def _shared(readings: Sequence[xr.Dataset]) -> dict[str, Any]:
    """The attributes that all readings have alike."""
    first, *others = (reading.attrs for reading in readings)
    return {name: value for name, value in first.items() if all(of.get(name) == value for of in others)}


def _intervals(table: xr.Dataset) -> dict[str, Interval]:
    """The rows of a table over ``metric``."""
    return {
        str(name): Interval(
            float(table.estimate[row]), float(table.low[row]), float(table.high[row]), int(table.n[row])
        )
        for row, name in enumerate(table.metric.values)
    }


def _mean(values: np.ndarray | xr.DataArray, level: float) -> Interval:
    array = values if isinstance(values, xr.DataArray) else xr.DataArray(values, dims="fact")
    found = over_facts(array.reset_coords(drop=True), level)
    return Interval(float(found.estimate), float(found.low), float(found.high), int(array.notnull().sum()))


def _of_old(start: Start, edits: Sequence[Edited], erase: xr.Dataset, state: str, level: float) -> dict[str, Interval]:
    """What is left of the old value, by mechmask's own rulers."""
    is_before = state == BEFORE
    one = erase.isel(state=0, drop=True) if is_before else erase.sel(state=state, drop=True)
    own = _concat(_own(start, edits, "output"))
    commits = commit_layer(depth_of(start, edits)).sel(phrasing=0, drop=True)
    layer, low, high, n_committed, _ = commit_interval(commits.values, level=level)
    found = {
        "standing": _mean(standing(own.logprob.sel(phrasing=0, drop=True)), level),
        "trace": _mean(one.trace_before if is_before else one.trace_after, level),
        "commit_layer": Interval(layer, low, high, n_committed),
    }
    if is_before:
        return found
    took = one.took.sel(fact=own.fact.values)
    found["erase_index"] = _mean(one["index"], level)
    found["normalised"] = group_normalised(only(one, one.took))
    led = own.logprob.sel(route="old", drop=True) > own.logprob.sel(route="new", drop=True)
    led = led.where(own.logprob.sel(route="new", drop=True).notnull() & took.values[:, None]).isel(
        phrasing=slice(1, None)
    )
    if led.sizes["phrasing"]:
        back = share_led_by_old(led.rename(phrasing="probe").reset_coords(drop=True).astype(float), level)
        share, low, high = (float(back[f"share{end}"]) for end in ("", "_low", "_high"))
        found["paraphrase_rebound"] = Interval(share, low, high, int(back.n))
    return found


def _of_text(start: Start, edits: Sequence[Edited], level: float, *, together: bool = False) -> dict[str, Interval]:
    """What edits cost running text: means over edits, or of one edit over the sequences of the text."""
    read = [
        edit.readings[twin]["text"] for edit in edits for twin in start.shares if "text" in edit.readings.get(twin, {})
    ]
    if not read:
        return {}
    if together or len(edits) == 1:
        table = _intervals(text_drift(xr.concat(read, "sequence", combine_attrs="drop_conflicts"), level))
        return {name: table[name] for name in ("kl", "perplexity_ratio")}
    own = [
        edit.readings[twin]["text"]
        for edit in edits
        for twin, share in start.shares.items()
        if edit.facts[0] in set(share) and "text" in edit.readings.get(twin, {})
    ]
    kl = np.array([per_token(one.kl, one.n_tokens).estimate for one in own])
    worse = np.array(
        [per_token(one.nll.sel(state="after") - one.nll.sel(state="before"), one.n_tokens).estimate for one in own]
    )
    ratio, low, high = np.exp(_mean(worse, level)[:3]).tolist()
    each = np.ones(len(own))
    return {"kl": divergence_per_token(kl, each, level), "perplexity_ratio": Interval(ratio, low, high, len(worse))}


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
