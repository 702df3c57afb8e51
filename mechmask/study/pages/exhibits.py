"""What a study of each protocol has to show: figures and tables, which results they take, and what they say.

A further figure or table of a protocol is one ``Exhibit`` here; one that is not among them would stay out of the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from mechmask import draw
from mechmask.draw.style import SERIES
from mechmask.measure.association import association_overview
from mechmask.measure.dose import dose_curve, dose_erased
from mechmask.measure.precision import precision_overview
from mechmask.measure.statistics import over_facts
from mechmask.measure.summary import overview
from mechmask.measure.surprise import magnitude_overview
from mechmask.measure.verdict import describe
from mechmask.study.pages import sentences
from mechmask.study.pages.elasticity import ELASTICITY
from mechmask.study.pages.exhibit import Exhibit
from mechmask.study.pages.retention import RETENTION
from mechmask.study.pages.words import contradicted_in, level_in, of_prompt
from mechmask.study.reacquisition_tables import arms_overview, held_half_overview, samples_overview

_GROUP = ("n", "draws", "index", "trace_before", "trace_after", "normalised", "verdict")
_VERDICTS = ("n", "took", "masked", "erased", "suppressed", "undecided", "auroc", "why")
_DOSES = ("at", "norm", "left", "trace", "index", "margin", "control_drop", "text_cost")


def group_table(result: xr.Dataset) -> pd.DataFrame:
    """What became of the facts as a group, without what a page has no room for: a row for each change."""
    return _some(overview(result, level_in(result)), _GROUP)


def verdict_table(result: xr.Dataset) -> pd.DataFrame:
    """Verdicts on single facts, and why the group is judged as it is: a row for each change."""
    table = overview(result, level_in(result))
    return _some(table.assign(why=[describe(reason) for reason in table["reason"]]), _VERDICTS)


def exhibits_of(protocol: str, there: Sequence[str]) -> tuple[Exhibit, ...]:
    """What a study can show.

    Args:
        protocol: its name; of one that is not known, such as one of the user's own, whatever is known by its name.
        there: the results that it has, or is to have.
    """
    known = EXHIBITS.get(protocol, tuple({one.needs: one for each in EXHIBITS.values() for one in each}.values()))
    return tuple(one for one in known if set(one.needs) <= set(there))


def _some(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Columns of a table with their intervals, those that it has."""
    wanted = [f"{name}{end}" for name in columns for end in ("", "_low", "_high")]
    return table.loc[:, [name for name in wanted if name in table]]


def _association(table: xr.Dataset, x: str, y: str = "margin", dim: str = "state") -> Figure:
    """Of as many states as there are line styles: the corrections come first, edits after them."""
    return draw.association(table.isel({dim: slice(len(SERIES))}), x, y)


def _one_step(table: xr.Dataset) -> Figure:
    return draw.association(
        table.isel(fact=np.flatnonzero(table["role"].values == "contradicted")), "index", "recovery"
    )


def _dose_table(doses: xr.Dataset) -> pd.DataFrame:
    return _some(dose_curve(doses).to_dataframe().set_index("path"), _DOSES)


def _gone(doses: xr.Dataset) -> pd.DataFrame:
    return (
        dose_erased(doses)[["dose", "low", "high", "n"]]
        .to_dataframe()
        .rename(columns={"low": "dose_low", "high": "dose_high"})
    )


def _pools(doses: xr.Dataset) -> pd.DataFrame:
    """Standing of old on the prompt, by pool and step: the mean over the contradicted facts."""
    mean = over_facts(contradicted_in(of_prompt(doses)).standing, level_in(doses)).reset_coords(drop=True)
    columns = {"estimate": "standing", "low": "standing_low", "high": "standing_high", "n": "n"}
    table = mean[list(columns)].to_dataframe(dim_order=["pool", "step"])
    return table[list(columns)].rename(columns=columns)


def _contrast_table(auroc: xr.Dataset, _rebound: xr.Dataset) -> pd.DataFrame:
    """The trace's row of every comparison; other statistics are in ``auroc.csv``."""
    columns = ["auroc", "auroc_low", "auroc_high", "difference", "difference_low", "difference_high", "n"]
    chosen = auroc[columns].sel(statistic="trace", drop=True)
    return chosen.to_dataframe(dim_order=["dose", "of", "edited", "tuned"])[columns].query("n > 0")


def _renewal_table(result: xr.Dataset) -> pd.DataFrame:
    columns = [f"{name}{end}" for name in ("mean", "never", "difference") for end in ("", "_low", "_high")]
    columns += ["n", "n_never", "n_positive", "n_left_out", "n_recalled"]
    return result[columns].to_dataframe(dim_order=["order", "quantity", "asked"])[columns]


