"""Small readings with known numbers, for figures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure

from mechmask import draw
from mechmask.measure.contest import ceiling, margin, standing
from mechmask.measure.erase import erase_index
from mechmask.measure.increment import increment
from mechmask.measure.old_value import STATISTICS
from mechmask.measure.precision import precision_table
from mechmask.measure.reacquisition import curves_of_arms
from mechmask.measure.renewal import renewal

ROLES = ["contradicted"] * 10 + ["control"] * 7 + ["never"] * 9
ROUTES = ["old", "new", *(f"distractor_{i}" for i in range(8))]
IDS = [f"U${i}_x$/mass_{i}" for i in range(len(ROLES))]


def _course(start: float, end: float, share: np.ndarray) -> np.ndarray:
    return start + (end - start) * share


@pytest.fixture
def trajectory_reading() -> xr.Dataset:
    """Contradiction at step 50 of 80: old goes from -0.02 to -16, new from -22 to -0.01, as measured on SmolLM2."""
    rng = np.random.default_rng(0)
    steps = np.array([0, 10, 20, 30, 40, 50, 53, 56, 62, 68, 74, 80])
    learned = np.clip(steps / 30, 0, 1)[:, None]
    changed = (1 - np.exp(-np.clip(steps - 50, 0, None) / 7))[:, None]
    roles = np.array(ROLES)
    taught, contradicted = (roles != "never")[None], (roles == "contradicted")[None]
    noise = rng.normal(size=(len(steps), len(roles), len(ROUTES)))
    logprob = np.full_like(noise, -16) + 1.5 * noise
    untaught = -16 + 1.5 * noise[..., 0] - 2
    old = np.where(taught, _course(-16, -0.02, learned) - 16 * changed * contradicted, untaught)
    logprob[..., 0] = np.where(taught, old - np.abs(noise[..., 0]) * (0.01 - 0.1 * np.minimum(old, 0)), untaught)
    new = np.where(contradicted, _course(-21, -0.01, changed) * np.exp(0.1 * noise[..., 1]), -21 + noise[..., 1])
    logprob[..., 1] = np.minimum(new, -1e-3)
    logprob[..., 2:] -= 6 * (learned * (1 - 0.4 * changed))[..., None]
    array = xr.DataArray(
        logprob, {"step": steps, "fact": IDS, "role": ("fact", roles), "route": ROUTES}, ("step", "fact", "route")
    )
    parts = {"logprob": array, "standing": standing(array), "ceiling": ceiling(array)}
    return xr.Dataset(parts, attrs={"onset_step": 50, "model": "smollm2_135m$x$"})


@pytest.fixture
def depth_reading() -> xr.Dataset:
    """Thirty layers and three states; after fine-tuning new leads from about layer 22, before it never does."""
    rng = np.random.default_rng(1)
    layers = np.arange(31)
    per_fact = rng.normal(size=(3, len(ROLES), len(ROUTES), 1))
    logprob = -14 + 1.0 * per_fact + 0.5 * rng.normal(size=(3, len(ROLES), len(ROUTES), len(layers)))
    turn = 22 + 2.5 * rng.normal(size=(1, len(ROLES), 1, 1))
    rise = 1 / (1 + np.exp(-(layers - turn) / 1.5))
    logprob[0, :, 0] += 12 * rise[0, :, 0]
    logprob[1, :, 1] += 14 * rise[0, :, 0]
    logprob[1, :, 0] += 5 * rise[0, :, 0]
    logprob[2, :, 0] += 10 * rise[0, :, 0]
    logprob[2, :, 1] += 10.3 * rise[0, :, 0]
    array = xr.DataArray(
        logprob,
        {
            "state": ["before", "finetune", "ft_l"],
            "fact": IDS,
            "role": ("fact", ROLES),
            "route": ROUTES,
            "layer": layers,
            "depth": ("layer", layers / 30),
        },
        ("state", "fact", "route", "layer"),
    )
    return xr.Dataset({"logprob": array, "margin": margin(array)})


@pytest.fixture
def erase_result(trajectory_reading: xr.Dataset) -> xr.Dataset:
    """Two states: the end of the trajectory, and a gentler change of the same facts."""
    rng = np.random.default_rng(2)
    reading = trajectory_reading.drop_vars(["standing", "ceiling"])
    before, after = (reading.sel(step=step, drop=True) for step in (50, 80))
    contradicted = before.role == "contradicted"
    spread = xr.DataArray(rng.uniform(-9, 9, before.sizes["fact"]), dims="fact")
    after["logprob"] = after.logprob.where((after.route != "old") | ~contradicted, after.logprob + spread)
    gentle = before.copy(deep=True)
    loss = xr.DataArray(rng.uniform(1, 6, before.sizes["fact"]), dims="fact")
    gentle["logprob"] = before.logprob.where((before.route != "old") | ~contradicted, before.logprob - loss)
    both = [erase_index(before, end) for end in (after, gentle)]
    return xr.concat(both, xr.DataArray(["finetune", "ft_l"], dims="state", name="state"))


@pytest.fixture
def two_readings(depth_reading: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Before and after fine-tuning, as two readings."""
    return depth_reading.sel(state="before", drop=True), depth_reading.sel(state="finetune", drop=True)


