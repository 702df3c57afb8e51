"""Power: how often a study of twins decides what became of its facts, before it is run.

The model is that of ``measure/trace.py``. A trace is the mean of ``n_knew`` readings less that of ``n_never``, all with
the same normal noise; before the change and after it the noise is drawn anew, and a share of every fact's trace is
left. Verdicts are those of ``measure/verdict.py``: on a fact by the pooled noise, on a group by the spread over its
facts. A probability is the integral of a normal plane over the region in which Fieller's interval decides, the errors
that the interval goes by drawn from their own distribution (chi, Wishart): no simulation, and no approximation but the
quadrature, which is good to 0.001.

Not in the model: a shift that all facts of a twin share, a change that takes on some facts only, noise that grows with
the trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from mechmask.errors import ReadingError
from mechmask.measure.twin_design import Expected, TwinDesign

_NODES = 16  # of each quadrature: 24 move no probability by 0.001


class Decided(NamedTuple):
    """How often each verdict falls, and how often it is right or wrong; the rest is undecided. Shares."""

    masked: float
    erased: float
    suppressed: float
    right: float
    wrong: float


def fact_power(share: float, design: TwinDesign | None = None, expected: Expected | None = None) -> Decided:
    """How a fact is judged of whose trace a share is left, on average over facts whose traces spread.

    Args:
        share: of the trace before that is left: 1 untouched, 0 gone, below 0 pushed under never known.
        design: of the study.
        expected: of its readings; with ``spread=0`` it is one fact of just that trace.

    Returns:
        Shares of all facts. ``right`` is the verdict that is true: masked above the margin, erased within it,
        suppressed below it.

    Raises:
        ReadingError: if the share is not a finite number.
    """
    design, expected = design or TwinDesign(), expected or Expected()
    _require_finite(share)
    if not design.freedom:
        return Decided(0.0, 0.0, 0.0, 0.0, 0.0)
    error, m = expected.error(design), design.margin_share
    scales, weights = _chi_nodes(design.freedom)
    scales = scales / np.sqrt(design.freedom)
    t = stats.t.ppf(1 - design.alpha, design.freedom)
    before, after = (t * error * scales[:, None], t * error * scales[None, :])  # both are estimated, each by itself
    half = np.sqrt(after**2 + (m * before) ** 2)
    halves = [part.ravel() for part in np.broadcast_arrays(before, half, half)]
    covariance = _covariance(share, expected, error)
    return _decided(share, expected.trace_before, covariance, halves, np.outer(weights, weights).ravel(), m)


def group_power(share: float, design: TwinDesign | None = None, expected: Expected | None = None) -> Decided:
    """How a group of facts is judged of whose traces a share is left, by the ratio of its means.

    Args:
        share: of every fact's trace before that is left.
        design: of the study.
        expected: of its readings.

    Returns:
        Shares of all studies, as ``fact_power`` has them of facts. A group of one fact is never decided.

    Raises:
        ReadingError: if the share is not a finite number.
    """
    design, expected = design or TwinDesign(), expected or Expected()
    _require_finite(share)
    n, m = design.facts, design.margin_share
    if n < 2:
        return Decided(0.0, 0.0, 0.0, 0.0, 0.0)
    covariance = _covariance(share, expected, expected.error(design))
    samples, weights = _wishart_nodes(covariance, n - 1)
    t = stats.t.ppf(1 - design.alpha, n - 1)
    contrasts = np.array([[1.0, 0.0], [-m, 1.0], [m, 1.0]])  # before; after above the margin; after below it
    variances = np.einsum("ci,nij,cj->cn", contrasts, samples, contrasts) / (n * (n - 1))
    return _decided(share, expected.trace_before, covariance / n, list(t * np.sqrt(variances)), weights, m)


def _covariance(share: float, expected: Expected, error: float) -> np.ndarray:
    """Of the traces of one fact before and after, ``[2, 2]``: facts differ, and both are read with an error."""
    of_facts = np.outer([1.0, share], [1.0, share]) * expected.spread**2
    return of_facts + np.eye(2) * error**2


def _decided(
    share: float,
    trace_before: float,
    covariance: np.ndarray,
    halves: Sequence[np.ndarray],
    weights: np.ndarray,
    m: float,
) -> Decided:
    """Integral over the plane of both traces: Fieller's interval ends, and lies on one side of a margin.

    Args:
        share: of the trace that is left.
        trace_before: its mean, in nats.
        covariance: of the estimates before and after, ``[2, 2]``.
        halves: half the intervals of the trace before, of the trace after less the margin, and of the trace after with
            the margin added, ``[node]`` each: how far from zero each of the three has to be.
        weights: of the nodes.
        m: the margin, as a share.
    """
    half, half_upper, half_lower = (part[:, None] for part in halves)
    deviation = np.sqrt(covariance[0, 0])
    surely_known = special.ndtr((trace_before - half) / deviation)  # [node, 1]
    place, weight = _unit_nodes()
    before = trace_before - deviation * special.ndtri(surely_known * place)
    slope = covariance[0, 1] / covariance[0, 0]
    after = share * trace_before + slope * (before - trace_before)
    rest = np.sqrt(covariance[1, 1] - slope * covariance[0, 1])

    def over(chance: np.ndarray) -> float:
        return float(weights @ ((chance * surely_known) @ weight))

    upper, lower = m * before, -m * before
    masked = over(special.ndtr((after - upper - half_upper) / rest))
    suppressed = over(special.ndtr((lower - half_lower - after) / rest))
    under, beyond = special.ndtr((upper - half_upper - after) / rest), special.ndtr((lower + half_lower - after) / rest)
    erased = over(np.maximum(under - beyond, 0.0))
    right = masked if share > m else suppressed if share < -m else erased
    return Decided(masked, erased, suppressed, right, masked + erased + suppressed - right)


def _unit_nodes() -> tuple[np.ndarray, np.ndarray]:
    """Gauss and Legendre's nodes and weights on the interval from 0 to 1."""
    place, weight = np.polynomial.legendre.leggauss(_NODES)
    return (place + 1) / 2, weight / 2


def _chi_nodes(freedom: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes of a chi distribution and their probabilities; without freedom it is zero."""
    place, weight = _unit_nodes()
    return (np.sqrt(stats.chi2.ppf(place, freedom)) if freedom else np.zeros_like(place)), weight


def _wishart_nodes(covariance: np.ndarray, freedom: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of squares ``[node, 2, 2]`` of a sample of normal pairs, and their probabilities (Bartlett 1933)."""
    (first, p_first), (second, p_second) = _chi_nodes(freedom), _chi_nodes(freedom - 1)
    place, weight = _unit_nodes()
    axes = np.meshgrid(first, special.ndtri(place), second, indexing="ij")
    one, between, two = (axis.ravel() for axis in axes)
    root = np.zeros((len(one), 2, 2))
    root[:, 0, 0], root[:, 1, 0], root[:, 1, 1] = one, between, two
    root = np.linalg.cholesky(covariance) @ root
    return root @ root.transpose(0, 2, 1), np.einsum("i,j,k->ijk", p_first, weight, p_second).ravel()


def _require_finite(share: float) -> None:
    if not np.isfinite(share):
        raise ReadingError(f"A share of {share} of a trace cannot be left. Give a number, such as 0 for none of it.")
