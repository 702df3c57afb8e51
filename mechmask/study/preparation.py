"""What a protocol refuses before it works for nothing: too few facts, values without tokens, nothing that is masked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import xarray as xr

from mechmask.errors import StudyError
from mechmask.facts.fact import Fact, Role
from mechmask.facts.fact_set import FactSet
from mechmask.measure.comparable import comparable_facts
from mechmask.models.model import Model
from mechmask.models.routes import encode_contests
from mechmask.write.finetune_config import FinetuneConfig
from mechmask.write.trained import trained_by

_SHAPE = {"method", "rank", "alpha", "projections", "layers"}


def require_roles(facts: FactSet, what: str, fewest: Mapping[Role, int]) -> None:
    """Refuse facts of which too few have a role.

    Args:
        facts: the facts.
        what: the protocol, which opens the sentence.
        fewest: how many facts of each role it needs.

    Raises:
        StudyError: naming the roles that are needed and how many there are.
    """
    if all(len(facts.in_role(role)) >= n for role, n in fewest.items()):
        return
    needed = ", ".join(f"{n} {role}" for role, n in fewest.items())
    there = ", ".join(f"{len(facts.in_role(role))} {role}" for role in fewest)
    raise StudyError(f"{what} needs at least {needed} facts; there are {there}. Give more facts these roles.")


def require_routes(model: Model, facts: Iterable[Fact]) -> None:
    """Refuse facts whose values have no tokens of their own, under any phrasing.

    Args:
        model: whose tokenizer makes the tokens.
        facts: the facts.

    Raises:
        RouteError: listing every fact that is refused.
    """
    facts = list(facts)
    for phrasing in range(max(len(fact.phrasings) for fact in facts)):
        encode_contests(model.tokenizer, facts, phrasing)


def require_alike(model: Model, reference: Model, facts: FactSet) -> None:
    """Refuse a reference model that is the model itself, or that does not read the same tokens in the same numbers.

    Args:
        model: the model that is studied.
        reference: a model that never held the facts.
        facts: which both read.

    Raises:
        StudyError: naming the first difference.
        RouteError: if a value has no tokens of its own in one of them.
    """
    if reference.fingerprint == model.fingerprint:
        raise StudyError(
            f"The reference has the very weights of {model.name}, which holds the facts. Give one that never did."
        )
    if reference.dtype != model.dtype:
        raise StudyError(
            f"The reference has weights in {reference.dtype} and {model.name} in {model.dtype}, which alone would part "
            "their readings. Load both alike."
        )
    for phrasing in range(max(len(fact.phrasings) for fact in facts)):
        ours, theirs = (encode_contests(one.tokenizer, facts, phrasing) for one in (model, reference))
        other = next((fact.id for fact, a, b in zip(facts, ours, theirs, strict=True) if a != b), None)
        if other is not None:
            raise StudyError(
                f"The reference reads the fact {other!r} as other tokens than {model.name} does. Give a model with the "
                "same tokenizer."
            )


def require_one_shape(model: Model, configs: Mapping[str, FinetuneConfig | None]) -> None:
    """Refuse trainings of which one continues what another trained, and that do not train the same.

    Args:
        model: what is trained.
        configs: the trainings, by name, in their order; ``None`` for one that is left out.

    Raises:
        StudyError: naming the first that differs from the first one.
        ChangeError: if one names a block that the model lacks, or weights that cannot be trained as it says.
    """
    there = {name: config for name, config in configs.items() if config is not None}
    for config in there.values():
        trained_by(model, config)
    (first_name, first), *others = there.items()
    for name, config in others:
        shapes = [one.model_dump(include=_SHAPE) for one in (first, config)]
        if shapes[0] != shapes[1]:
            raise StudyError(
                f"{name} continues what {first_name} trained, so method, rank, alpha, projections and layers have to "
                f"be the same: {first_name} has {shapes[0]}, {name} has {shapes[1]}. Make them equal."
            )


def require_comparable(before: xr.Dataset, masked: xr.Dataset) -> None:
    """Refuse to go on from what was not there, or is not masked.

    Args:
        before: output reading before the contradiction, over phrasings: ``logprob[fact, phrasing, route]`` in nats.
        masked: the same after it.

    Raises:
        StudyError: if fewer than two contradicted facts were known before and corrected.
    """
    facts = comparable_facts(before, masked)
    n = int(facts.compared.sum())
    if n < 2:
        raise StudyError(
            f"Of {facts.sizes['fact']} contradicted facts {int(facts.known.sum())} were recalled before, and on "
            f"{int(facts.took.sum())} the contradiction took, which leaves {n} to compare. Give install and contradict "
            "more steps or a higher learning rate."
        )
