"""The contests of a reading: every fact under its prompt, or under each of its phrasings, numbered along one axis.

A reading fills arrays ``[contest, ...]`` batch by batch; the set folds that axis into ``[fact, ...]`` or ``[fact,
phrasing, ...]``. A fact that lacks a phrasing has no contest there: what is folded is missing in that place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from mechmask.errors import ReadingError
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.models.context import require_context
from mechmask.models.forward import may_pack
from mechmask.models.model import Model
from mechmask.models.packing import ROW_TOKENS, Batch, batches, n_read
from mechmask.models.routes import Contest, encode_contests
from mechmask.progress import progress_bar
from mechmask.read.scoring.labels import fact_coordinates, require_choice

Facts: TypeAlias = FactSet | Sequence[Fact | Mapping[str, Any]] | pd.DataFrame | str | Path
Phrasings = Literal["prompt", "all"]

_MISSING = {"f": np.nan, "i": -1, "b": False, "U": ""}  # by the kind of an array's type


@dataclass(frozen=True)
class ContestSet:
    """The contests that there are, in the order in which a reading numbers them.

    Attributes:
        facts: the facts.
        contests: their contests, phrasing by phrasing, each in the order of the facts.
        places: the fact and the phrasing of each contest, by number.
        n_phrasings: length of the dimension ``phrasing``; ``None`` where only prompts are read and there is none.
    """

    facts: FactSet
    contests: tuple[Contest, ...]
    places: tuple[tuple[int, int], ...]
    n_phrasings: int | None

    @classmethod
    def of(cls, model: Model, facts: Facts, phrasings: Phrasings = "prompt", *, aliases: bool = False) -> ContestSet:
        """The contests of some facts.

        Args:
            model: whose tokenizer makes them.
            facts: facts in any form that ``as_fact_set`` takes.
            phrasings: ``prompt``, or ``all`` for the prompt and its paraphrases.
            aliases: whether other spellings of a value are routes too.

        Raises:
            FactError: listing every problem of the facts.
            RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
            ReadingError: if ``phrasings`` is not known or there is no fact.
        """
        require_choice("phrasings", phrasings, get_args(Phrasings))
        checked = facts_of(facts)
        n = max(len(fact.phrasings) for fact in checked) if phrasings == "all" else None
        encoded = [
            (contest, (fact, phrasing))
            for phrasing in range(n or 1)
            for fact, contest in enumerate(encode_contests(model.tokenizer, checked, phrasing, aliases=aliases))
            if contest is not None
        ]
        contests, places = zip(*encoded, strict=True)
        return cls(checked, contests, places, n)

    def __len__(self) -> int:
        return len(self.contests)

    def __iter__(self) -> Iterator[Contest]:
        return iter(self.contests)

    def __getitem__(self, number: int) -> Contest:
        return self.contests[number]

    def part(self, facts: Sequence[int]) -> ContestSet:
        """The contests of some of the facts, by number, in the order given."""
        new_number = {fact: number for number, fact in enumerate(facts)}
        chosen = [
            (contest, (new_number[fact], phrasing))
            for contest, (fact, phrasing) in zip(self.contests, self.places, strict=True)
            if fact in new_number
        ]
        contests, places = zip(*sorted(chosen, key=lambda entry: entry[1][::-1]), strict=True)
        return ContestSet(FactSet([self.facts[fact] for fact in facts]), contests, places, self.n_phrasings)

    @property
    def dims(self) -> tuple[str, ...]:
        """The dimensions that the contests fold into."""
        return ("fact",) if self.n_phrasings is None else ("fact", "phrasing")

    @property
    def coordinates(self) -> dict[str, Any]:
        """Coordinates of those dimensions."""
        numbers = {} if self.n_phrasings is None else {"phrasing": list(range(self.n_phrasings))}
        return {**fact_coordinates(self.facts), **numbers}

    def batches(self, model: Model, score: str, batch_size: int, *, apart: bool = False) -> Iterator[Batch]:
        """The contests in batches, packed where the model allows it, and one by one where it has to be so.

        Args:
            model: what will run them.
            score: what is asked of each contest.
            batch_size: contests in one forward pass; affects memory only.
            apart: whether each contest has a row of its own.

        Raises:
            RouteError: listing every contest that does not fit into the model's context.
        """
        require_context(model, self.contests, score)
        alone = model.is_read_alone
        batch_size = 1 if alone else batch_size
        made = batches(
            self.contests,
            score=score,
            batch_size=batch_size,
            pack=apart or may_pack(model, self.contests),
            row_tokens=0 if apart else ROW_TOKENS,
            alone=alone,
            threshold=model.rope_threshold,
        )
        with progress_bar("reading", math.ceil(len(self.contests) / batch_size)) as bar:
            for batch in made:
                yield batch
                bar()

    def lengths(self, score: str) -> Int[np.ndarray, " contest"]:
        """How many tokens the model reads for the longest route of each contest, the prompt included."""
        return np.array([max(n_read(contest, score).values()) for contest in self.contests])

    def rivals(self, batch: Batch) -> Int[Tensor, "contest 2"]:
        """The tokens of old and new at which each contest of a batch diverges, in the order of ``batch.divergence``."""
        contests = [self.contests[number] for number in batch.divergence]
        return torch.tensor([[c.routes[route][c.n_common] for route in ("old", "new")] for c in contests])

    def fold(self, values: np.ndarray) -> np.ndarray:
        """``[contest, ...]`` as ``[fact, ...]`` or ``[fact, phrasing, ...]``.

        Where a fact has no such phrasing: NaN among numbers, -1 among integers, ``False``, or empty text.
        """
        shape = (len(self.facts), self.n_phrasings or 1, *values.shape[1:])
        folded = np.full(shape, _MISSING[values.dtype.kind], values.dtype)
        folded[self._numbers] = values
        return folded[:, 0] if self.n_phrasings is None else folded

    def dataset(self, variables: Mapping[str, tuple[Any, ...]], **coordinates: Any) -> xr.Dataset:
        """Arrays by contest as a dataset by fact; ``attrs["template"]`` says if facts are asked in a chat template.

        Args:
            variables: by name, the dimensions behind ``contest``, an array ``[contest, ...]`` and, where it has some,
                its attributes.
            coordinates: of the dimensions behind ``contest``.
        """
        folded = {
            name: ((*self.dims, *dims), self.fold(values), *attrs) for name, (dims, values, *attrs) in variables.items()
        }
        how = {} if self.template is None else {"template": self.template}
        return xr.Dataset(folded, {**self.coordinates, **coordinates}, how)

    @property
    def template(self) -> str | None:
        """``chat`` where all facts are asked in the chat template, ``mixed`` where some are, ``None`` where none is."""
        conversations = sum(bool(fact.messages) for fact in self.facts)
        return None if not conversations else "chat" if conversations == len(self.facts) else "mixed"

    @cached_property
    def _numbers(self) -> tuple[np.ndarray, np.ndarray]:
        facts, phrasings = np.array(self.places).T
        return facts, phrasings


def facts_of(facts: Facts, *, distractors: bool = True) -> FactSet:
    """Facts in any form as a fact set.

    Args:
        facts: facts in any form that ``as_fact_set`` takes.
        distractors: whether their distractors are read too.

    Raises:
        FactError: listing every problem of the facts.
        ReadingError: if there is no fact.
    """
    if isinstance(facts, Sequence | pd.DataFrame) and not len(facts):
        raise ReadingError("There is no fact to read. Give at least one.")
    checked = as_fact_set(facts)
    if distractors:
        return checked
    return FactSet([fact.model_copy(update={"distractors": ()}) for fact in checked])
