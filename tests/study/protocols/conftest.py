"""What protocols are tried on: a tiny model that holds facts in its own weights, and a run that is killed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


class Killed(BaseException):
    """The end of a process, as far as a test can play it in its own."""


@pytest.fixture
def killed_after_every(monkeypatch, undrawn) -> Callable[[int, Any, Path], int]:
    """``killed_after_every(n, study, directory)``: started again and again, killed where it would make its n-th step.

    Returns how often it was killed before it was whole.
    """
    from mechmask.study.run import Run

    make = Run._make

    def run(n: int, study: Any, directory: Path) -> int:
        left = [n]

        def dying(self, *arguments):
            if not left[0]:
                raise Killed
            left[0] -= 1
            return make(self, *arguments)

        monkeypatch.setattr(Run, "_make", dying)
        for n_killed in range(100):
            left[0] = n
            try:
                study.run(directory)
            except Killed:
                continue
            return n_killed
        raise AssertionError("it never ends")

    return run


@pytest.fixture
def same_results(contents) -> Callable[[Path, Path], None]:
    """``same_results(directory, whole)``: two runs hold the same bytes, but for figures and the record of exports."""

    def drawn(name: str) -> bool:
        return name.startswith("figures/") or name == "exports.json"

    def check(directory: Path, whole: Path) -> None:
        left, right = contents(directory), contents(whole)
        assert left.keys() == right.keys()
        assert not [name for name in right if left[name] != right[name] and not drawn(name)]

    return check