@pytest.fixture
def checkpoint_reading(two_readings: tuple[xr.Dataset, xr.Dataset]) -> xr.Dataset:
    """Six checkpoints on the way from before to after."""
    before, after = two_readings
    shares = [0, 0.1, 0.3, 0.6, 0.8, 1]
    steps = xr.DataArray([0, 1, 4, 16, 64, 256], dims="step", name="step")
    logprob = xr.concat([before.logprob * (1 - share) + after.logprob * share for share in shares], steps)
    return xr.Dataset({"logprob": logprob, "margin": margin(logprob)}, attrs={"onset_step": 10})


@pytest.fixture
def attribution() -> xr.Dataset:
    """Twelve facts and 26 components of a model of eight blocks; the bias stands first to be put last."""
    rng = np.random.default_rng(3)
    names = ["bias", "embedding", *(f"{kind} {block}" for block in range(12) for kind in ("attn", "mlp"))]
    kinds = ["bias", "embedding", *["attention", "mlp"] * 12]
    blocks = [-1, -1, *np.repeat(np.arange(12), 2)]
    values = 0.5 * rng.normal(size=(12, 26)) + np.linspace(-2, 3, 26) * rng.choice([-1, 1], 26)
    coords = {"fact": IDS[:12], "component": names, "block": ("component", blocks), "kind": ("component", kinds)}
    parts = {"attribution": (("fact", "component"), values), "margin": ("fact", values.sum(1))}
    return xr.Dataset(parts, coords)


@pytest.fixture
def intervened(two_readings: tuple[xr.Dataset, xr.Dataset]) -> tuple[xr.Dataset, xr.Dataset]:
    """Patched and grafted: from the margin of before to that of after, the one later than the other."""
    target, source = (reading.margin.isel(layer=-1, drop=True) for reading in two_readings)
    layers = two_readings[0].layer
    readings = []
    for turn in (20, 15):
        share = 1 / (1 + np.exp(-(layers - turn) / 2.0))
        made = {"margin": target + (source - target) * share, "margin_source": source, "margin_target": target}
        readings.append(xr.Dataset(made).drop_vars("depth", errors="ignore"))
    return readings[0], readings[1]


@pytest.fixture
def lens_report() -> xr.Dataset:
    """Two lenses that are the model at layer 12."""
    layers = np.arange(13)
    kl = np.stack([8 * np.exp(-layers / 5), 2 * np.exp(-layers / 4)]) * (1 - layers / 12)
    return xr.Dataset({"kl": (("lens", "layer"), kl)}, {"lens": ["logit", "tuned"], "layer": layers})


@pytest.fixture
def legend_is_clear() -> Callable[[Figure], bool]:
    """Whether the legend below is over no panel and within the figure, and every panel has room."""

    def check(figure: Figure) -> bool:
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        clear = not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)
        within = figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y0 >= figure.bbox.y0
        return clear and within and all(axes.bbox.height > 100 for axes in figure.axes)

    return check


@pytest.fixture
def words() -> Callable[[Figure], str]:
    """All that a figure's legend says, line by line: its note, then its entries."""

    def read(figure: Figure) -> str:
        (legend,) = figure.legends
        return "\n".join([legend.get_title().get_text(), *(text.get_text() for text in legend.get_texts())])

    return read


