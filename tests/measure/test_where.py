"""Where it was written, on arrays made by hand and against brute force."""

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mechmask.errors import ReadingError
from mechmask.measure.commit_interval import commit_interval
from mechmask.measure.where import (
    evidence_share,
    evidence_share_last_third,
    layers_computed,
    where_overview,
    where_written,
)

_SMALL = settings(max_examples=100, deadline=None, database=None, derandomize=True)
NAN = math.nan


def names(n):
    return [f"f{i}" for i in range(n)]


def depth(margin, **attrs):
    """A reading of old and new with this margin ``[fact, layer]``."""
    margin = np.asarray(margin, dtype=float)
    logprob = np.stack([np.full_like(margin, -3.0), margin - 3.0], axis=1)
    return xr.Dataset(
        {"logprob": (("fact", "route", "layer"), logprob), "margin": (("fact", "layer"), margin)},
        {
            "fact": names(len(margin)),
            "route": ["old", "new"],
            "layer": np.arange(margin.shape[1]),
            "role": ("fact", ["contradicted"] * len(margin)),
        },
        attrs=attrs,
    )


def margins(values, facts=None):
    return depth(values)[["margin"]].assign_coords(fact=facts or names(len(values)))


def test_one_rule_for_all_three():
    """A distractor that leads new for longest in every reading: new beats old alone from layer 2 on, all from 4."""
    margin = [[-1, -1, 1, 1, 1, 1]]
    third = xr.DataArray([[-3, -3, 0, 0, -4, -4]], dims=("fact", "layer")).expand_dims(route=["distractor_0"], axis=1)
    read = depth(margin)
    with_third = xr.Dataset({"logprob": xr.concat([read.logprob, third], "route"), "margin": read.margin})
    graft = with_third.isel(layer=slice(None, None, -1)).assign_coords(layer=range(6))
    found = where_written(with_third, with_third, graft)
    assert (
        found.lens.item() == found.patched.item() == 4 and found.grafted.item() == 1 and found.attrs["rivals"] == "all"
    )
    found = where_written(with_third, with_third[["margin"]], graft)
    assert (
        found.lens.item() == found.patched.item() == 2 and found.grafted.item() == 3 and found.attrs["rivals"] == "old"
    )


