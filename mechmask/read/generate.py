"""``generate``: what the model says of its own accord, greedily, as far as the longest of old and new value goes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr

from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.models.model import Model
from mechmask.models.routes import encode_contests


def generate(model: Model, facts: FactSet | Sequence[Fact], *, n_tokens: int | None = None, batch_size: int = 32) -> xr.DataArray:
    """Greedy continuation of every fact's prompt.

    Args:
        model: the model, as it is now: an applied change counts.
        facts: the facts.
        n_tokens: how many tokens; as many as the longer of a fact's old and new value by default.
        batch_size: facts a forward pass.

    Returns:
        ``generation[fact]``: the text that follows the prompt, white space around it taken off.
    """
    contests = [contest for contest in encode_contests(model.tokenizer, facts) if contest is not None]
    wanted = [n_tokens or max(len(c.routes["old"]), len(c.routes["new"])) for c in contests]
    rows = [list(contest.prompt) for contest in contests]
    with model.inference():
        for step in range(max(wanted)):
            active = sorted((i for i in range(len(rows)) if step < wanted[i]), key=lambda i: len(rows[i]))
            for start in range(0, len(active), batch_size):
                _extend(model, rows, active[start : start + batch_size])
    said = [model.tokenizer.decode(row[len(c.prompt) :]).strip() for row, c in zip(rows, contests, strict=True)]
    return xr.DataArray(said, {"fact": [fact.id for fact in facts]}, "fact", name="generation")


def _extend(model: Model, rows: list[list[int]], chosen: list[int]) -> None:
    """Append the most probable next token to the chosen rows."""
    lengths = torch.tensor([len(rows[i]) for i in chosen])
    ids = torch.zeros(len(chosen), int(lengths.max()), dtype=torch.long)
    for position, i in enumerate(chosen):
        ids[position, : len(rows[i])] = torch.tensor(rows[i])
    hidden = model.anatomy.decoder(input_ids=ids.to(model.device), use_cache=False).last_hidden_state
    last = hidden[torch.arange(len(chosen)), (lengths - 1).to(hidden.device)]
    for i, token in zip(chosen, model.anatomy.unembedding(last).argmax(-1).tolist(), strict=True):
        rows[i].append(token)
