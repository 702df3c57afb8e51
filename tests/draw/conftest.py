"""Small readings with known numbers, for figures."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from mechmask.measure.contest import ceiling, margin, standing
from mechmask.measure.erase import erase_index

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
