"""The contests of a study to be looked at one by one: pick a fact, move through the layers."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mechmask.draw.page.content import Explorer, Paragraph, Section

_MOST_NUMBERS = 300_000  # of a page that is to open at once


def explorer_section(depth: xr.Dataset, level: int = 2) -> Section:
    """A view of every contest after the prompt; of a reading that is too large for a page, how it is shown elsewhere.

    Args:
        depth: ``logprob[state, fact, phrasing, route, layer]`` in nats.
        level: of the heading.
    """
    prompt = depth.sel(phrasing=0, drop=True) if "phrasing" in depth.dims else depth
    n = prompt.sizes["fact"]
    if np.prod(prompt.logprob.shape) > _MOST_NUMBERS:
        prompt = prompt.sel(route=[route for route in ("old", "new") if route in prompt.route.values])
    if np.prod(prompt.logprob.shape) > _MOST_NUMBERS:
        said = (
            f"The contests of {n} facts are more than a page can hold. In a notebook "
            "mechmask.draw.interactive.contest_view(study.depth.sel(phrasing=0)) shows them."
        )
        return Section("Contest by contest", [Paragraph(said)], level)
    said = (
        f"Log-probabilities after the prompt of one fact at one layer, and the margins of all n = {n} facts by layer: "
        "single readings, which have no interval. Pick a fact and a state, and move through the layers."
    )
    return Section("Contest by contest", [Explorer(said, prompt)], level)
