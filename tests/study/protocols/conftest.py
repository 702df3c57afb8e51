"""A tiny model that holds facts in its own weights, as a pretrained one does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mechmask.facts.fact_set import FactSet
    from mechmask.models.model import Model


@pytest.fixture(scope="session")
def knowing(tiny, tiny_module, tokenizer) -> Callable[[FactSet], Model]:
    """``knowing(facts)``: a llama whose weights say the old values of all facts but the never-known ones."""
    import mechmask as mm

    def make(facts: FactSet) -> Model:
        model = tiny("llama")
        change = mm.finetune(model, facts.install_examples(), mm.FinetuneConfig(method="full", lr=5e-3, steps=80))
        module = tiny_module("llama")
        with change.applied(model):
            module.load_state_dict(copy.deepcopy(model.module.state_dict()))
        return mm.load_model(module, tokenizer=copy.deepcopy(tokenizer))

    return make