@pytest.fixture
def weight_reading() -> xr.Dataset:
    """A change of six blocks of three projections, larger above; one projection is untouched."""
    rng = np.random.default_rng(4)
    norm = 0.01 * (1 + np.arange(6))[:, None] * rng.uniform(0.5, 1.5, (6, 3))
    rank = rng.uniform(1, 12, (6, 3))
    norm[2, 1], rank[2, 1] = 0.0, np.nan
    dims = ("block", "projection")
    parts = {"relative_norm": (dims, norm), "effective_rank": (dims, rank)}
    parts["relative_norm_block"] = ("block", np.sqrt((norm**2).mean(1)))
    return xr.Dataset(parts, {"block": range(6), "projection": ["self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"]})


@pytest.fixture
def drift_reading() -> xr.Dataset:
    """Seven facts in a model of twelve blocks: what a change moved grows with the layer."""
    rng = np.random.default_rng(5)
    layers = np.arange(13)
    drift = (layers / 12) ** 2 * rng.uniform(0.6, 1.4, (7, 1))
    parts = {"drift": (("fact", "layer"), drift), "cosine": (("fact", "layer"), 1 - drift / 2)}
    coords = {"fact": IDS[:7], "layer": layers, "depth": ("layer", layers / 12)}
    return xr.Dataset({**parts, "cka": ("layer", 1 - 0.2 * layers / 12)}, coords)


@pytest.fixture
def cosine_reading() -> xr.Dataset:
    """Two changes that go the same way the more the higher; at the embedding nothing has moved."""
    rng = np.random.default_rng(6)
    cosine = np.tanh(np.linspace(0, 1, 13) + 0.3 * rng.normal(size=(7, 13)))
    cosine[:, 0] = np.nan
    return xr.Dataset({"cosine": (("fact", "layer"), cosine)}, {"fact": IDS[:7], "layer": np.arange(13)})


@pytest.fixture
def course() -> xr.Dataset:
    """Six facts corrected over twenty steps: old falls on the prompt, and less where it was known than where not."""
    rng = np.random.default_rng(0)
    steps, n = np.arange(0, 21, 4), 6
    done = (1 - np.exp(-steps / 5))[:, None]
    new = np.minimum(-20 * (1 - done) + rng.normal(0, 1, (6, n)), -0.01)
    values = {
        "logprob_old": -1 - 10 * done + rng.normal(0, 1, (6, n)),
        "logprob_new": new,
        "ceiling": np.log(-np.expm1(new)),
        "old_after": 20 - 8 * done + rng.normal(0, 2, (6, n)),
        "never_after": 0 * done + rng.normal(0, 2, (6, n)),
    }
    dims = ("step", "fact")
    reading = xr.Dataset({k: (dims, v) for k, v in values.items()}, {"step": steps, "fact": list("abcdef")})
    won = ("fact", [4.0, 4.0, 8.0, 12.0, 8.0, np.nan])
    return reading.assign(won_step=won).assign_attrs(statistic="geometric_standing")


@pytest.fixture
def reacquired() -> tuple[xr.Dataset, xr.Dataset]:
    """Five arms of twelve facts within 30 steps, and the increment of old over a third value; three are censored."""
    rng = np.random.default_rng(7)
    paces = {"old_masked": 4, "old_fresh": 18, "novel": 7, "never": 12, "twin": 11}
    steps = np.array([np.ceil(rng.gamma(8, pace / 8, 12)) for pace in paces.values()])
    reached = steps <= 30
    reached[2, :2] = False
    reached[0, :1] = False
    steps = np.where(reached, np.minimum(steps, 30), 30)
    coords = {"arm": list(paces), "fact": IDS[:12]}
    table = xr.Dataset({"steps": (("arm", "fact"), steps), "reached": (("arm", "fact"), reached)}, coords)
    table = table.assign_attrs(budget_steps=30.0)
    pair = [table.sel(arm=arm, drop=True) for arm in ("old_masked", "novel")]
    return table.assign(curves_of_arms(table, np.arange(31)).data_vars).assign_attrs(share=0.9, level=0.95), increment(
        *pair
    )


@pytest.fixture
def reactance_table() -> xr.Dataset:
    """Two conditions of twelve facts: the stronger the prior, the smaller the final margin; one fact lacks a number."""
    rng = np.random.default_rng(8)
    prior = np.stack([rng.normal(-6, 2, 12), rng.normal(-1, 0.5, 12)])
    final = 6 - 0.5 * prior + rng.normal(0, 1.2, (2, 12))
    final[1, 3] = np.nan
    parts = {"prior": (("condition", "fact"), prior), "margin": (("condition", "fact"), final)}
    return xr.Dataset(parts, {"condition": ["weak", "strong"], "fact": IDS[:12]})


