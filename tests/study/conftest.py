"""One small study, run once, for the tests that look at what a study leaves behind."""

from __future__ import annotations

import re
import subprocess
import sys
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


WRITE_PAGE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in "torch transformers peft transformer_lens nnsight tuned_lens jinja2".split():
            raise ImportError(f"{name} is refused")
sys.meta_path.insert(0, Refuse())
from mechmask.cli import main
sys.argv = ["mechmask", "report", sys.argv[1], "--out", sys.argv[2]]
main()
"""


@pytest.fixture(scope="session")
def page_file(done, tmp_path_factory) -> Path:
    """The page of the small study, written by the command in a process in which torch cannot be imported."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    command = [sys.executable, "-c", WRITE_PAGE, str(done[1]), str(path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert str(path) in finished.stdout and len(finished.stdout.splitlines()) == 1
    return path


@pytest.fixture(scope="session")
def shows_everything():
    """``shows_everything(results, directory)``: the page, once its sentences, results and facts are found."""
    from mechmask.draw.page.content import FactList, Plate, Sheet

    # behind what is shown: readings that others are made from, and tables that the table of editors takes
    behind = {"readings", "statistics", "matched", "driven_on", "answers", "generations", "cost", "course"}

    def check(results, directory: Path):
        from mechmask.study.pages.exhibits import EXHIBITS

        document = results.page()
        blocks = [block for section in document.sections for block in section.blocks]
        for block in blocks:
            if isinstance(block, Plate | Sheet):
                said = block.sentence
                assert re.search(r"\bn\b|\d+ (facts|draws|claims|results)", said), f"without n: {said}"
                assert re.search(r"interval|\[|none of|at 90%|holds|failed", said), f"without interval: {said}"
                assert not re.search(r"\bnan\b|<|_", said), said
        (facts,) = [block for block in blocks if isinstance(block, FactList)]
        texts = {(row.role, row.prompt, row.old, row.new) for row in facts.rows}
        parts = getattr(results, "parts", {"": results}).values()
        for study in (study for part in parts for study in getattr(part, "studies", {"": part}).values()):
            assert {(fact.role, fact.prompt, fact.old, fact.new) for fact in study.facts} <= texts
            named = {need for one in EXHIBITS.get(study.protocol, ()) for need in one.needs}
            there = {path.name for path in (study.directory / "results").iterdir()}
            missing = {f"results/{name}" for name in there - behind} - named
            assert not missing or study.protocol not in EXHIBITS or study.protocol == "calibrate", missing
        assert any(isinstance(block, Plate | Sheet) for block in blocks)
        return document

    return check
