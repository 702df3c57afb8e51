"""The readings of a reacquisition study joined into its results.

Labelled arrays in, labelled arrays out; no model and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from mechmask.measure.association import association
from mechmask.measure.erase import erase_index
from mechmask.measure.held_half import excess, gain_of_held_half
from mechmask.measure.increment import increment
from mechmask.measure.reacquisition import curves_of_arms, hazard_ratios, steps_to_recall, steps_to_share
from mechmask.measure.sampling import best_of_k
from mechmask.measure.statistics import over_facts

EARLIER, LATER = "old_masked", "novel"  # the arms whose difference is the increment
ROLES = ("contradicted", "never")  # what is taught by one step each


def recall_table(
    course: xr.Dataset,
    facts: xr.Dataset,
    tokens_shown: xr.DataArray,
    *,
    taught_phrasings: int,
    share: float,
    level: float,
) -> xr.Dataset:
    """When each arm recalls its facts, how many are left at each step, and what it was shown.

    Args:
        course: ``course_of_arms``.
        facts: ``comparable_facts``; a contradicted fact that cannot be compared is left out of every arm.
        tokens_shown: tokens of the taught value that one step shows ``[arm, fact]``, NaN where it is not taught.
        taught_phrasings: how many phrasings of a fact any training shows; the others are held out.
        share: of its facts that an arm has to recall.
        level: of the intervals.

    Returns:
        ``steps``, ``reached`` and ``n_lapses`` ``[arm, fact]`` of ``steps_to_recall`` and ``steps_to_share[arm]``, of
        the prompt, in steps; ``survival`` with ``survival_low`` and ``survival_high`` ``[arm, step]``, the share of
        facts not yet recalled (Kaplan and Meier 1958); ``median_steps`` and ``hazard_ratio``, that of the arm
        ``old_masked`` over each arm, with their intervals, and the counts ``n`` and ``n_censored`` ``[arm]``;
        ``share_held_out[arm, step]``, recalled facts and phrasings among those that no training shows;
        ``tokens_to_recall[arm, fact]``, tokens of the taught value shown until then, and ``tokens_shown[arm]``, until
        the end; ``known`` and ``took`` of every contradicted fact, by ``contradicted``.
    """
    left_out = facts.fact.values[~facts.compared.values]
    recalled = course.recalled.where(~course.fact.isin(left_out))
    prompt = recalled.sel(phrasing=0, drop=True)
    table = steps_to_recall(prompt)
    held_out = recalled.sel(phrasing=recalled.phrasing >= taught_phrasings)
    by_fact = facts[["known", "took"]].rename(fact="contradicted")
    return table.assign(
        {
            **curves_of_arms(table, course.step, level).data_vars,
            **hazard_ratios(table, EARLIER, level).data_vars,
            "steps_to_share": steps_to_share(prompt, share),
            "share_held_out": held_out.mean(["fact", "phrasing"]),
            "value": course["value"],
            "tokens_to_recall": tokens_shown * table.steps,
            "tokens_shown": tokens_shown.sum("fact") * table.attrs["budget_steps"],
            **by_fact.data_vars,
        }
    ).assign_attrs(share=share, level=level, n_left_out=len(left_out))


def increment_table(recall: xr.Dataset, level: float) -> xr.Dataset:
    """The increment of a masked old value over a value that the same model never met, paired by fact."""
    arms = [recall[["steps", "reached"]].sel(arm=arm, drop=True) for arm in (EARLIER, LATER)]
    taught = [arm.isel(fact=np.flatnonzero(arm.steps.notnull().values)) for arm in arms]
    return increment(taught[0], taught[1], level).assign_attrs(earlier=EARLIER, later=LATER)


def held_half_table(
    readings: Mapping[str, xr.Dataset], facts: Sequence[str], *, taught_phrasings: int, level: float
) -> xr.Dataset:
    """What came back of the half of the old values that nobody taught again.

    Args:
        readings: of the contradicted facts: ``masked``, then ``half/old`` and ``half/never``, which were trained from
            it; where there is a twin, ``twin`` and ``half/twin``, which was trained from that.
        facts: the half that was only read, those of it that can be compared.
        taught_phrasings: how many phrasings of a fact any training shows.
        level: of the intervals.

    Returns:
        ``gain[arm, quantity, asked, fact]`` and what ``excess`` returns, references ``never`` and ``twin``.
    """
    begun = {"half/old": "masked", "half/never": "masked", "half/twin": "twin"}
    read = {name: reading.sel(fact=list(facts)) for name, reading in readings.items()}
    gains = {
        end.removeprefix("half/"): gain_of_held_half(read[begun[end]], read[end], taught_phrasings)
        for end in begun
        if end in read
    }
    references = {name: gain for name, gain in gains.items() if name != "old"}
    every = xr.concat(list(gains.values()), xr.DataArray(list(gains), dims="arm", name="arm"))
    return excess(gains["old"], references, level).assign(gain=every)


def one_step_table(
    before: xr.Dataset, masked: xr.Dataset, after: xr.Dataset, facts: xr.Dataset, *, taught_phrasings: int, level: float
) -> xr.Dataset:
    """What one optimizer step on a fact's own old value brings back, against its erase index.

    Both are differences from the same ``logp(old)`` of the masked model, so that whatever moves that one reading makes
    them go together. ``held_out`` is free of this: there the index is of the prompt, and what comes back is read under
    phrasings that no training shows.

    Args:
        before: output reading of all facts before the contradiction, over phrasings.
        masked: the same after it.
        after: the same of each contradicted and never-known fact after its own step.
        facts: ``comparable_facts``; a contradicted fact that cannot be compared is left out.
        taught_phrasings: how many phrasings of a fact any training shows.
        level: of the intervals.

    Returns:
        ``recovery[asked, fact]``, logp(old) after the step less before it; ``index[fact]``, the erase index, NaN for
        never-known facts, both in nats; ``association`` of the two, ``[asked, correlation]``; ``mean_estimate``,
        ``mean_low``, ``mean_high`` and ``mean_n`` of the recovery, ``[group, asked]``, groups by role.
    """
    left_out = facts.fact.values[~facts.compared.values]
    after = after.isel(fact=np.flatnonzero(~np.isin(after.fact.values, left_out)))
    start = masked.sel(fact=after.fact.values)
    gained = (after.logprob - start.logprob).sel(route="old", drop=True).reset_coords(drop=True)
    held_out = gained.sel(phrasing=gained.phrasing >= taught_phrasings).mean("phrasing")
    asked = xr.DataArray(["prompt", "held_out"], dims="asked", name="asked")
    recovery: xr.DataArray = xr.concat([gained.sel(phrasing=0, drop=True), held_out], asked)  # pyright: ignore[reportAssignmentType]
    index = erase_index(before, masked, level=level)["index"].reset_coords(drop=True)
    together = association(index, recovery, level)
    result = xr.Dataset({"recovery": recovery, "index": index.reindex(fact=after.fact.values)})
    result = result.assign_coords(role=("fact", after.role.values))
    means = [over_facts(recovery.isel(fact=np.flatnonzero(result.role.values == role)), level) for role in ROLES]
    by_role = xr.concat(means, xr.DataArray(list(ROLES), dims="group", name="group"), combine_attrs="override")
    by_role = by_role.rename({name: f"mean_{name}" for name in ("estimate", "low", "high", "n")})
    return result.assign(together.data_vars).assign(by_role.data_vars).assign_attrs(level=level)


def samples_table(masked: xr.Dataset, facts: xr.Dataset, k: Sequence[int], level: float) -> xr.Dataset:
    """How often samples of the masked model say an old value, beside never-known facts.

    Args:
        masked: output reading of all facts after the contradiction, over phrasings, by the score ``sequence``.
        facts: ``comparable_facts``; a contradicted fact that cannot be compared is left out.
        k: numbers of samples.
        level: of the intervals.

    Returns:
        ``best_of_k[fact, k]``, the probability that one of k samples after the prompt begins with old; ``mean`` with
        ``mean_low`` and ``mean_high``, and the count ``n``, ``[group, k]``, groups by role.
    """
    left_out = facts.fact.values[~facts.compared.values]
    roles = np.where(masked.fact.isin(left_out).values, "", masked.role.values)
    drawn = best_of_k(masked.sel(phrasing=0, drop=True), k).reset_coords(drop=True)
    means = [over_facts(drawn.isel(fact=np.flatnonzero(roles == role)), level) for role in ROLES]
    by_role = xr.concat(means, xr.DataArray(list(ROLES), dims="group", name="group"), combine_attrs="override")
    named = {"estimate": "mean", "low": "mean_low", "high": "mean_high"}
    kept = drawn.isel(fact=np.flatnonzero(np.isin(roles, ROLES)))
    return by_role.rename(named).assign(best_of_k=kept).assign_attrs(level=level)


def arms_overview(recall: xr.Dataset) -> pd.DataFrame:
    """One row for each arm: facts and censored ones, steps to the share, median, hazard ratio, tokens shown."""
    medians = ["median_steps", "median_low", "median_high"]
    ratios = ["hazard_ratio", "hazard_ratio_low", "hazard_ratio_high"]
    columns = ["n", "n_censored", "steps_to_share", *medians, *ratios, "tokens_shown"]
    return recall[columns].to_dataframe()[columns]


def held_half_overview(half: xr.Dataset) -> pd.DataFrame:
    """One row for each reference, quantity and way to ask: mean excess with its interval, and n facts."""
    columns = ["estimate", "low", "high", "n"]
    return half[columns].to_dataframe(dim_order=["reference", "quantity", "asked"])[columns]


def samples_overview(samples: xr.Dataset) -> pd.DataFrame:
    """One row for each role and number of samples: the mean probability that one of them says old, and n facts."""
    columns = ["mean", "mean_low", "mean_high", "n"]
    return samples[columns].to_dataframe(dim_order=["group", "k"])[columns]
