"""Shares of what is still said, from readings made by hand."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mechmask.measure.retention import retention_rates
from mechmask.study.retention.tables import Batch, fates_of, retention_of


def reading(facts, roles, new, old, seed):
    """Which facts' new and old values are said; log-probabilities by chance."""
    routes = ["old", "new", "distractor_0", "distractor_1"]
    retained = np.zeros((len(facts), 4), dtype=bool)
    retained[:, 0], retained[:, 1] = old, new
    share = np.full((len(facts), 4), 0.25)
    logprob = np.random.default_rng(seed).normal(-5, 1, (len(facts), 4))
    logprob[:, 1] += 10 * np.array(new)
    said = np.where(new, "edited", np.where(old, "true", "other"))
    return xr.Dataset(
        {
            "retained": (("fact", "route"), retained),
            "share": (("fact", "category"), share),
            "said": ("fact", said),
            "logprob": (("fact", "route"), logprob),
        },
        {
            "fact": facts,
            "role": ("fact", roles),
            "route": routes,
            "category": ["true", "edited", "related", "other"],
        },
    )


def test_an_intrinsic_fact_that_an_edit_has_lost_already_is_not_lost_by_the_later_training():
    """``c`` is said in the first edited model alone, and lost in the second by its edit; ``d`` is lost there later."""
    roles = ["contradicted", "control", "control", "control"]
    first = Batch(
        ("a",),
        {
            0: reading(list("acde"), roles, [True, False, False, False], [False, True, True, True], 0),
            5: reading(list("acde"), roles, [False, False, False, False], [True, True, True, True], 1),
        },
    )
    second = Batch(
        ("b",),
        {
            0: reading(list("bcde"), roles, [True, False, False, False], [False, False, True, True], 2),
            5: reading(list("bcde"), roles, [True, False, False, False], [False, False, False, True], 3),
        },
    )
    bare = ["contradicted", *roles]
    twin = Batch((), {step: reading(list("abcde"), bare, [False] * 5, [True] * 5, 4 + step) for step in (0, 5)})
    batches = {("unedited", "text"): [twin], ("rome", "text"): [first, second]}
    retention = retention_of(batches)
    still = retention.still.sel(editor="rome", task="text")
    assert still.sel(fact=list("abcde")).values.tolist() == [0.0, 1.0, 1.0, 0.5, 1.0]
    fates = fates_of(batches, {"statistic": "geometric_standing", "margin_share": 0.25, "alpha": 0.05})
    rates = retention_rates(retention, fates).sel(editor="rome", task="text")
    assert rates.estimate.sel(quantity="edited") == 0.5
    np.testing.assert_allclose(rates.estimate.sel(quantity="intrinsic"), (1 + 0.5 + 1) / 3)
    assert rates.n_intrinsic == 3 and rates.said.sel(fate="true") == 0.5
