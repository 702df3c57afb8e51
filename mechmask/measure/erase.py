"""Erase index, its normalised form, and the verdict (paper 2F; DESIGN, definitions).

The paper's index is the drop of ``logp(old)`` less that of the controls. It counts probability that the new route took
as if it were lost knowledge, so the verdict rests on the trace of old above the same fact where it was never known
(``measure/trace.py``), before the change and after it (``measure/normalised.py``, ``measure/verdict.py``).
"""

from __future__ import annotations

from typing import cast

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.contest import ceiling
from mechmask.measure.normalised import normalised
from mechmask.measure.old_value import statistic_of_old
from mechmask.measure.reading import require, require_same
from mechmask.measure.statistics import over_facts
from mechmask.measure.trace import STATISTIC, TWIN, matched_trace, shared_trace, twin_trace
from mechmask.measure.verdict import ALPHA, MARGIN_SHARE, judge, took

PAPER_CUTOFF_NATS = 8.0  # the middle of 3..13 nats, within which every cutoff separates the paper's two regimes

_WHAT = "The erase index"


def erase_index(
    before: xr.Dataset,
    after: xr.Dataset,
    *,
    reference: xr.Dataset | tuple[xr.Dataset, xr.Dataset] | None = None,
    statistic: str = STATISTIC,
    margin_share: float = MARGIN_SHARE,
    alpha: float = ALPHA,
    cutoff_nats: float = PAPER_CUTOFF_NATS,
    level: float = 0.95,
) -> xr.Dataset:
    """What became of the old value of every contradicted fact.

    What never knowing looks like is taken from the best reference that there is. Readings of twins have a dimension
    ``twin`` and ``knew[twin, fact]``: each fact is held against itself where it was not taught. A second model that is
    known not to hold the facts, such as TOFU's retain model beside its full one, is handed in as ``reference`` and is a
    twin that nobody had to train. Else pseudo-subjects of its own (coordinate ``stands_for``), else all facts of role
    ``never``.

    Args:
        before: reading of all facts before the change, ``logprob[fact, route]`` or ``[fact, phrasing, route]`` in nats,
            with ``twin`` in front where there are twins.
        after: reading of the same facts by the same score after it.
        reference: of a model that never held the contradicted facts: its readings before and after the same change, or
            one reading of it as it is. It holds the controls; facts of role ``never``, which neither model holds, say
            how far apart two such readings are by chance, and without them no verdict is given. What the change does
            to any model counts as trace where the reference did not undergo it: give both of its readings if you can.
        statistic: of which the trace is made (``measure/old_value.py``), averaged over phrasings.
        margin_share: the margin of the verdict, as a share of a fact's trace before.
        alpha: the rate at which each verdict may be wrong where noise is normal, and alike for known and never-known
            readings; intervals of traces and EI* are at ``1 - 2 alpha``.
        cutoff_nats: erase index above which the paper's criterion says erased, in nats.
        level: of the interval of the paper's index.

    Returns:
        Over ``fact`` (the contradicted ones), in nats unless stated otherwise:

        * ``drop`` of ``logp(old)``, ``index`` with ``index_low`` and ``index_high`` (uncertainty of the control mean),
          ``logprob_old``, ``logprob_new`` and ``ceiling`` after the change (no ceiling for the score ``mean``),
          ``surprise`` (``-logp(new)`` before), and ``paper_verdict`` (text), all of the prompt itself, where there are
          twins in those that knew the fact;
        * ``old_before`` and ``old_after``, the statistic of the fact; ``never_before`` and ``never_after``, that of its
          reference; ``trace_before`` and ``trace_after``, the difference, each with ``_low`` and ``_high``;
        * ``normalised`` (EI*, a ratio) with ``normalised_low`` and ``normalised_high``; NaN where old did not stand
          above its reference before;
        * ``took`` (boolean), whether new leads on the prompt after the change or greedy decoding produces it;
        * ``verdict``, ``reason`` and ``remedy`` (text; see ``measure/verdict.py``);
        * ``n_never``, readings of the reference.

        Over nothing: ``noise``, the standard deviation of one never-known reading after the change, with ``freedom``
        and ``shared_error``; ``n_control``. Attributes name the ``statistic``, the ``reference`` (``twins``,
        ``reference model``, whose name is ``reference_model`` then, ``pseudo-subjects`` or ``never facts``),
        ``margin_share``, ``alpha`` and ``interval_level``.

    Raises:
        ReadingError: if the readings are not of the same facts, values, roles, routes and phrasings by the same score
            with the same model, twins do not say or not agree what they were taught, there is no contradicted or no
            control fact, or the margin or the rate makes no verdict.
    """
    other_model = None
    if reference is not None:
        before, after, other_model = _with_reference(before, after, reference)
    before, after = _comparable(before, after)
    facts, controls = _role(before, "contradicted"), _role(before, "control")
    _require_judgeable(facts, controls, margin_share, alpha)
    contradicted = before.fact.values[facts]
    interval_level = 1 - 2 * alpha
    held_against, first = _traces(before, contradicted, statistic, interval_level)
    _, last = _traces(after, contradicted, statistic, interval_level)
    result = _paper_index(before, after, controls, cutoff_nats, level).sel(fact=contradicted)
    result = result.assign(_named(first, "before")).assign(_named(last, "after"))
    taken = _took(after).sel(fact=contradicted)
    ratio = normalised(first, last, interval_level)
    result = result.assign(ratio).assign(took=taken).assign(judge(first, ratio, taken, margin_share))
    held = {"reference": held_against} if other_model is None else {"reference": "reference model", **other_model}
    scalars = {"noise": last.noise, "freedom": last.freedom, "shared_error": last.shared_error}
    return result.assign({**scalars, "n_never": last.n_never}).assign_attrs(
        _origin(before, after),
        **held,
        statistic=statistic,
        margin_share=margin_share,
        alpha=alpha,
        interval_level=interval_level,
        cutoff_nats=cutoff_nats,
        level=level,
    )


