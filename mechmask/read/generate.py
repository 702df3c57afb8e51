"""``generate``: what the model says of its own accord, greedily, as far as the longer of old and new value goes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr

from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.models.model import Model
from mechmask.models.routes import Contest, encode_contests


def generate(
    model: Model,
    facts: FactSet | Sequence[Fact],
    *,
    n_tokens: int | None = None,
    reading: xr.Dataset | None = None,
    batch_size: int = 64,
) -> xr.DataArray:
    """Greedy continuation of every fact's prompt.

    Args:
        model: the model, as it is now: an applied change counts.
        facts: the facts.
        n_tokens: how many tokens; as many as the longer of a fact's old and new value by default.
        reading: of the same facts by the same model, by the score ``sequence`` or ``mean``: a fact of which it found a
            value recalled is known to continue so, and is not generated again.
        batch_size: facts a forward pass.

    Returns:
        ``generation[fact]``: the text that follows the prompt, white space around it taken off.
    """
    said = _recalled(facts, reading) if reading is not None and n_tokens is None else {}
    rest = [fact for fact in facts if fact.id not in said]
    contests = [contest for contest in encode_contests(model.tokenizer, rest) if contest is not None]
    with model.inference():
        for start in range(0, len(contests), batch_size):
            said |= _greedy(model, contests[start : start + batch_size], n_tokens)
    labels = [fact.id for fact in facts]
    return xr.DataArray([said[label] for label in labels], {"fact": labels}, "fact", name="generation")


def _recalled(facts: FactSet | Sequence[Fact], reading: xr.Dataset) -> dict[str, str]:
    """Facts that continue with one of their values, and which."""
    recalled = reading.recalled.sel(phrasing=0) if "phrasing" in reading.dims else reading.recalled
    found = {}
    for fact in facts:
        said = recalled.sel(fact=fact.id)
        routes = [str(route) for route in said.route.values if said.sel(route=route)]
        if routes:
            found[fact.id] = fact.values[routes[0]]
    return found


def _greedy(model: Model, contests: Sequence[Contest], n_tokens: int | None) -> dict[str, str]:
    wanted = [n_tokens or max(len(c.routes["old"]), len(c.routes["new"])) for c in contests]
    lengths = torch.tensor([len(contest.prompt) for contest in contests], device=model.device)
    ids = torch.zeros(len(contests), int(lengths.max()), dtype=torch.long, device=model.device)
    for row, contest in enumerate(contests):
        ids[row, : len(contest.prompt)] = torch.tensor(contest.prompt)
    mask = torch.arange(ids.shape[1], device=model.device) < lengths[:, None]
    output = model.anatomy.decoder(input_ids=ids, attention_mask=mask.long(), use_cache=True)
    last = output.last_hidden_state[torch.arange(len(contests)), (lengths - 1).to(output.last_hidden_state.device)]
    tokens = []
    for step in range(max(wanted)):
        token = model.anatomy.unembedding(last).argmax(-1).to(model.device)
        tokens.append(token)
        if step + 1 == max(wanted):
            break
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        position = (lengths + step)[:, None]
        output = model.anatomy.decoder(
            input_ids=token[:, None],
            attention_mask=mask.long(),
            position_ids=position,
            past_key_values=output.past_key_values,
            use_cache=True,
        )
        last = output.last_hidden_state[:, -1]
    rows = torch.stack(tokens, dim=1).tolist()
    return {
        c.fact_id: str(model.tokenizer.decode(row[:n])).strip()
        for c, row, n in zip(contests, rows, wanted, strict=True)
    }
