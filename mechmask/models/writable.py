"""Whether the weights of a model can be written to and trained: numbers, on their devices."""

from __future__ import annotations

from mechmask.models.model import Model
from mechmask.models.offloaded import require_on_module
from mechmask.models.quantised import require_numbers


def require_writable(model: Model, what: str) -> None:
    """Refuse what writes weights, or differentiates through them, where they are codes or offloaded.

    Args:
        model: the model.
        what: what is asked for, such as "Fine-tuning".

    Raises:
        WeightsError: naming the first layer that stands in the way, and what to do.
    """
    require_numbers(model.module, what, model.name)
    require_on_module(model.module, what, model.name)