def _with_reference(
    before: xr.Dataset, after: xr.Dataset, reference: xr.Dataset | tuple[xr.Dataset, xr.Dataset]
) -> tuple[xr.Dataset, xr.Dataset, dict[str, str]]:
    """The readings as those of two twins, of which the second knows the controls alone, and which model that is."""
    others = (reference, reference) if isinstance(reference, xr.Dataset) else reference
    if not (isinstance(others, tuple) and len(others) == 2 and all(isinstance(one, xr.Dataset) for one in others)):
        raise ReadingError(f"{_WHAT}: the reference is one reading, or a pair of them: before and after the change.")
    named = {"before": before, "after": after, "reference before": others[0], "reference after": others[1]}
    for name, reading in named.items():
        require(reading, f"{_WHAT} ({name})", variables=("logprob", "role"), dims=("fact", "route"))
        if TWIN in reading.dims:
            raise ReadingError(f"{_WHAT} of twins has its reference in them. Leave reference out.")
    dims, held = ("fact", "phrasing", "route"), ("role", "subject", "value", "token")
    require_same(named, _WHAT, dims=dims, attributes=("score",), coordinates=held)
    pair = {name: reading for name, reading in named.items() if name.startswith("reference")}
    require_same(pair, _WHAT, same_model=True)
    which = {"reference_model": str(others[0].attrs.get("model", "")).split(" + ")[0]}
    return _as_twins(before, others[0], "before"), _as_twins(after, others[1], "after"), which


def _as_twins(reading: xr.Dataset, other: xr.Dataset, when: str) -> xr.Dataset:
    """A reading of the model and one of its reference along ``twin``, with what each of them holds."""
    if reading.attrs.get("fingerprint", "") == other.attrs.get("fingerprint", None):
        raise ReadingError(
            f"{_WHAT}: the reference is the model itself ({reading.attrs.get('model', '')}, {when} the change), which "
            "holds the facts. Read a model that never did."
        )
    names = [name for name in ("logprob", "recalled") if name in reading and name in other]
    both = [_without_place(one)[names] for one in (reading, other)]
    role = reading.role.reset_coords(drop=True)
    twin = xr.DataArray(["model", "reference"], dims=TWIN, name=TWIN)
    joined = cast("xr.Dataset", xr.concat(both, twin, join="exact", combine_attrs="override"))
    return joined.assign(knew=xr.concat([role != "never", role == "control"], twin))


def _require_judgeable(facts: np.ndarray, controls: np.ndarray, margin_share: float, alpha: float) -> None:
    if not facts.any() or not controls.any():
        raise ReadingError(f"{_WHAT} needs at least one contradicted and one control fact. Give facts both roles.")
    if not (0 < margin_share < 1 and 0 < alpha < 0.5):
        raise ReadingError(
            f"margin_share={margin_share:g} and alpha={alpha:g} make no verdict. Give shares between 0 and 1, alpha "
            "below a half."
        )


def _named(traces: xr.Dataset, when: str) -> dict[str, xr.DataArray]:
    ends = {"": traces.trace, "_low": traces.low, "_high": traces.high}
    values = {f"old_{when}": traces.old, f"never_{when}": traces.never}
    return values | {f"trace_{when}{end}": value for end, value in ends.items()}


def _traces(reading: xr.Dataset, facts: np.ndarray, statistic: str, level: float) -> tuple[str, xr.Dataset]:
    """The traces of some facts, and what they are held against."""
    logprob, options = reading.logprob, {"statistic": statistic, "level": level}
    if TWIN in logprob.dims:
        name, traces = "twins", twin_trace(logprob, reading.knew, **options)
    elif "stands_for" in reading.coords and (reading.stands_for != "").any():
        name, traces = "pseudo-subjects", matched_trace(logprob, reading.stands_for, **options)
    else:
        name, traces = "never facts", shared_trace(logprob, reading.role == "never", **options)
    traces = traces.reindex(fact=facts)  # a fact without a reference of its own has none
    return name, traces.assign(old=traces.old.fillna(_where_known(reading, statistic).sel(fact=facts)))


