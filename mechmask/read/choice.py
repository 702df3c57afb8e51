"""``read_choice``: which option a model takes in multiple choice, by its letter and by its text.

A small model follows letters badly, so the option's own text after the same question is scored beside the letter.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from mechmask.facts.choice import by_letter, by_text
from mechmask.facts.fact_set import FactSet
from mechmask.models.model import Model
from mechmask.models.states import Variant
from mechmask.read.logits import read_logits
from mechmask.read.scoring.contests import Facts, facts_of

FORMS = ("letter", "text")


def read_choice(model: Model | Variant, facts: Facts, *, batch_size: int = 32) -> xr.Dataset:
    """The options of every fact's questions (``mechmask.facts.choice``).

    Args:
        model: a model or a state (``change.on(model)``).
        facts: facts in any form that a reading takes.
        batch_size: questions per forward pass; affects memory only.

    Returns:
        ``logprob[fact, form, rotation, option]`` in nats: of each option's letter, and of its text summed over tokens,
        after the same question in every order of the options; NaN where a fact has fewer options. ``score[fact, form,
        option]``, the mean over orders, in which a preference for a letter is the same for all options.

    Raises:
        FactError: listing every problem of the facts.
        RouteError: if options cannot be told apart as tokens.
        ReadingError: if the reading disagrees with the model's own output.
    """
    chosen = facts_of(facts)
    lettered = {fact.id: by_letter(fact) for fact in chosen}
    letters = read_logits(model, FactSet(one for of in lettered.values() for one in of), batch_size=batch_size)
    texts = read_logits(model, FactSet(map(by_text, chosen)), phrasings="all", batch_size=batch_size)
    options = texts.route.values.tolist()
    values = np.full((len(chosen), len(FORMS), len(options), len(options)), np.nan)
    for row, of in enumerate(lettered.values()):
        n = len(of)
        values[row, 0, :n, :n] = letters.logprob.sel(fact=[one.id for one in of], route=options[:n]).values
        values[row, 1, :n, :n] = texts.logprob.isel(fact=row, phrasing=slice(n)).sel(route=options[:n]).values
    dims = ("fact", "form", "rotation", "option")
    coordinates = {"fact": list(lettered), "form": list(FORMS), "option": options}
    logprob = xr.DataArray(values, coordinates, dims, attrs={"units": "nats"})
    role = ("fact", [fact.role for fact in chosen])
    return xr.Dataset({"logprob": logprob, "score": logprob.mean("rotation")}, {"role": role}, letters.attrs)