ERASE = Exhibit(
    "What became of the old values",
    ("results/erase",),
    sentences.of_erase,
    draw.erase,
    "Each fact's raw erase index in nats, and beside it its normalised index with interval, by change, with the margin "
    "of the verdict.",
    group_table,
    "One row a change: means over facts, EI* of the group (at 90%) and the verdict on it",
)
VERDICTS = Exhibit(
    "Verdicts on single facts",
    ("results/erase",),
    sentences.of_verdicts,
    table=verdict_table,
    lists="One row a change: on how many facts it took, how many got which verdict, the AUROC of old values against "
    "their references, and what the verdict on the group rests on",
)
SURPRISE = Exhibit(
    "Surprise and margin",
    ("results/surprise",),
    sentences.of_surprise,
    lambda table: _association(table, "surprise"),
    "A point for each fact: surprise at the onset against by how much new leads in the end, in nats.",
    association_overview,
    "Correlations over facts",
)
BY_MAGNITUDE = Exhibit(
    "Surprise by magnitude",
    ("results/surprise",),
    lambda table: sentences.of_rows(
        "Mean surprise at the onset, in nats, by how far new is from old",
        magnitude_overview(table),
        "mean_surprise",
        "n_graded",
    ),
    table=magnitude_overview,
    lists="One row a magnitude, n facts each",
)
COURSE = Exhibit(
    "The course of the correction",
    ("results/course",),
    sentences.of_course,
    draw.trace,
    "Two panels by optimizer step: log-probability of old and new, and what is left of the old value above never "
    "known, "
    "as means over facts with their intervals, in nats.",
)
_SURPRISES = (SURPRISE, BY_MAGNITUDE)

