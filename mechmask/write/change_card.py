"""What a change says of itself on the Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mechmask.hub_card import Card

if TYPE_CHECKING:
    from mechmask.write.change import Change


def card_of(change: Change, repo_id: str, base_model: str | None, license: str | None) -> Card:
    """The card of a change.

    Args:
        change: the change.
        repo_id: where it is pushed to.
        base_model: id on the Hub, or name, of the model that it was made on.
        license: of the weights.

    Raises:
        ChangeError: if the change is not bound to a model yet.
    """
    blocks = ", ".join(map(str, change.blocks)) or "none: outside the blocks"
    base = base_model or "the model of this fingerprint"
    return Card(
        kind="change",
        title=f"{repo_id.partition('/')[2]}: a change of a language model ({change.method})",
        about=(
            f"A {change.kind} change that {change.method} made, as mechmask keeps it: it goes on the model that it was "
            "made on and on no other, and comes off again bit for bit."
        ),
        code=(
            "import mechmask as mm\n\n"
            f"model = mm.load_model({base!r})\n"
            f"change = mm.load_change({repo_id!r}, model)  # revision= takes a branch, tag or commit\n"
            "with change.applied(model):\n"
            "    ..."
        ),
        made_from={"base model": base, "fingerprint of the base": change.base, "method": change.method},
        numbers=[("", ""), ("blocks that change", blocks), *_numbers(change)],
        settings={name: value for name, value in change.details.items() if name != "facts"},
        tags=["model-editing", change.method],
        license=license,
        base_model=base_model,
        more={"mechmask": {"kind": "change", "base_fingerprint": change.base, "method": change.method}},
    )


def _numbers(change: Change) -> list[tuple[str, object]]:
    """The numbers that the change remembers of its making; of an edit, on how many facts it took."""
    rows: list[tuple[str, object]] = [
        (name, value)
        for name, value in change.details.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    facts = change.details.get("facts")
    if isinstance(facts, list) and facts and all(isinstance(fact, dict) and "took" in fact for fact in facts):
        rows.append(("facts on which it took", f"{sum(bool(fact['took']) for fact in facts)} of {len(facts)}"))
    return rows