def _where_known(reading: xr.Dataset, statistic: str) -> xr.DataArray:
    """The statistic of every fact; of twins, the mean over those that knew it."""
    value = statistic_of_old(reading.logprob, statistic)
    return value.where(reading.knew).mean(TWIN) if TWIN in value.dims else value


def _took(after: xr.Dataset) -> xr.DataArray:
    """Whether the change took on each fact; of twins, in every one that knew it."""
    taken = took(_prompt(after))
    return (taken | ~after.knew).all(TWIN) if TWIN in taken.dims else taken


def _paper_index(
    before: xr.Dataset, after: xr.Dataset, controls: np.ndarray, cutoff_nats: float, level: float
) -> xr.Dataset:
    """The paper's index of every fact, with what is read beside it; of twins, the mean over those that knew it."""
    first, last = _prompt(before), _prompt(after)
    drop = _of(first, "old") - _of(last, "old")
    control = over_facts(drop.isel(fact=np.flatnonzero(controls)).drop_vars("seed", errors="ignore"), level)
    in_nats = {
        "drop": drop,
        "index": drop - control.estimate,
        "index_low": drop - control.high,
        "index_high": drop - control.low,
    }
    result = xr.Dataset(in_nats)  # coordinates are those of old, which comes first
    result = result.assign(surprise=-_of(first, "new"), logprob_old=_of(last, "old"), logprob_new=_of(last, "new"))
    if before.attrs.get("score") != "mean":
        result = result.assign(ceiling=ceiling(last.logprob))
    if TWIN in drop.dims:
        result = result.where(before.knew).mean(TWIN)
    index = result["index"]
    verdict = np.select([index > cutoff_nats, index <= cutoff_nats], ["erased", "masked"], "undecided")
    return result.assign(paper_verdict=("fact", verdict), n_control=int(control.n.max()))


def _of(reading: xr.Dataset, route: str) -> xr.DataArray:
    return reading.logprob.sel(route=route, drop=True)


def _origin(before: xr.Dataset, after: xr.Dataset) -> dict[str, object]:
    """Score and model of the two readings, under its changes, and the fingerprints of their weights."""
    named = {name: after.attrs[name] for name in ("score", "model") if name in after.attrs}
    named |= {"model": str(named["model"]).split(" + ")[0]} if "model" in named else {}
    weights = {f"fingerprint_{w}": r.attrs.get("fingerprint", "") for w, r in (("before", before), ("after", after))}
    return {**named, **weights}


def _comparable(before: xr.Dataset, after: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """The two readings, checked, without phrasings and distractors that none of their facts has."""
    for name, reading in (("before", before), ("after", after)):
        require(reading, f"{_WHAT} ({name})", variables=("logprob", "role"), dims=("fact", "route"))
        others = set(reading.logprob.dims) - {TWIN, "fact", "phrasing", "route"}
        if others or not {"old", "new"} <= set(reading.route.values):
            raise ReadingError(
                f"{_WHAT} takes one reading of the routes old and new at the output, over fact, phrasing, route and "
                f"twin; this one has {', '.join(map(str, reading.logprob.dims))}. Select one layer, step or state."
            )
    before, after = _read(before), _read(after)
    require_same(
        {"before": before, "after": after},
        _WHAT,
        dims=(TWIN, "fact", "phrasing", "route"),
        attributes=("score",),
        coordinates=("role", "subject", "value", "token"),
        same_model=True,
    )
    return (before, _with_knew(before, after)) if TWIN in before.dims else (before, after)


def _with_knew(before: xr.Dataset, after: xr.Dataset) -> xr.Dataset:
    """The reading of twins after, with what each was taught as the one before says it."""
    if "knew" not in before:
        raise ReadingError(f"{_WHAT} of twins needs knew[twin, fact]: which twin was taught which fact. Give it.")
    if "knew" in after and not after.knew.equals(before.knew):
        raise ReadingError(f"{_WHAT}: before and after differ in what the twins knew. Read the same twins both times.")
    return after.assign(knew=before.knew)


def _read(reading: xr.Dataset) -> xr.Dataset:
    """The reading without phrasings and distractors that only other facts of the original set had, nor its place.

    Its place is where it was selected from, such as its step: a coordinate without a dimension, which two readings
    need not have in common.
    """
    reading = _without_place(reading)
    there = reading.logprob.notnull()
    for dim, always in (("route", ["old", "new"]), ("phrasing", [0])):
        if dim in reading.dims:
            wanted = there.any([other for other in there.dims if other != dim]) | reading[dim].isin(always)
            reading = reading.isel({dim: np.flatnonzero(wanted)})
    return reading


def _without_place(reading: xr.Dataset) -> xr.Dataset:
    return reading.drop_vars([name for name, of in reading.coords.items() if not of.dims])


def _role(reading: xr.Dataset, role: str) -> np.ndarray:
    return reading.role.values == role


def _prompt(reading: xr.Dataset) -> xr.Dataset:
    return reading.sel(phrasing=0, drop=True) if "phrasing" in reading.dims else reading