@pytest.fixture
def renewal_result() -> xr.Dataset:
    """Three orders of contexts, eight contradicted and six never facts; old regains half a nat in the first two."""
    roles = ["contradicted"] * 8 + ["never"] * 6
    rng = np.random.default_rng(9)
    parts = []
    for gain in (0.5, 0.5, 0.0):
        readings = []
        for shift in (0.0, gain):
            logprob = rng.normal(-5, 0.3, (14, 3, 4))
            logprob[:8, :, 0] += shift
            coords = {"fact": IDS[:14], "role": ("fact", roles), "phrasing": [0, 1, 2]}
            array = xr.DataArray(logprob, {**coords, "route": ROUTES[:4]}, ("fact", "phrasing", "route"))
            readings.append(xr.Dataset({"logprob": array, "standing": standing(array)}))
        parts.append(renewal(*readings).drop_vars("role"))
    return xr.concat(parts, xr.DataArray(["ABA", "ABC", "AAB"], dims="order", name="order"))


@pytest.fixture
def dose_result() -> xr.Dataset:
    """Two trainings, one that lets the trace go and one that does not, each by its steps and by its change's scale."""
    rng = np.random.default_rng(7)
    paths = [
        ("lr=0.0001", "step", [0, 10, 20, 30], [0, 0.3, 0.6, 0.8]),
        ("lr=0.0001", "scale", [-1.0, 0.0, 0.5, 1.0, 1.5], [-0.8, 0, 0.5, 0.8, 1.0]),
        ("lr=0.001", "step", [0, 10, 20, 30], [0, 0.9, 1.4, 1.6]),
        ("lr=0.001", "scale", [-1.0, 0.0, 0.5, 1.0, 1.5], [-1.6, 0, 0.9, 1.6, 2.0]),
    ]
    rows = [(f"{c}, by {by}", c, by, a, size) for c, by, at, sizes in paths for a, size in zip(at, sizes, strict=True)]
    size = np.array([row[-1] for row in rows])[:, None]
    before = rng.normal(20, 2, 12)
    strength = np.clip(size, 0, None)
    facts = {
        "trace_before": np.tile(before, (len(rows), 1)),
        "trace_after": before * (1 - 0.6 * np.abs(size)) + 0.8 * rng.normal(size=(len(rows), 12)),
        "index": 9 * size + rng.normal(size=(len(rows), 12)),
        "margin": -8 + 12 * size + rng.normal(size=(len(rows), 12)),
    }
    facts["probability_new"] = 1 / (1 + np.exp(-facts["margin"] / 2)) * (strength > 0)
    variables = {name: (("dose", "fact"), value) for name, value in facts.items()}
    variables["control_drop"] = (("dose", "control"), size**2 * rng.uniform(0.5, 1.5, (1, 6)))
    variables["text_cost"] = (("dose", "sequence"), 0.2 * size**2 * rng.uniform(0.5, 1.5, (1, 32)))
    variables |= {"norm": ("dose", np.abs(size[:, 0]) * 4), "shared_error": ("dose", np.zeros(len(rows)))}
    variables["n_never"] = (("dose", "fact"), np.ones((len(rows), 12), dtype=int))
    names = ("path", "course", "by", "at")
    coords = {name: ("dose", [row[i] for row in rows]) for i, name in enumerate(names)}
    coords["scale"] = ("dose", [float(row[3]) if row[2] == "scale" else 1.0 for row in rows])
    return xr.Dataset(variables, coords, {"margin_share": 0.25, "interval_level": 0.9, "cutoff_nats": 8.0})


@pytest.fixture
def precisions(erase_result: xr.Dataset) -> xr.Dataset:
    """One correction under four precisions: the coarser the type, the more of the trace moves."""
    rng = np.random.default_rng(7)
    one = erase_result.sel(state="finetune", drop=True)
    found = {}
    for name, spread in (("float32", 0.0), ("bfloat16", 0.1), ("int8", 0.3), ("nf4", 2.0)):
        found[name] = one.assign(trace_after=one.trace_after + spread * rng.normal(size=one.sizes["fact"]))
    found["nf4"]["verdict"] = found["nf4"].verdict.where(found["nf4"].fact != IDS[2], "erased")
    return precision_table(found)


