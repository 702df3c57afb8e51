"""``generate``: what the model itself says after a prompt, greedily, as far as the longer of old and new value goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import xarray as xr

from mechmask.errors import ReadingError
from mechmask.facts.fact_set import FactSet
from mechmask.models.decoding import greedy
from mechmask.models.model import Model
from mechmask.models.routes import Contest
from mechmask.models.states import Variant, active, unchanged
from mechmask.read.scoring.contests import ContestSet, Facts
from mechmask.read.scoring.labels import storable


def generate(
    model: Model | Variant,
    facts: Facts,
    *,
    n_tokens: int | None = None,
    reading: xr.Dataset | None = None,
    batch_size: int = 64,
) -> xr.DataArray:
    """Greedy continuation of every fact's prompt.

    Args:
        model: a model or a state (``change.on(model)``).
        facts: a fact set, facts, mappings with their fields, a pandas table, or the path of a fact file.
        n_tokens: how many tokens; as many as the longer of a fact's old and new value by default.
        reading: of the same facts by the same model, by the score ``sequence`` or ``mean``: what it says of the
            continuation is not generated again.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        ``generation[fact]``: the text that follows the prompt without white space around it; what no file can hold
        (NUL, lone surrogates) is escaped.

    Raises:
        FactError: listing every problem of the facts in one message.
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ReadingError: if ``reading`` is by the score ``divergence``, which reads one token of a value only, or lacks a
            fact, or if the tokens do not fit into the model's context.
        ChangeError: if a state's change was made on another model.
    """
    with active(model) as now:
        contests = ContestSet.of(now, facts)
        known = _known(contests, reading) if reading is not None else [[] for _ in contests]
        prompts = [
            _Prompt(number, contest.prompt, known[number], n_tokens or longer_value(contest))
            for number, contest in enumerate(contests)
        ]
        continued = {prompt.number: prompt.known[: prompt.wanted] for prompt in prompts}
        unfinished = [prompt for prompt in prompts if prompt.missing]
        _require_room(now, contests, unfinished)
        with now.inference():
            for start in range(0, len(unfinished), batch_size):
                some = unfinished[start : start + batch_size]
                more = greedy(now, [prompt.begun for prompt in some], [prompt.missing for prompt in some])
                continued |= {p.number: [*p.known, *tokens] for p, tokens in zip(some, more, strict=True)}
    return as_text(model, contests.facts, [continued[number] for number in range(len(contests))])


def as_text(model: Model | Variant, facts: FactSet, tokens: Sequence[Sequence[int]]) -> xr.DataArray:
    """``generation[fact]`` of what follows each fact's prompt."""
    texts = [storable(str(unchanged(model).tokenizer.decode(list(row))).strip()) for row in tokens]
    return xr.DataArray(texts, {"fact": list(facts.ids)}, "fact", name="generation")


def longer_value(contest: Contest) -> int:
    """How many tokens the longer of old and new value has."""
    return max(len(contest.routes["old"]), len(contest.routes["new"]))


@dataclass(frozen=True)
class _Prompt:
    """A prompt, the tokens that are known to follow it greedily, and how many are wanted."""

    number: int
    ids: tuple[int, ...]
    known: list[int]
    wanted: int

    @property
    def begun(self) -> list[int]:
        """The tokens from which decoding goes on."""
        return [*self.ids, *self.known]

    @property
    def missing(self) -> int:
        """How many tokens are to be decoded."""
        return max(0, self.wanted - len(self.known))


def _require_room(model: Model, contests: ContestSet, prompts: Sequence[_Prompt]) -> None:
    """Refuse to decode beyond the model's context."""
    limit = model.max_tokens
    for prompt in prompts:
        if limit is not None and len(prompt.ids) + prompt.wanted - 1 > limit:
            raise ReadingError(
                f"The prompt of fact {contests[prompt.number].fact_id!r} has {len(prompt.ids)} tokens and {model.name} "
                f"reads {limit} at most, so {prompt.wanted} more cannot follow it. Ask for fewer."
            )


def _known(contests: ContestSet, reading: xr.Dataset) -> list[list[int]]:
    """The greedy tokens that a reading met on its routes, by contest."""
    if "greedy" not in reading:
        raise ReadingError("A divergence reading knows one token of a value. Give one by the score sequence or mean.")
    how = reading.attrs.get("template")
    if how != contests.template:
        raise ReadingError(
            f"The facts are asked in the template {contests.template or 'plain'}, the reading is by {how or 'plain'}: "
            "other tokens followed there. Give a reading of the same facts, asked alike."
        )
    known = reading.greedy.sel(phrasing=0) if "phrasing" in reading.dims else reading.greedy
    absent = [fact.id for fact in contests.facts if fact.id not in known.indexes["fact"]]
    if absent:
        raise ReadingError(f"The reading does not hold fact {absent[0]!r}. Give one of the same facts.")
    rows = known.sel(fact=list(contests.facts.ids)).values.tolist()
    return [[token for token in row if token >= 0] for row in rows]