def test_three_answers_side_by_side():
    after = depth([[-1, -1, -1, -1, 1, 1], [-1, 1, 1, -1, 1, 1], [1, 1, 1, 1, 1, -1], [1, 1, 1, 1, 1, 1]])
    patched = margins([[-1, -1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [-1, -1, -1, -1, 1, 1], [-1, -1, -1, 1, 1, -1]])
    grafted = margins([[1, 1, 1, -1, 1, 1], [1, 1, 1, 1, 1, 1], [-1, 1, 1, 1, 1, 1], [1, -1, -1, -1, -1, -1]])
    found = where_written(after, patched, grafted)
    np.testing.assert_array_equal(found.lens, [4, 4, NAN, 0])
    np.testing.assert_array_equal(found.patched, [2, 0, 4, NAN])
    np.testing.assert_array_equal(found.grafted, [2, 5, NAN, 0])
    np.testing.assert_array_equal(found.spread, [2, 5, NAN, 0])
    np.testing.assert_array_equal(found.disagree, [0, 1, NAN, 0])
    np.testing.assert_array_equal(where_written(after, patched, grafted, tolerance_layers=1).disagree, [1, 1, NAN, 0])
    assert where_written(after, patched, grafted, tolerance_layers=2).disagree[0] == 0, (
        "as far as the tolerance is within"
    )
    assert set(found.to_dataframe().columns) >= {"lens", "patched", "grafted", "spread", "disagree", "role"}


def test_with_the_lens_alone_nothing_can_disagree():
    found = where_written(depth([[-1, 1, 1], [-1, -1, -1]]))
    np.testing.assert_array_equal(found.lens, [1, NAN])
    for name in ("patched", "grafted", "spread", "disagree"):
        assert np.isnan(found[name]).all()


def test_facts_are_aligned_by_name_and_may_be_fewer():
    after = depth([[-1, 1, 1], [-1, -1, 1], [1, 1, 1]])
    found = where_written(after, patched=margins([[-1, -1, 1], [1, 1, 1]], facts=["f2", "f0"]))
    np.testing.assert_array_equal(found.lens, [1, 2, 0])
    np.testing.assert_array_equal(found.patched, [0, NAN, 2])
    assert list(found.role.values) == ["contradicted"] * 3


@_SMALL
@given(hnp.arrays(float, (3, 7), elements=st.sampled_from([-1.0, 0.0, 1.0, NAN])))
def test_brute_force(values):
    def first(row):
        return next((float(i) for i in range(len(row)) if all(v > 0 for v in row[i:])), NAN)

    def last(row):
        return next((float(i) for i in reversed(range(len(row))) if all(v > 0 for v in row[: i + 1])), NAN)

    found = where_written(depth(np.ones((3, 7))), margins(values), margins(values))
    np.testing.assert_array_equal(found.patched, [first(row) for row in values])
    np.testing.assert_array_equal(found.grafted, [last(row) for row in values])


def test_readings_that_do_not_fit():
    after = depth([[-1, 1, 1]])
    for options, cause in (
        ({"patched": margins([[1, 1]])}, r"\(patched\) is of 1 layers and the depth reading of 2"),
        ({"grafted": margins([[1, 1, 1]], facts=["other"])}, r"\(grafted\) shares no fact"),
        ({"patched": margins([[1, 1, 1]]).isel(layer=[0, 2, 1])}, "needs every layer from 0 to L, in order"),
        ({"patched": margins([[1, 1, 1]]).expand_dims(step=[1])}, "not one per step"),
        ({"grafted": after.logprob}, "takes a reading"),
    ):
        with pytest.raises(ReadingError, match=cause):
            where_written(after, **options)
    with pytest.raises(ReadingError, match="this one has phrasing too"):
        where_written(after.expand_dims(phrasing=[0, 1]))
    with pytest.raises(ReadingError, match="needs every layer"):
        where_written(after.isel(layer=[1, 2]))


def _valued(reading, old):
    return reading.assign_coords(value=(("fact", "route"), [[old, "Rome"]] * reading.sizes["fact"]))


def test_answers_of_other_models_or_values_are_refused():
    after = depth([[-1, 1, 1], [-1, -1, 1]], model="m + lora")
    patched = after.assign_attrs(model="m").isel(fact=[1])
    assert where_written(_valued(after, "Paris"), _valued(patched, "Paris"), patched[["margin"]]).patched[1] == 2
    with pytest.raises(ReadingError, match=r"the depth reading and patched are of two models \(m \+ lora and n;"):
        where_written(after, patched.assign_attrs(model="n"))
    with pytest.raises(ReadingError, match=r"differ in value \(fact f1, route old: 'Paris' and 'Lyon'\)"):
        where_written(_valued(after, "Paris"), grafted=_valued(patched, "Lyon"))


def test_evidence_share_by_hand():
    before, after = depth([[0, 0, 1, 1], [0, 0, 0, 0], [2, 2, 2, 2]]), depth([[0, 0, 2, 5], [0, 4, 1, 2], [3, 3, 3, 2]])
    np.testing.assert_allclose(evidence_share(before, after, 2), [3 / 4, 1 / 2, NAN])
    np.testing.assert_allclose(evidence_share(before, after, 1), [1, -1, NAN])
    np.testing.assert_allclose(evidence_share(before, after, 3), [0, 0, NAN])
    np.testing.assert_allclose(evidence_share_last_third(before, after), [3 / 4, 1 / 2, NAN])


@pytest.mark.parametrize(("n_layers", "third"), [(36, 24), (30, 20), (28, 19), (12, 8), (4, 3), (3, 2), (2, 1)])
def test_the_last_third(n_layers, third):
    rng = np.random.default_rng(n_layers)
    before, after = (depth(rng.normal(size=(4, n_layers + 1))) for _ in range(2))
    xr.testing.assert_equal(evidence_share_last_third(before, after), evidence_share(before, after, third))


def test_what_evidence_is_written_above_and_below_adds_to_all_of_it():
    rng = np.random.default_rng(0)
    before, after = (depth(rng.normal(size=(20, 9))) for _ in range(2))
    change = (after.margin - before.margin).values
    for layer in range(9):
        added = np.diff(change, axis=1)[:, layer:].sum(1)
        np.testing.assert_allclose(evidence_share(before, after, layer), added / change[:, -1])


def test_evidence_shares_that_cannot_be_had():
    before = depth([[0, 0, 1]], lens="logit")
    with pytest.raises(ReadingError, match=r"There is no layer 3 in these readings\. Give one of 0 to 2"):
        evidence_share(before, before, 3)
    for other, cause in (
        (depth([[0, 0, 1]], lens="tuned"), r"differ in lens \(logit and tuned\)"),
        (depth([[0, 0, 1]], lens="logit", lens_hash="aa"), r"differ in lens_hash \(None and aa\)"),
        (depth([[0, 0, 1]], lens="logit", score="mean"), "differ in score"),
        (depth([[0, 0, 1], [0, 0, 1]], lens="logit"), "not of the same facts"),
    ):
        with pytest.raises(ReadingError, match=cause):
            evidence_share(before, other, 1)
    with pytest.raises(ReadingError, match=r"are of two models \(m and n \+ lora; they differ in model\)"):
        evidence_share(before.assign_attrs(model="m"), before.assign_attrs(model="n + lora"), 1)
    with pytest.raises(ReadingError, match="differ in value"):
        evidence_share(_valued(before, "Paris"), _valued(before, "Lyon"), 1)


def test_layers_computed():
    # the embedding is no block's; a tie is not a lead; a hole is not a number
    reading = depth([[-1, -1, -1, 1], [-1, 0, -1, -1], [1, 1, 1, 1], [-1, -1, NAN, -1]])
    found = layers_computed(reading)
    np.testing.assert_array_equal(found, [2, 2, 0, NAN])
    np.testing.assert_array_equal(layers_computed(reading, "new"), [1, 0, 3, NAN])
    assert found.attrs["n_layers"] == 3
    with_distractor = xr.concat(
        [reading, reading.sel(route=["new"]).assign_coords(route=["distractor_0"]) + 9], "route"
    )
    np.testing.assert_array_equal(layers_computed(with_distractor), found)
    with pytest.raises(ReadingError, match="has no rival"):
        layers_computed(with_distractor, "distractor_0")


def test_other_dimensions_are_kept():
    rng = np.random.default_rng(0)
    states = [(depth(rng.normal(size=(4, 6))), depth(rng.normal(size=(4, 6)))) for _ in range(3)]
    before, after = (xr.concat(part, "step") for part in zip(*states, strict=True))
    for step, (one, other) in enumerate(states):
        np.testing.assert_allclose(evidence_share(before, after, 2).isel(step=step), evidence_share(one, other, 2))
        np.testing.assert_array_equal(layers_computed(before).isel(step=step), layers_computed(one))


def test_the_overview_is_the_interval_of_each_answer():
    rng = np.random.default_rng(0)
    after = depth(rng.normal(size=(30, 9)).cumsum(1))
    where = where_written(after, patched=margins(rng.normal(size=(30, 9)).cumsum(1)))
    table = where_overview(where)
    assert list(table.index) == ["lens", "patched", "grafted"]
    assert tuple(table.loc["patched"]) == commit_interval(where.patched.values, "median")
    assert tuple(where_overview(where, 0.8, "mean").loc["lens"]) == commit_interval(where.lens.values, "mean", 0.8)
    assert table.loc["grafted", "n"] == 0
    assert (table.n + table.n_none == 30).all()
