"""The numbers of the knowledge-editing field, each with an interval over records, from readings of ``read_editing``.

CounterFact's scores and magnitudes are those of Meng et al. (2022, ROME, section 3.4): two values are compared by the
mean negative log-probability x of their tokens, a tie is no success, and a magnitude is a difference of exp(-x), a
geometric mean over tokens and not the probability of the value. Accuracies are those of Meng et al. (2023, MEMIT: all
tokens of a value right) and of zsRE and EasyEdit (the share of tokens that are right); both are teacher-forced. All are
shares, where the papers print percent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError, known_names
from mechmask.measure.clustered_share import share_of_facts
from mechmask.measure.editing_reading import (
    is_contradicted,
    is_edited_neighbor,
    only_where,
    require_alike,
    require_editing,
)
from mechmask.measure.harmonic_score import harmonic_mean_of_shares
from mechmask.measure.reading import require_same_coordinates
from mechmask.measure.record_difference import share_difference_over_records
from mechmask.measure.record_mean import mean_over_records
from mechmask.measure.record_share import share_over_records
from mechmask.measure.sample import require_level
from mechmask.measure.statistics import Interval, several_draws

Right = Literal["success", "exact"]

_WHAT = "Editing scores"
_KNOWN_GROUPS = ("rewrite", "paraphrase", "neighborhood")


class _Metric(NamedTuple):
    """One number: what the field calls it, its values by record and prompt, and of how many tokens each is a share."""

    name: str
    abbreviation: str
    values: xr.DataArray
    tokens: xr.DataArray | None = None
    is_share: bool = True


def editing_scores(
    reading: xr.Dataset,
    before: xr.Dataset | None = None,
    level: float = 0.95,
    *,
    edited: Iterable[str] | None = None,
) -> xr.Dataset:
    """Every score of an edit that the reading allows: the mean over records of the mean over a record's prompts.

    Records are the contradicted facts; where a reading has others, they are passed over. A neighbor's prompt that is
    the prompt or a paraphrase of another fact edited in the same state is supposed to change, so it is left out of NS,
    NM, S, neighborhood_exact, specificity and locality. It is known by its text; each draw is a state of its own.

    ==========================  ====  ===========================================================================
    metric                            of a prompt
    ==========================  ====  ===========================================================================
    efficacy_score              ES    x(new) < x(old) after the edited prompt
    paraphrase_score            PS    the same after a paraphrase
    neighborhood_score          NS    x(own value) < x(new) after a neighbor's prompt
    harmonic_score              S     harmonic mean of these three means
    efficacy_magnitude          EM    exp(-x(new)) - exp(-x(old)) after the edited prompt
    paraphrase_magnitude        PM    the same after a paraphrase
    neighborhood_magnitude      NM    exp(-x(own value)) - exp(-x(new)) after a neighbor's prompt
    efficacy_exact                    all tokens of new right (MEMIT's accuracy; greedy decoding says it)
    paraphrase_exact                  the same after a paraphrase
    neighborhood_exact                all tokens of the neighbor's own value right
    reliability                       share of the tokens of new that are right (zsRE's efficacy)
    generalization                    the same after a paraphrase
    specificity                       share of the tokens of the neighbor's own value that are right (zsRE)
    locality                          share of the tokens of the neighbor's own value at which the most probable
                                      token is what it was before the edit (EasyEdit); where ``before`` is given
    portability                       share of the tokens of what follows from the edit that are right (EasyEdit), over
                                      all implications but those of the kind reverse
    reverse, reasoning, ...           the same of one kind of implication
    portability_exact, ...            all tokens right, of the same
    ==========================  ====  ===========================================================================

    Args:
        reading: of the edited model, as ``read_editing`` returns it: ``nll[fact, prompt, route]`` in nats and what
            stands beside it.
        before: of the same facts by the model before the edit, for ``locality``.
        level: of all intervals.
        edited: ids of the facts that are edited in the state that was read, all contradicted ones by default; ``()``
            where each fact was read under its own edit alone, and for the published count, which leaves nothing out.

    Returns:
        ``estimate``, ``low`` and ``high`` over ``metric`` (shares; magnitudes are differences of probabilities), and
        the count ``n`` of facts that were asked, 0 with NaN where none has such prompts; ``abbreviation[metric]`` as
        the papers print it, empty where they print none. Shares of records have the exact interval of Clopper and
        Pearson, means of shares that of ``share_over_records``, S that of ``harmonic_mean_of_shares``, magnitudes
        that of ``mean_over_records``. Every record has the same weight, also where ``seed[fact]`` says that they are of
        several draws: then a draw is one observation of the interval, and ``attrs["unit"]`` is ``draws``, else
        ``facts``. ``attrs["n_edited_neighbors"]`` counts the neighbors' prompts that were left out.

    Raises:
        ReadingError: if a reading lacks what is needed or holds no contradicted fact, ``before`` is of other facts,
            prompts, values or tokens, a fact of ``edited`` is not in the reading, a kind of implication is called as a
            score is, or the level is not between 0 and 1.
    """
    require_level(level, _WHAT)
    require_editing(reading, _WHAT)
    if before is not None:
        require_alike({"before": before, "reading": reading}, _WHAT)
    reading, n_left_out = _counted(reading, _WHAT, edited)
    metrics = _metrics(reading, before)
    rows = {metric.name: (metric.abbreviation, _interval(metric, level)) for metric in metrics}
    rows["harmonic_score"] = ("S", harmonic_mean_of_shares([metric.values for metric in metrics[:3]], level))
    order = ["efficacy_score", "paraphrase_score", "neighborhood_score", "harmonic_score"]
    names = [*order, *(name for name in rows if name not in order)]
    table = _table({name: rows[name] for name in names}, level)
    about = {name: reading.attrs[name] for name in ("model", "fingerprint") if name in reading.attrs}
    drawn = several_draws(reading)
    return table.assign_attrs(about, unit="draws" if drawn else "facts", n_edited_neighbors=n_left_out)


def editing_difference(
    first: xr.Dataset,
    second: xr.Dataset,
    level: float = 0.95,
    *,
    edited: Iterable[str] | None = None,
) -> xr.Dataset:
    """How much higher a second state scores than a first, by the difference of every record from itself.

    Which facts are hard is mostly the same for both, which two intervals of ``editing_scores`` side by side do not
    know. After a study: ``editing_difference(answers.sel(state="memit"), answers.sel(state="alphaedit"))``, where
    ``answers`` is ``study.reading("results/answers")``.

    Args:
        first: of one edited model, as ``read_editing`` returns it: ``nll[fact, prompt, route]`` in nats and what stands
            beside it.
        second: of the same facts by another.
        level: of all intervals.
        edited: ids of the facts that are edited in the states that were read, as in ``editing_scores``.

    Returns:
        As ``editing_scores``: ``estimate``, ``low``, ``high`` of second less first, and ``n`` over ``metric``; of
        shares by ``share_difference_over_records``, of magnitudes by ``mean_over_records``. S, which no record has by
        itself, and locality, which asks for a third reading, are left out.

    Raises:
        ReadingError: as ``editing_scores``; and if the readings are of other facts, roles, draws, prompts, values or
            tokens.
    """
    what = "A difference of editing scores"
    require_level(level, what)
    require_alike({"first": first, "second": second}, what)
    require_same_coordinates(first, second, what, ("role", "seed"))
    chosen = None if edited is None else [edited] if isinstance(edited, str) else list(edited)
    counted = [_counted(reading, what, chosen) for reading in (first, second)]
    pairs = zip(*(_metrics(reading) for reading, _ in counted), strict=True)
    rows = {one.name: (one.abbreviation, _difference(one, other, level)) for one, other in pairs}
    unit = "draws" if several_draws(first) else "facts"
    return _table(rows, level).assign_attrs(unit=unit, n_edited_neighbors=counted[0][1])


def edit_flip_ratio(
    before: xr.Dataset, after: xr.Dataset, *, right: Right = "success", level: float = 0.95
) -> Interval:
    """EFR: of the edits that were right before a further training, the share that is wrong after it.

    ``|{right before and wrong after}| / |{right before}|`` (Cheng et al. 2025, equation 1); an edit is right where its
    new value is, after the edited prompt. Facts of other roles than contradicted were not edited and do not count.

    Args:
        before: of the edited model, as ``read_editing`` returns it: ``nll[fact, prompt, route]`` in nats.
        after: of the same facts by the model after that training.
        right: ``success``, x(new) < x(old), or ``exact``, all tokens of new right.
        level: of the interval.

    Returns:
        The share and its exact interval; ``n`` counts the edits that were right before. NaN where none was.

    Raises:
        ReadingError: if a reading lacks what is needed or holds no contradicted fact, the readings are of other facts,
            prompts, values or tokens, ``right`` is not known, or the level is not between 0 and 1.
    """
    what = "An edit flip ratio"
    require_level(level, what)
    if right not in get_args(Right):
        raise ReadingError(f"right={right!r} is not known. {known_names(str(right), get_args(Right))}")
    require_alike({"before": before, "after": after}, what)
    if "rewrite" not in before.group.values:
        raise ReadingError(f"{what} needs the prompt that was edited (the group rewrite). Read whole facts.")
    asked = is_contradicted(before, what)
    was, still = (_rewritten(reading, right) for reading in (before, after))
    return share_of_facts((1 - still).where((was == 1) & asked), level)


def _counted(reading: xr.Dataset, what: str, edited: Iterable[str] | None) -> tuple[xr.Dataset, int]:
    """The reading with nothing but the prompts that count, and how many neighbors' prompts are left out."""
    asked = is_contradicted(reading, what)[:, None]
    left_out = is_edited_neighbor(reading, what, edited) & asked
    return only_where(reading, asked & ~left_out), int(left_out.sum())


def _metrics(reading: xr.Dataset, before: xr.Dataset | None = None) -> list[_Metric]:
    """Every score that a record has by itself: first the three of CounterFact."""
    metrics = [*_successes(reading), *_magnitudes(reading), *_accuracies(reading)]
    if before is not None:
        tokens = _at(reading, "n_tokens", "neighborhood", "old")
        metrics.append(_Metric("locality", "", _agreement(before, reading), tokens))
    metrics += _implied(reading)
    _require_distinct([metric.name for metric in metrics])
    return metrics


def _table(rows: Mapping[str, tuple[str, Interval]], level: float) -> xr.Dataset:
    """Abbreviation and interval of every metric, labelled."""
    columns = {
        field: ("metric", [getattr(interval, field) for _, interval in rows.values()]) for field in Interval._fields
    }
    labels = {"metric": list(rows), "abbreviation": ("metric", [abbreviation for abbreviation, _ in rows.values()])}
    return xr.Dataset(columns, labels, {"level": level})


def _rewritten(reading: xr.Dataset, right: Right) -> xr.DataArray:
    """1 where the edit holds at the edited prompt, 0 where not, NaN where it was not read ``[fact]``."""
    values = _leads(reading, "rewrite", "new") if right == "success" else _at(reading, "exact", "rewrite", "new")
    return values.isel(prompt=0, drop=True)


def _successes(reading: xr.Dataset) -> list[_Metric]:
    return [
        _Metric("efficacy_score", "ES", _leads(reading, "rewrite", "new")),
        _Metric("paraphrase_score", "PS", _leads(reading, "paraphrase", "new")),
        _Metric("neighborhood_score", "NS", _leads(reading, "neighborhood", "old")),
    ]


def _magnitudes(reading: xr.Dataset) -> list[_Metric]:
    return [
        _Metric("efficacy_magnitude", "EM", _lead(reading, "rewrite", "new"), is_share=False),
        _Metric("paraphrase_magnitude", "PM", _lead(reading, "paraphrase", "new"), is_share=False),
        _Metric("neighborhood_magnitude", "NM", _lead(reading, "neighborhood", "old"), is_share=False),
    ]


def _accuracies(reading: xr.Dataset) -> list[_Metric]:
    asked = [("rewrite", "new"), ("paraphrase", "new"), ("neighborhood", "old")]
    exact, tokens = ("efficacy", "paraphrase", "neighborhood"), ("reliability", "generalization", "specificity")
    return [
        *(_Metric(f"{n}_exact", "", _at(reading, "exact", *of)) for n, of in zip(exact, asked, strict=True)),
        *(_of_tokens(n, reading, *of) for n, of in zip(tokens, asked, strict=True)),
    ]


def _implied(reading: xr.Dataset) -> list[_Metric]:
    """Accuracies of what follows from the edit: of all but the reversed, and of every kind that the facts have."""
    groups = list(map(str, reading.group.values))
    kinds = [kind for kind in dict.fromkeys(groups) if kind not in _KNOWN_GROUPS]
    together = [kind for kind in kinds if kind != "reverse"]
    asked = {"portability": together} if together else {}
    asked |= {kind: [kind] for kind in kinds if kind != "portability"}
    return [
        metric
        for kind, of in asked.items()
        for metric in (
            _of_tokens(kind, reading, of, "new"),
            _Metric(f"{kind}_exact", "", _at(reading, "exact", of, "new")),
        )
    ]


def _of_tokens(name: str, reading: xr.Dataset, group: str | list[str], route: str) -> _Metric:
    """The share of a value's tokens that are right."""
    right, tokens = (_at(reading, variable, group, route) for variable in ("token_accuracy", "n_tokens"))
    return _Metric(name, "", right, tokens)


def _at(reading: xr.Dataset, variable: str, group: str | list[str], route: str) -> xr.DataArray:
    """A variable at the prompts of a group, or of several, of one route ``[fact, prompt]``."""
    return reading[variable].isel(prompt=np.flatnonzero(reading.group.isin(group).values)).sel(route=route, drop=True)


def _leads(reading: xr.Dataset, group: str, route: str) -> xr.DataArray:
    """1 where a value is less surprising than its rival, 0 where not, a tie included; NaN where one was not read."""
    own, rival = (_at(reading, "nll", group, one) for one in _against(route))
    return (own < rival).astype(float).where(own.notnull() & rival.notnull())


def _lead(reading: xr.Dataset, group: str, route: str) -> xr.DataArray:
    """By how much the geometric mean probability of a value's tokens is above its rival's."""
    own, rival = (np.exp(-_at(reading, "nll", group, one)) for one in _against(route))
    return own - rival


def _against(route: str) -> tuple[str, str]:
    return (route, "old" if route == "new" else "new")


def _agreement(before: xr.Dataset, reading: xr.Dataset) -> xr.DataArray:
    """Share of the tokens of each neighbor's own value at which both readings have the same most probable token."""
    first, second = (_at(one, "top_token", "neighborhood", "old") for one in (before, reading))
    there = second >= 0
    return ((first == second) & there).sum("value_token") / there.sum("value_token").where(there.any("value_token"))


def _interval(metric: _Metric, level: float) -> Interval:
    if metric.is_share:
        return share_over_records(metric.values, level, behind=metric.tokens)
    return mean_over_records(metric.values, level)


def _difference(first: _Metric, second: _Metric, level: float) -> Interval:
    if first.is_share:
        return share_difference_over_records(first.values, second.values, level, behind=first.tokens)
    return mean_over_records(second.values - first.values, level)


def _require_distinct(names: list[str]) -> None:
    for name, count in Counter([*names, "harmonic_score"]).items():
        if count > 1:
            raise ReadingError(
                f"{_WHAT}: a kind of implication is called {name!r}, as a score is. Give the kind another name."
            )
