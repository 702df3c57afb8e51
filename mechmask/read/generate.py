"""``generate``: what the model says of its own accord, greedily, as far as the longer of old and new value goes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr
from torch.nn import functional as F  # noqa: N812

from mechmask.errors import ReadingError
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
            value of that length recalled is known to continue so, and is not generated again.
        batch_size: facts a forward pass.

    Returns:
        ``generation[fact]``: the text that follows the prompt, white space around it taken off.

    Raises:
        ReadingError: if ``reading`` is by the score ``divergence``, which reads one token of a value only.
    """
    contests = [contest for contest in encode_contests(model.tokenizer, facts) if contest is not None]
    said = _recalled(facts, contests, reading) if reading is not None and n_tokens is None else {}
    rest = [contest for contest in contests if contest.fact_id not in said]
    with model.inference():
        for start in range(0, len(rest), batch_size):
            said |= _greedy(model, rest[start : start + batch_size], n_tokens)
    labels = [fact.id for fact in facts]
    return xr.DataArray([said[label] for label in labels], {"fact": labels}, "fact", name="generation")


def _wanted(contest: Contest) -> int:
    return max(len(contest.routes["old"]), len(contest.routes["new"]))


def _recalled(facts: FactSet | Sequence[Fact], contests: Sequence[Contest], reading: xr.Dataset) -> dict[str, str]:
    """Facts that continue with one of their values, as far as would be generated, and which."""
    if reading.attrs.get("score") == "divergence":
        raise ReadingError("A divergence reading knows one token of a value. Give one by the score sequence or mean.")
    recalled = reading.recalled.sel(phrasing=0) if "phrasing" in reading.dims else reading.recalled
    found = {}
    for fact, contest in zip(facts, contests, strict=True):
        said = recalled.sel(fact=fact.id)
        for route, ids in contest.routes.items():
            if len(ids) == _wanted(contest) and said.sel(route=route):
                found[fact.id] = fact.values[route]
    return found


def _greedy(model: Model, contests: Sequence[Contest], n_tokens: int | None) -> dict[str, str]:
    """Greedy decoding with a cache; padded on the left, so that a window or a cache counts no pad in between."""
    wanted = [n_tokens or _wanted(contest) for contest in contests]
    length = max(len(contest.prompt) for contest in contests)
    pads = torch.tensor([length - len(contest.prompt) for contest in contests], device=model.device)[:, None]
    ids = torch.tensor([[0] * (length - len(c.prompt)) + list(c.prompt) for c in contests], device=model.device)
    columns = torch.arange(length, device=model.device)[None]
    mask = (columns >= pads).long()
    position = (columns - pads).clamp(min=0)
    cache, tokens = None, []
    for step in range(max(wanted)):
        output = model.anatomy.decoder(
            input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
        )
        ids = model.anatomy.unembedding(output.last_hidden_state[:, -1]).argmax(-1, keepdim=True).to(model.device)
        tokens.append(ids)
        cache, mask, position = output.past_key_values, F.pad(mask, (0, 1), value=1), length + step - pads
    rows = torch.cat(tokens, dim=1).tolist()
    return {
        c.fact_id: str(model.tokenizer.decode(row[:n])).strip()
        for c, row, n in zip(contests, rows, wanted, strict=True)
    }