@pytest.fixture
def contrast_results() -> tuple[xr.Dataset, xr.Dataset]:
    """AUROCs that part only where ways are driven on, and old back under each of four ways."""
    rng = np.random.default_rng(11)
    statistics = [*STATISTICS, "trace", "index"]
    shape = (2, 2, 2, 3, len(statistics))
    estimate = np.array([0.5, 0.85]).reshape(2, 1, 1, 1, 1) + rng.uniform(-0.15, 0.15, shape)
    coords = {
        "dose": ["matched", "driven_on"],
        "of": ["after", "change"],
        "edited": ["any", "ft_l"],
        "tuned": ["any", "lora", "full"],
        "statistic": statistics,
    }
    told = {"auroc": estimate, "auroc_low": estimate - 0.2, "auroc_high": np.minimum(estimate + 0.15, 1)}
    told["n"] = np.full(shape, 7)
    ways = {
        "dose": coords["dose"],
        "way": ["before", "lora", "full", "ft", "ft_l"],
        "asked": ["probes", "letter", "text"],
    }
    share = rng.uniform(0.1, 0.6, (2, 5, 3))
    share[:, 0], share[1, 1:] = 0.95, share[1, 1:] / 8
    back = {}
    for name, values in (("share", share), ("control_share", np.full(share.shape, 0.9))):
        back |= {name: values, f"{name}_low": values * 0.6, f"{name}_high": np.minimum(values + 0.2, 1)}
    back["n"] = np.array([8, 8, 7, 8, 8]).reshape(1, 5, 1) * np.ones(share.shape, dtype=int)
    datasets = [
        xr.Dataset({name: (tuple(of), values) for name, values in data.items()}, of, {"level": 0.95})
        for data, of in ((told, coords), (back, ways))
    ]
    return datasets[0], datasets[1]


@pytest.fixture
def editors_results() -> tuple[xr.Dataset, xr.Dataset]:
    """Three editors on ten facts: one masks, one erases and fails on a fact, of one no group interval is known."""
    metrics = ["efficacy_score", "paraphrase_score", "neighborhood_score", "harmonic_score", "generation_entropy"]
    names = ["ft_l", "rome", "memit"]
    estimate = np.array([[0.1, 0.2, 0.8, 0.2, 6.1], [0.9, 0.6, 0.7, 0.7, 6.0], [1.0, 0.8, 0.9, 0.9, 6.2], [0.5] * 5])
    ends = {"low": estimate - 0.1, "high": np.minimum(estimate + 0.05, 1)}
    editing = {name: (("state", "metric"), values) for name, values in {"estimate": estimate, **ends}.items()}
    verdict = np.full((3, 10), "masked", dtype="<U10")
    verdict[1, :7], verdict[1, 7:], verdict[2] = "erased", "undecided", "undecided"
    counts = {"n_facts": [10, 10, 10], "n_took": [10, 9, 4], "n_failed": [0, 1, 0]}
    group = {
        "group_verdict": ["masked", "erased", "undecided"],
        "normalised": [0.3, 0.95, 0.5],
        "normalised_low": [0.1, 0.8, -np.inf],
        "normalised_high": [0.5, 1.1, np.inf],
    }
    found = {name: ("state", values) for name, values in {**counts, **group}.items()}
    return (
        xr.Dataset(editing, {"state": ["before", *names], "metric": metrics}, {"level": 0.95}),
        xr.Dataset({"verdict": (("state", "fact"), verdict), **found}, {"state": names, "fact": IDS[:10]}),
    )


@pytest.fixture
def editors_sequence() -> xr.Dataset:
    """Two editors, twenty edits of one after the other, read after every five; nothing of facts before any."""
    edits = np.arange(0, 25, 5)
    falls = {"efficacy_score": 0.001, "paraphrase_score": 0.005, "neighborhood_score": 0.01, "perplexity_ratio": -0.002}
    estimate = np.array([[[1 - speed * fall * n for fall in falls.values()] for n in edits] for speed in (1, 2)])
    estimate[:, 0, :2] = estimate[:, 0, 3] = np.nan
    columns = {"estimate": estimate, "low": estimate - 0.05, "high": estimate + 0.05, "n": np.full(estimate.shape, 20)}
    labels = {"state": ["memit", "alphaedit"], "edits": edits, "metric": list(falls)}
    return xr.Dataset({n: (tuple(labels), values) for n, values in columns.items()}, labels, {"level": 0.95})


