"""One small study, run once, for the tests that look at what a study leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mechmask.facts.fact_set import FactSet
    from mechmask.models.model import Model
    from mechmask.study.config import StudyConfig
    from mechmask.study.protocols.mask import MaskStudy
    from mechmask.study.results import StudyResults


@pytest.fixture(scope="session")
def small_facts() -> FactSet:
    """Two facts contradicted, two controls, eight never; four phrasings each."""
    from mechmask import synthetic_facts

    return synthetic_facts(4, n_never=8, distractors=3, seed=5)


@pytest.fixture(scope="session")
def small_config() -> StudyConfig:
    from mechmask import FinetuneConfig, FTLConfig, StudyConfig

    taught = FinetuneConfig(steps=4, lr=1e-2, rank=4)
    return StudyConfig(
        install=taught, contradict=taught, checkpoint_every=2, edits=(FTLConfig(layer=1, clamp=0.05, steps=3),)
    )


@pytest.fixture
def llama(tiny) -> Model:
    return tiny("llama")


@pytest.fixture(scope="session")
def studied(tiny, small_facts, small_config) -> MaskStudy:
    """The study that ``done`` is the outcome of."""
    from mechmask import MaskStudy

    return MaskStudy(tiny("llama"), small_facts, small_config)


@pytest.fixture(scope="session")
def done(studied, tmp_path_factory) -> tuple[StudyResults, Path]:
    """The results of a study, and its directory. Nothing in it may be changed."""
    directory = tmp_path_factory.mktemp("study") / "run"
    return studied.run(directory), directory


@pytest.fixture(scope="session")
def contents():
    """Path and bytes of every file under a directory but the lock."""
    return lambda root: {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file() and p.name != ".lock"
    }


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Figures are empty files: what is drawn is another test's question."""
    monkeypatch.setattr("mechmask.draw.save_figure", lambda _, path: Path(path).touch())
