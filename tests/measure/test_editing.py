"""Editing scores from their formulas, by hand and by scipy, on made-up readings."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.editing import edit_flip_ratio, editing_difference, editing_scores
from mechmask.measure.harmonic_score import harmonic_mean_of_shares
from mechmask.measure.record_difference import share_difference_over_records

GROUPS = ["rewrite", "paraphrase", "paraphrase", "neighborhood", "neighborhood", "neighborhood"]


def reading(nll, groups=GROUPS, **changes):
    """A reading with every value of two tokens, of which the first is right and the second where x is below 1."""
    nll = np.asarray(nll, dtype=float)
    n = len(nll)
    read = np.isfinite(nll)
    exact = np.where(read, nll < 1, np.nan)
    top = np.where(read[..., None], np.stack([np.full(nll.shape, 7), np.where(nll < 1, 8, 9)], axis=-1), -1)
    dims = ("fact", "prompt", "route")
    texts = np.char.add("x", np.arange(nll.size).reshape(nll.shape).astype(str))
    return xr.Dataset(
        {
            "nll": (dims, nll),
            "token_accuracy": (dims, (1 + exact) / 2),
            "exact": (dims, exact),
            "top_token": ((*dims, "value_token"), top),
        },
        {
            "fact": [f"f{i}" for i in range(n)],
            "route": ["old", "new"],
            "prompt": np.arange(len(groups)),
            "group": ("prompt", groups),
            "text": (("fact", "prompt"), texts[..., 0]),
            "value": (dims, texts),
            "token": (dims, texts),
            "n_tokens": (dims, np.where(read, 2, 0)),
            **changes,
        },
    )


def random_reading(n=30, seed=0, groups=GROUPS):
    return reading(np.random.default_rng(seed).exponential(1.5, (n, len(groups), 2)), groups)


def at(scores, metric):
    one = scores.sel(metric=metric)
    return float(one.estimate), float(one.low), float(one.high), int(one.n)


def test_the_scores_of_one_record_by_hand():
    one = [[2, 1], [2, 1], [1, 2], [1, 3], [3, 1], [1, 1]]
    scores = editing_scores(reading([one, one]))
    e = np.exp
    expected = {
        "efficacy_score": 1,
        "paraphrase_score": 1 / 2,
        "neighborhood_score": 1 / 3,  # the tie is no success
        "harmonic_score": 3 / (1 + 2 + 3),
        "efficacy_magnitude": e(-1) - e(-2),
        "paraphrase_magnitude": 0,
        "neighborhood_magnitude": (e(-3.0) * -1 + e(-1.0) + e(-3.0) - e(-1.0)) / 3,
    }
    assert {name: at(scores, name)[0] for name in expected} == pytest.approx(expected)
    assert set(scores.n.values.tolist()) == {2}
    assert scores.abbreviation.sel(metric="neighborhood_magnitude") == "NM"


def test_a_tie_is_no_success_on_either_side():
    scores = editing_scores(reading(np.ones((4, 6, 2))))
    for name in ("efficacy_score", "paraphrase_score", "neighborhood_score", "harmonic_score"):
        assert at(scores, name)[0] == 0


def test_accuracies_of_all_tokens_and_of_each():
    data = random_reading()
    scores = editing_scores(data)
    new, old = data.nll.sel(route="new").values, data.nll.sel(route="old").values
    for names, right in (
        (("efficacy_exact", "reliability"), new[:, :1] < 1),
        (("paraphrase_exact", "generalization"), new[:, 1:3] < 1),
        (("neighborhood_exact", "specificity"), old[:, 3:] < 1),
    ):
        share = right.mean(1).mean()
        assert [at(scores, name)[0] for name in names] == pytest.approx([share, (1 + share) / 2])


def test_intervals_are_those_of_scipy():
    data = random_reading()
    scores = editing_scores(data, level=0.9)
    old, new = np.exp(-data.nll.values[..., 0]), np.exp(-data.nll.values[..., 1])
    means = (old - new)[:, 3:].mean(1)
    expected = stats.t.interval(0.9, len(means) - 1, means.mean(), stats.sem(means))
    assert at(scores, "neighborhood_magnitude") == pytest.approx((means.mean(), *expected, 30))
    won = int((new > old)[:, 0].sum())
    exact = stats.binomtest(won, 30).proportion_ci(0.9, method="exact")
    assert at(scores, "efficacy_score") == pytest.approx((won / 30, exact.low, exact.high, 30))


def test_s_is_the_harmonic_mean_of_the_three_scores():
    data = random_reading(40)
    x = data.nll.values
    new_leads, old_leads = x[..., 1] < x[..., 0], x[..., 0] < x[..., 1]
    parts = [new_leads[:, :1], new_leads[:, 1:3], old_leads[:, 3:]]
    shares = [xr.DataArray(part.astype(float), dims=("fact", "prompt")) for part in parts]
    found = at(editing_scores(data), "harmonic_score")
    assert found == harmonic_mean_of_shares(shares)
    assert found[0] == pytest.approx(stats.hmean([part.mean() for part in parts])) and found[3] == 40


def test_where_all_succeed_every_interval_keeps_its_exact_bound():
    perfect = [[2, 0.5]] * 3 + [[0.5, 2]] * 3
    scores = editing_scores(reading([perfect] * 20))
    bound = stats.binomtest(20, 20).proportion_ci(0.95).low
    for name in (
        "efficacy_score",
        "paraphrase_score",
        "neighborhood_score",
        "harmonic_score",
        "efficacy_exact",
        "reliability",
    ):
        assert at(scores, name) == pytest.approx((1, bound, 1, 20))


def test_locality_is_the_share_of_tokens_that_stay():
    before, after = random_reading(10, seed=1), random_reading(10, seed=2)
    scores = editing_scores(after, before)
    same = (before.nll.values[:, 3:, 0] < 1) == (after.nll.values[:, 3:, 0] < 1)
    assert at(scores, "locality")[0] == pytest.approx(((1 + same) / 2).mean())
    assert at(editing_scores(after, after), "locality")[0] == 1
    assert "locality" not in editing_scores(after).metric


def test_differences_are_of_pairs_of_records():
    about = {"role": ("fact", ["contradicted"] * 30)}
    first, second = (
        random_reading(seed=n).assign_coords({**about, "state": name}) for n, name in ((1, "ft_l"), (2, "rome"))
    )
    found = editing_difference(first, second, 0.9)
    scores = [editing_scores(one) for one in (first, second)]
    assert set(found.metric.values) == set(scores[0].metric.values) - {"harmonic_score"}
    for name in found.metric.values:
        assert at(found, name)[0] == pytest.approx(at(scores[1], name)[0] - at(scores[0], name)[0])
    probabilities = [np.exp(-one.nll.values[:, 0]) for one in (first, second)]
    leads = [of[:, 1] - of[:, 0] for of in probabilities]
    expected = stats.ttest_rel(leads[1], leads[0]).confidence_interval(0.9)
    assert at(found, "efficacy_magnitude") == pytest.approx((np.mean(leads[1] - leads[0]), *expected, 30))
    keeps = [
        xr.DataArray((x[:, 3:, 0] < x[:, 3:, 1]).astype(float), dims=("fact", "prompt"))
        for x in (first.nll.values, second.nll.values)
    ]
    assert at(found, "neighborhood_score") == share_difference_over_records(*keeps, 0.9)
    assert found.abbreviation.sel(metric="neighborhood_score") == "NS"
    assert (found.attrs["level"], found.attrs["unit"], found.attrs["n_edited_neighbors"]) == (0.9, "facts", 0)


def test_a_difference_from_itself_is_nothing_and_turns_with_the_order():
    first, second = random_reading(seed=1), random_reading(seed=2)
    same, there, back = (editing_difference(*of) for of in ((first, first), (first, second), (second, first)))
    assert not same.estimate.any() and (same.low <= 0).all() and (same.high >= 0).all()
    assert same.high.sel(metric="efficacy_score") > 0  # nothing changed in 30 records, which is no proof
    np.testing.assert_allclose(there.low, -back.high)


@pytest.mark.parametrize("name", ["seed", "role"])
def test_a_difference_of_other_draws_or_roles_is_refused(name):
    of = {"seed": ([0, 0, 1, 1], [0, 1, 0, 1]), "role": (["contradicted"] * 4, ["contradicted"] * 3 + ["control"])}
    one, other = (random_reading(4).assign_coords({name: ("fact", labels)}) for labels in of[name])
    assert editing_difference(one, one).attrs["unit"] == ("draws" if name == "seed" else "facts")
    for first, second in ((one, other), (other, one), (one, random_reading(4)), (random_reading(4), one)):
        with pytest.raises(ReadingError, match=f"differ in {name}"):
            editing_difference(first, second)


def test_ids_that_can_be_read_once_are_read_once():
    first, second = random_reading(4), random_reading(4, 1)
    once = editing_difference(first, second, edited=iter(["f1"]))
    xr.testing.assert_identical(once, editing_difference(first, second, edited="f1"))


def test_a_difference_leaves_out_the_neighbors_that_were_edited_and_controls():
    texts = random_reading(4).text.values.copy()
    texts[0, 3] = texts[1, 0]  # a neighbor of the first fact is the prompt of the second
    about = {"text": (("fact", "prompt"), texts), "role": ("fact", ["contradicted"] * 3 + ["control"])}
    first, second = (random_reading(4, seed).assign_coords(about) for seed in (1, 2))
    found = editing_difference(first, second)
    assert found.attrs["n_edited_neighbors"] == 1 and at(found, "neighborhood_score")[3] == 3
    keeps = [(x[:3, 3:, 0] < x[:3, 3:, 1]).astype(float) for x in (first.nll.values, second.nll.values)]
    change = keeps[1] - keeps[0]
    expected = np.mean([change[0, 1:].mean(), change[1].mean(), change[2].mean()])
    assert at(found, "neighborhood_score")[0] == pytest.approx(expected)
    assert editing_difference(first, second, edited=()).attrs["n_edited_neighbors"] == 0


def test_a_difference_of_other_facts_is_refused():
    with pytest.raises(ReadingError, match="fact"):
        editing_difference(random_reading(4), random_reading(5))
    with pytest.raises(ReadingError, match="level"):
        editing_difference(random_reading(4), random_reading(4), 1.5)


def test_what_follows_from_an_edit_is_counted_by_kind():
    groups = [*GROUPS, "reasoning", "aliasing", "reverse"]
    data = random_reading(12, groups=groups)
    data = data.where(~(data.group.isin(groups[6:]) & (data.route == "old")) | (data.nll.isnull()))
    data["top_token"] = data.top_token.fillna(-1).astype(int)
    scores = editing_scores(data)
    right = data.nll.sel(route="new").values < 1
    assert at(scores, "portability_exact")[0] == pytest.approx(right[:, 6:8].mean())
    assert at(scores, "reasoning_exact")[0] == pytest.approx(right[:, 6].mean())
    assert at(scores, "reverse")[0] == pytest.approx((1 + right[:, 8].mean()) / 2)
    assert at(scores, "reverse_exact")[3] == 12
    one_kind = random_reading(12, groups=[*GROUPS, "portability"])
    only = editing_scores(one_kind)
    assert at(only, "portability_exact")[0] == pytest.approx((one_kind.nll.values[:, 6, 1] < 1).mean())
    assert only.metric.size == editing_scores(random_reading(12)).metric.size + 2
    with pytest.raises(ReadingError, match="'locality'"):
        editing_scores(*[random_reading(12, groups=[*GROUPS, "locality"])] * 2)


def test_facts_without_paraphrases_or_neighbors_have_no_such_score():
    scores = editing_scores(reading(np.random.default_rng(0).exponential(1, (5, 1, 2)), ["rewrite"]))
    assert at(scores, "efficacy_score")[3] == 5
    for name in ("paraphrase_score", "neighborhood_magnitude", "specificity", "harmonic_score"):
        estimate, low, high, n = at(scores, name)
        assert n == 0 and np.isnan([estimate, low, high]).all()


def test_a_record_counts_once_however_many_prompts_it_has():
    nll = np.full((2, 6, 2), np.nan)
    nll[:, :2] = [[2, 1], [2, 1]]
    nll[0, 2] = [1, 2]
    nll[:, 3] = [1, 2]
    assert at(editing_scores(reading(nll)), "paraphrase_score")[0] == pytest.approx((1 / 2 + 1) / 2)


def test_facts_of_several_draws_have_an_interval_over_draws():
    data = random_reading(24).assign_coords(seed=("fact", np.repeat(np.arange(6), 4)))
    scores = editing_scores(data)
    values = np.exp(-data.nll.values[:, 0])
    draws = (values[:, 1] - values[:, 0]).reshape(6, 4).mean(1)
    expected = stats.t.interval(0.95, 5, draws.mean(), stats.sem(draws))
    assert at(scores, "efficacy_magnitude") == pytest.approx((draws.mean(), *expected, 24))
    assert scores.attrs["unit"] == "draws" and scores.n.values.max() == 24
    alone = editing_scores(data.drop_vars("seed"))
    assert at(scores, "harmonic_score")[0] == pytest.approx(at(alone, "harmonic_score")[0])
    assert at(scores, "harmonic_score")[1:3] != pytest.approx(at(alone, "harmonic_score")[1:3])


def test_records_of_unequal_draws_have_equal_weight_in_every_score():
    seed = np.repeat(np.arange(4), [12, 3, 3, 6])
    data = random_reading(24)
    drawn, alone = editing_scores(data.assign_coords(seed=("fact", seed))), editing_scores(data)
    np.testing.assert_allclose(drawn.estimate, alone.estimate)


@pytest.mark.parametrize("right", ["success", "exact"])
def test_the_edit_flip_ratio(right):
    before, after = random_reading(50, seed=3), random_reading(50, seed=4)

    def holds(data):
        old, new = data.nll.values[:, 0].T
        return new < old if right == "success" else new < 1

    n, flipped = int(holds(before).sum()), int((holds(before) & ~holds(after)).sum())
    exact = stats.binomtest(flipped, n).proportion_ci(0.95, method="exact")
    found = edit_flip_ratio(before, after, right=right)
    assert found == pytest.approx((flipped / n, exact.low, exact.high, n))
    assert 0 < found.estimate < 1
    same = edit_flip_ratio(before, before, right=right)
    assert same[:2] == (0, 0) and same.high == pytest.approx(stats.binomtest(0, n).proportion_ci(0.95).high)


def test_no_edit_that_was_right_has_no_flip_ratio():
    wrong = reading(np.tile([1.0, 2.0], (4, 6, 1)))
    found = edit_flip_ratio(wrong, wrong)
    assert found.n == 0 and np.isnan(found[:3]).all()


def test_readings_that_do_not_belong_together_are_refused():
    first = random_reading(5)
    others = first.assign_coords(fact=[f"g{i}" for i in range(5)])
    with pytest.raises(ReadingError, match="not of the same facts"):
        editing_scores(first, others)
    with pytest.raises(ReadingError, match="not of the same facts"):
        edit_flip_ratio(first, others)
    with pytest.raises(ReadingError, match="differ in token"):
        edit_flip_ratio(first, first.assign_coords(token=first.token.str.upper()))
    with pytest.raises(ReadingError, match="differ in text"):
        editing_scores(first, first.assign_coords(text=first.text.str.upper()))


def with_texts(data, places):
    """The reading with other prompts at some places ``(fact, column)``."""
    texts = data.text.values.astype(object)
    for place, text in places.items():
        texts[place] = text
    return data.assign_coords(text=(("fact", "prompt"), texts.astype(str)))


NEIGHBORHOOD = ("neighborhood_score", "neighborhood_magnitude", "neighborhood_exact", "specificity", "locality")


def test_a_neighbor_that_is_edited_itself_is_supposed_to_change():
    """Two of fact 0's neighbors are phrasings of facts 1 and 2, one of fact 1's is a phrasing of its own."""
    nll = np.random.default_rng(0).exponential(1.5, (8, 6, 2))
    nll[0, 3:] = [[0.5, 3.0]] * 3
    before = reading(nll)
    nll[0, [3, 5]] = [3.0, 0.5]
    data, text = reading(nll), before.text.values
    places = {(0, 3): text[1, 0], (0, 5): text[2, 2], (1, 3): text[1, 1]}
    data, before = with_texts(data, places), with_texts(before, places)
    left = data.copy(deep=True)
    for column in (3, 5):
        for name in ("nll", "token_accuracy", "exact"):
            left[name][0, column] = np.nan
        left["top_token"][0, column] = -1
        left["n_tokens"][0, column] = 0
    found, expected = editing_scores(data, before), editing_scores(left, before, edited=())
    xr.testing.assert_equal(found, expected)
    assert (found.attrs["n_edited_neighbors"], expected.attrs["n_edited_neighbors"]) == (2, 0)
    alone = editing_scores(data, before, edited=())
    for name in (*NEIGHBORHOOD, "harmonic_score"):
        assert at(found, name)[0] > at(alone, name)[0]
    for name in ("efficacy_score", "paraphrase_magnitude", "generalization"):
        assert at(found, name) == at(alone, name)
    one = editing_scores(data, before, edited=["f0", "f2"])
    assert one.attrs["n_edited_neighbors"] == 1 and at(one, "locality") != at(found, "locality")


def test_a_fact_all_of_whose_neighbors_are_edited_has_no_neighborhood():
    data = random_reading(3)
    text = data.text.values
    data = with_texts(data, {(0, column): text[1, 0] for column in (3, 4, 5)})
    scores = editing_scores(data)
    assert {at(scores, name)[3] for name in NEIGHBORHOOD[:-1]} == {2} and at(scores, "efficacy_score")[3] == 3
    x = data.nll.values[1:, 3:]
    assert at(scores, "neighborhood_score")[0] == pytest.approx((x[..., 0] < x[..., 1]).mean())


def test_facts_of_another_draw_are_not_edited_in_the_same_state():
    data = random_reading(6)
    text = data.text.values
    data = with_texts(data, {(0, 3): text[1, 0], (0, 4): text[5, 0]})
    assert editing_scores(data).attrs["n_edited_neighbors"] == 2
    assert editing_scores(data.assign_coords(seed=("fact", [0] * 3 + [1] * 3))).attrs["n_edited_neighbors"] == 1


def test_prompts_that_are_missing_are_no_phrasing_of_each_other():
    data = with_texts(random_reading(4), {(fact, column): "" for fact in range(4) for column in (2, 5)})
    assert editing_scores(data).attrs["n_edited_neighbors"] == 0


def test_only_contradicted_facts_count():
    roles = ["contradicted"] * 6 + ["control"] * 3 + ["never"] * 3
    data, before = (random_reading(12, seed).assign_coords(role=("fact", roles)) for seed in (0, 1))
    found, expected = editing_scores(data, before), editing_scores(*(one.isel(fact=range(6)) for one in (data, before)))
    xr.testing.assert_identical(found, expected)
    assert at(found, "locality")[3] == 6
    assert edit_flip_ratio(before, data) == edit_flip_ratio(*(one.isel(fact=range(6)) for one in (before, data)))
    neighbor = with_texts(data, {(0, 3): data.text.values[7, 0]})  # a control is not edited
    assert editing_scores(neighbor).attrs["n_edited_neighbors"] == 0
    for score in (editing_scores, lambda one: edit_flip_ratio(one, one)):
        with pytest.raises(ReadingError, match="here are none, only control, never"):
            score(data.isel(fact=range(6, 12)))


DAMAGED = {
    "routes old and new": lambda data: data.sel(route=["new"]),
    "needs top_token": lambda data: data.drop_vars("top_token"),
    "needs text": lambda data: data.drop_vars("text"),
    "needs token_accuracy over fact, prompt, route": lambda data: data.assign(token_accuracy=data.exact.mean("route")),
    "needs nll over": lambda data: xr.concat([data, data], "state"),
    "needs numbers in nll": lambda data: data.assign(nll=data.nll.astype(str)),
    "some here are below 0": lambda data: data.assign(nll=-data.nll),
    "named apart, not 5 with 4": lambda data: data.assign_coords(fact=["a", "a", "b", "c", "d"]),
    "named apart, not 0": lambda data: data.isel(fact=[]),
    "values between 0 and 1": lambda data: data.assign(exact=data.exact * 2),
    "was edited, and the reading has no": lambda data: {"reading": data, "edited": ["f0", "f9"]},
}


@pytest.mark.parametrize("said", DAMAGED)
def test_a_damaged_reading_is_refused_in_a_sentence(said):
    made = DAMAGED[said](random_reading(5))
    with pytest.raises(ReadingError, match=said):
        editing_scores(**made) if isinstance(made, dict) else editing_scores(made)


def test_a_reading_without_the_edited_prompt_has_no_flip_ratio():
    data = random_reading(5).isel(prompt=[1, 2, 3])
    with pytest.raises(ReadingError, match="the group rewrite"):
        edit_flip_ratio(data, data)
    assert at(editing_scores(data), "efficacy_score")[3] == 0
    assert at(editing_scores(data.isel(prompt=[])), "paraphrase_score")[3] == 0


def test_what_is_no_editing_reading_is_refused():
    data = random_reading(5)
    with pytest.raises(ReadingError, match="needs nll"):
        editing_scores(data.drop_vars("nll"))
    with pytest.raises(ReadingError, match="takes a reading"):
        editing_scores(3)
    with pytest.raises(ReadingError, match="no level 95"):
        editing_scores(data, level=95)
    with pytest.raises(ReadingError, match=r"right='exakt' is not known. Did you mean 'exact'"):
        edit_flip_ratio(data, data, right="exakt")