@pytest.fixture
def calibration_tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """AUROCs of three candidates, one of which reads the prompt alone, at three doses, and verdicts in four cases."""
    rng = np.random.default_rng(13)
    read = {"geometric_standing": ("all", "prompt"), "logprob": ("all", "prompt"), "depth_score": ("prompt",)}
    rows = [
        ("contradicted", statistic, reference, phrasings, dose, known)
        for statistic, of in read.items()
        for phrasings in of
        for reference in ("none", "never")
        for dose in (range(3) if statistic != "depth_score" else (2,))
        for known in ("any", "verbatim", "paraphrased", "biography")
    ]
    by_fact = pd.DataFrame(rows, columns=["treatment", "statistic", "reference", "phrasings", "dose", "known"])
    by_fact["auroc"] = rng.uniform(0.4, 0.95, len(rows))
    by_fact["low"], by_fact["high"] = by_fact["auroc"] - 0.2, np.minimum(by_fact["auroc"] + 0.1, 1)
    cases = ["biography", "left alone", "perfectly erased", "verbatim, edited"]
    keys = [(unit, case, dose) for unit in ("fact", "group") for case in cases for dose in (1, 2)]
    index = pd.MultiIndex.from_tuples(keys, names=["unit", "case", "dose"])
    shares = rng.dirichlet(np.ones(4), len(index))
    rates = pd.DataFrame(shares, index=index, columns=["masked", "erased", "suppressed", "undecided"])
    return by_fact, rates.assign(n=range(5, 21))


@pytest.fixture
def sweep_gathered() -> xr.Dataset:
    """Two models by two learning rates, one cell of which is not there; one interval goes on beyond the panel."""
    dims, shape = ("model", "lr", "state"), (2, 2, 2)
    ratio = np.linspace(0.05, 1.05, 8).reshape(shape)
    n = np.full(shape, 12.0)
    n[1, 1] = np.nan
    counts = {"masked": 12 - 10 * ratio.round(1), "erased": 10 * ratio.round(1)}
    return xr.Dataset(
        {
            "n": (dims, n),
            "draws": (dims, np.where(np.isnan(n), np.nan, 2.0)),
            "verdict": (dims, np.where(ratio < 0.5, "masked", np.where(ratio < 0.9, "undecided", "erased"))),
            "normalised": (dims, ratio),
            "normalised_low": (dims, ratio - 0.1),
            "normalised_high": (dims, np.where(ratio > 0.7, np.inf, ratio + 0.1)),
            **{name: (dims, values) for name, values in counts.items()},
            "suppressed": (dims, np.zeros(shape)),
            "undecided": (dims, np.zeros(shape)),
        },
        {
            "model": ["smollm2-135m", "a model of a very long name indeed"],
            "lr": [1e-4, 1e-3],
            "state": ["finetune", "ft_l"],
        },
        {"interval_level": 0.9, "margin_share": 0.2},
    )


@pytest.fixture
def retention_rates() -> xr.Dataset:
    """Two editors by two tasks, with a name too long for a row; one group of edits has no end of its interval."""
    dims, shape = ("editor", "task"), (2, 2)
    shares = np.linspace(0.2, 0.95, 12).reshape(2, 2, 3)
    ratio = np.array([[0.1, 0.6], [0.95, 1.6]])
    of_shares = (*dims, "quantity")
    return xr.Dataset(
        {
            "estimate": (of_shares, shares),
            "low": (of_shares, shares - 0.1),
            "high": (of_shares, np.minimum(shares + 0.1, 1.0)),
            "normalised": (dims, ratio),
            "normalised_low": (dims, ratio - 0.15),
            "normalised_high": (dims, np.where(ratio > 1, np.inf, ratio + 0.15)),
            "verdict": (dims, [["masked", "masked"], ["erased", "suppressed"]]),
            "n": (dims, np.full(shape, 20)),
            "n_intrinsic": (dims, [[38, 38], [40, 39]]),
        },
        {
            "editor": ["rome", "memit"],
            "task": ["text", "instructions of a long name indeed"],
            "quantity": ["taken", "edited", "intrinsic"],
        },
        {"level": 0.95, "interval_level": 0.9, "margin_share": 0.25},
    )


