"""Facts that a correction of what a model knows can be judged by; shared by the protocols that correct such facts."""

from __future__ import annotations

from mechmask.errors import StudyError
from mechmask.facts.fact_set import FactSet
from mechmask.models.model import Model
from mechmask.models.routes import encode_contests


def require_correctable(model: Model, facts: FactSet) -> None:
    """Refuse facts without one that is contradicted, one that is not, and one that was never known.

    Args:
        model: whose tokens the values have to be told apart in.
        facts: all that are read, in every phrasing.

    Raises:
        StudyError: if a role has no fact.
        RouteError: if a value cannot be told from the prompt or from its rival.
    """
    counts = {role: len(facts.in_role(role)) for role in ("contradicted", "control", "never")}
    if not all(counts.values()):
        shown = ", ".join(f"{n} {role}" for role, n in counts.items())
        raise StudyError(f"A correction needs facts of each role; there are {shown}. Draw them with assign_roles.")
    for phrasing in range(max(len(fact.phrasings) for fact in facts)):
        encode_contests(model.tokenizer, facts, phrasing)