EXHIBITS: Mapping[str, tuple[Exhibit, ...]] = {
    "mask": (
        ERASE,
        VERDICTS,
        Exhibit(
            "The course of both trainings",
            ("results/trajectory",),
            sentences.of_trajectory,
            draw.trajectory,
            "Two panels by optimizer step: log-probabilities of old, new and untaught values, and how far old stands "
            "above untaught ones by role, as means over facts with their intervals, in nats.",
            pools=False,
        ),
        Exhibit(
            "The contest at every layer",
            ("results/depth",),
            sentences.of_depth,
            draw.depth,
            "By layer and state: log-probabilities of old and new, and the margin between them, as means over facts "
            "with "
            "their intervals, in nats.",
        ),
        Exhibit(
            "The contest at every layer, checkpoint by checkpoint",
            ("results/depth_trajectory",),
            sentences.of_depth_trajectory,
            draw.checkpoints,
            "A heat map of the mean margin of new over old, a row for each layer and a column for each checkpoint, in "
            "nats.",
            pools=False,
        ),
        *_SURPRISES,
    ),
    "correction": (ERASE, VERDICTS, COURSE, *_SURPRISES),
    "twins": (ERASE, VERDICTS, COURSE, *_SURPRISES),
    "dose": (
        Exhibit(
            "What each dose leaves and costs",
            ("results/doses",),
            sentences.of_doses,
            draw.dose,
            "By dose: what is left of the old values' trace, and what the correction costs control facts and other "
            "text, "
            "a line for each course, with intervals.",
            _dose_table,
            "One row a dose: its place on its course, the norm of the change, the share of the trace that is left, and "
            "means in nats",
            pools=False,
        ),
        Exhibit(
            "The dose at which the trace is gone",
            ("results/doses",),
            lambda doses: sentences.of_rows(
                "The first dose from which on what is left stays within the margin, inf where none does",
                _gone(doses),
                "dose",
            ),
            table=_gone,
            lists="One row a course, in steps or as a multiple of the change",
            pools=False,
        ),
        ERASE,
        VERDICTS,
        *_SURPRISES,
    ),
    "precision": (
        Exhibit(
            "The verdict in coarser weights",
            ("results/precision",),
            sentences.of_precision,
            draw.precision,
            "Each fact's trace and the group's EI* under float32 and under each coarser type, with intervals.",
            precision_overview,
            "One row a precision, and what changed beside float32, the same fact in pairs",
            pools=False,
        ),
        ERASE,
        VERDICTS,
    ),
    "contrast": (
        Exhibit(
            "Edited beside fine-tuned",
            ("results/auroc", "results/rebound"),
            sentences.of_contrast,
            draw.contrast,
            "AUROC by which each statistic tells fine-tuned facts from edited ones, and the share of untaught "
            "phrasings "
            "and questions on which old leads again, by way of changing, with intervals.",
            _contrast_table,
            "The trace of edited against fine-tuned facts: AUROC, and difference in nats of the same fact",
            pools=False,
        ),
        ERASE,
        VERDICTS,
    ),
    "reactance": (
        Exhibit(
            "Does a stronger prior resist",
            ("results/reactance",),
            lambda table: sentences.of_correlation(
                table, "Log-probability of old before against the final margin", "condition"
            ),
            lambda table: _association(table, "prior", dim="condition"),
            "A point for each fact: log-probability of old before the contradiction against by how much new leads "
            "after it, "
            "in nats.",
            lambda table: association_overview(table, ("mean_prior", "mean_margin")),
            "One row a condition and correlation",
            pools=False,
        ),
        Exhibit(
            "Surprise and margin",
            ("results/surprise",),
            lambda table: sentences.of_correlation(
                table, "Surprise at the onset against the final margin", "condition"
            ),
            lambda table: _association(table, "surprise", dim="condition"),
            "A point for each fact: surprise at the onset against by how much new leads in the end, in nats.",
            association_overview,
            "One row a condition and correlation",
            pools=False,
        ),
        BY_MAGNITUDE,
    ),
    "reacquisition": (
        Exhibit(
            "How soon the old values come back",
            ("results/recall", "results/increment"),
            sentences.of_recall,
            draw.reacquisition,
            "Share of facts that are recalled by optimizer step, a curve for each arm, and for each fact by how many "
            "steps "
            "the old value comes before a third one.",
            lambda recall, _: arms_overview(recall),
            "One row an arm: facts, those that were not recalled, steps and tokens until recall, hazard ratios",
            pools=False,
        ),
        Exhibit(
            "What one step brings back",
            ("results/one_step",),
            sentences.of_one_step,
            _one_step,
            "A point for each fact: its erase index against how much of the old value one optimizer step brings back, "
            "in nats.",
            association_overview,
            "One row a way to ask and correlation",
            pools=False,
        ),
        Exhibit(
            "The half that nobody taught again",
            ("results/held_half",),
            lambda half: sentences.of_rows(
                "What came back, beyond a reference, of the old values that were not among those taught again, in nats",
                held_half_overview(half),
                "estimate",
            ),
            table=held_half_overview,
            lists="One row a reference, quantity and way to ask; n facts",
            pools=False,
        ),
        Exhibit(
            "Samples that say the old value",
            ("results/samples",),
            lambda samples: sentences.of_rows(
                "The mean probability that one of k samples begins with the old value",
                samples_overview(samples),
                "mean",
            ),
            table=samples_overview,
            lists="One row a role and number of samples; n facts",
            pools=False,
        ),
    ),
    "renewal": (
        Exhibit(
            "Does the old value come back in another context",
            ("results/renewal",),
            sentences.of_renewal,
            draw.renewal,
            "For each order of contexts: what old regains on new, contradicted facts beside never-known ones, with "
            "intervals, in nats.",
            _renewal_table,
            "One row an order, quantity and way to ask: means in nats, their difference, and counts of facts",
            pools=False,
        ),
    ),
    "elasticity": ELASTICITY,
    "retention": RETENTION,
    "editing": (
        Exhibit(
            "Editors side by side",
            ("results/editing", "results/verdicts"),
            sentences.of_editors,
            draw.editors,
            "For each editor: the field's scores, what is left of the old values, and counts of verdicts, with "
            "intervals.",
        ),
        Exhibit(
            "What edits one after the other do to the model",
            ("results/sequence",),
            sentences.of_wear,
            draw.editors_sequence,
            "By number of edits, a line for each editor: scores and drift of the model, with intervals.",
        ),
        Exhibit(
            "Where each editor writes",
            ("results/depth",),
            sentences.of_depth,
            draw.editors_depth,
            "The margin of new over old by layer before and after the edits of each editor, as means over facts with "
            "their "
            "intervals, in nats.",
        ),
        ERASE,
        VERDICTS,
    ),
    "calibrate": (
        Exhibit(
            "What each model holds of the old values",
            ("results/doses",),
            lambda doses: sentences.of_rows(
                "Standing of old above untaught values, in nats, by model and at the last step",
                _pools(doses.isel(step=[-1])),
                "standing",
            ),
            table=_pools,
            lists="One row a pool, which says how its model was told, and a step of its correction: means over facts",
            pools=False,
        ),
    ),
}
"""By protocol, in the order of the page."""