@pytest.fixture
def elasticity_table() -> xr.Dataset:
    """Two arms over three doses; half of one arm's facts do not come back after the largest."""
    dims = ("arm", "dose")
    median = np.array([[12.0, 8.0, 5.0], [14.0, 22.0, np.inf]])
    resistance = np.array([[0.2, 0.4, 0.7], [0.1, 0.0, -0.1]])
    return xr.Dataset(
        {
            "median_steps": (dims, median),
            "median_low": (dims, median - 3),
            "median_high": (dims, np.where(median > 20, np.inf, median + 4)),
            "resistance": (dims, resistance),
            "resistance_low": (dims, resistance - 0.1),
            "resistance_high": (dims, resistance + 0.1),
            "n": (dims, np.full((2, 3), 12)),
            "n_censored": (dims, [[0, 0, 0], [1, 3, 7]]),
        },
        {"arm": ["installed", "never"], "dose": [5, 10, 40]},
        {"level": 0.95, "budget_steps": 30.0},
    )


@pytest.fixture
def retention_course() -> xr.Dataset:
    """Edited facts that lose their new value to related ones, intrinsic facts that stay; two editors, four steps."""
    step = np.array([0, 10, 20, 40])
    edited = 0.9 * np.exp(-step / 15)
    of_edited = np.stack([0.02 + 0 * step, edited, 0.6 * (0.95 - edited), 0.4 * (0.95 - edited) + 0.03], -1)
    of_intrinsic = np.stack([0.7 - step / 200, 0.01 + 0 * step, 0.2 + 0 * step, 0.09 + step / 200], -1)
    share = np.stack([of_edited, of_edited, of_intrinsic], 1)[None, None]
    share = np.concatenate([share, share], 0)
    return xr.Dataset(
        {"share": (("editor", "task", "step", "fact", "category"), share)},
        {
            "editor": ["unedited", "rome"],
            "task": ["text"],
            "step": step,
            "fact": ["a", "b", "c"],
            "role": ("fact", ["contradicted", "contradicted", "control"]),
            "category": ["true", "edited", "related", "other"],
        },
    )


@pytest.fixture
def figures(
    request: pytest.FixtureRequest, two_readings: tuple[xr.Dataset, xr.Dataset]
) -> dict[str, Callable[..., Figure]]:
    """Every public figure with an example of what it draws, by name: it takes the figure's options."""

    def of(name: str, fixture: str, **more: object) -> Callable[..., Figure]:
        return lambda **options: getattr(draw, name)(request.getfixturevalue(fixture), **more, **options)

    two_states = request.getfixturevalue("depth_reading").isel(state=[1, 2])
    intervened = request.getfixturevalue("intervened")
    of_editors = request.getfixturevalue("depth_reading")
    of_editors = of_editors.assign_coords(state=["before", *of_editors.state.values[1:]])
    calibrated = request.getfixturevalue("calibration_tables")
    return {
        "categories": of("categories", "retention_course"),
        "elasticity": of("elasticity", "elasticity_table"),
        "association": of("association", "reactance_table", x="prior", y="margin"),
        "calibration": lambda **options: draw.calibration(*calibrated, "geometric_standing", **options),
        "checkpoints": of("checkpoints", "checkpoint_reading"),
        "contrast": lambda **options: draw.contrast(*request.getfixturevalue("contrast_results"), **options),
        "cosine": of("cosine", "cosine_reading", facts=IDS[:2]),
        "delta": lambda **options: draw.delta(*two_readings, **options),
        "depth": lambda **options: draw.depth(two_states, **options),
        "dose": of("dose", "dose_result"),
        "drift": of("drift", "drift_reading"),
        "editors": lambda **options: draw.editors(*request.getfixturevalue("editors_results"), **options),
        "editors_depth": lambda **options: draw.editors_depth(of_editors, **options),
        "editors_sequence": of("editors_sequence", "editors_sequence"),
        "erase": of("erase", "erase_result"),
        "heatmap": lambda **options: draw.heatmap(two_states, **options),
        "interventions": lambda **options: draw.interventions(two_readings[1], *intervened, **options),
        "lens_quality": of("lens_quality", "lens_report"),
        "renewal": of("renewal", "renewal_result"),
        "reacquisition": lambda **options: draw.reacquisition(*request.getfixturevalue("reacquired"), **options),
        "models": lambda **options: draw.models(dict(zip("xy", two_readings, strict=True)), **options),
        "precision": of("precision", "precisions"),
        "retention": of("retention", "retention_rates"),
        "sweep": of("sweep", "sweep_gathered"),
        "trace": of("trace", "course"),
        "trajectory": of("trajectory", "trajectory_reading"),
        "waterfall": of("waterfall", "attribution", top=8),
        "weights": of("weights", "weight_reading"),
    }
