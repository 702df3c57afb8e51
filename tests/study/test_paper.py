"""All experiments of the paper in one run: the same studies as alone, a report of every claim, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import mechmask as mm
from mechmask.errors import StudyError
from mechmask.study.config import read_toml
from mechmask.study.fact_tables import SyntheticTable, WorldTable
from mechmask.study.paper_parts import NOTHING_TO_INSTALL, PARTS
from mechmask.study.template import ready_papers
from mechmask.write.presets import model_presets

pytestmark = pytest.mark.usefixtures("all_undrawn")

SHORT = mm.FinetuneConfig(steps=2, lr=1e-2, rank=2)
INSTALL = mm.FinetuneConfig(steps=12, lr=2e-2, rank=2)
KNOWN = WorldTable(n_contradicted=3, n_control=1, n_never=6, relations=("capital",), min_margin=-100)
TAUGHT = SyntheticTable(n=4, n_contradicted=3, n_never=3, distractors=3)
NOTEBOOK = Path(__file__).parents[2] / "notebooks/04_the_paper_on_a_small_model.ipynb"


def config(**parts):
    every = {
        "correction": mm.CorrectionConfig(contradict=SHORT, checkpoint_every=1),
        "twins": mm.TwinsConfig(install=INSTALL, contradict=SHORT, checkpoint_every=1),
        "mask": mm.StudyConfig(install=INSTALL, contradict=SHORT, checkpoint_every=12, edits=()),
        "mask_known": {"contradict": SHORT, "checkpoint_every": 12, "edits": ()},
        "dose": mm.DoseConfig(contradict=SHORT, scales=(0.5,), checkpoint_every=2, text_tokens=64),
        "precision": mm.PrecisionConfig(contradict=SHORT, precisions=("nf4",)),
        "contrast": mm.ContrastConfig(
            trainings={"lora": SHORT}, edits=(mm.FTLConfig(layer=1, clamp=0.05, steps=2),), matched_margin=0.01
        ),
        "reactance": mm.ReactanceConfig(install=INSTALL, levels=(2, 12), contradict=SHORT),
        "reactance_known": {"contradict": SHORT},
        **dict.fromkeys(("reacquisition", "reacquisition_known", "renewal", "renewal_known")),
    }
    return mm.PaperConfig(draws=1, known=KNOWN, taught=TAUGHT, **{**every, **parts})


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    directory = tmp_path_factory.mktemp("paper") / "run"
    return mm.PaperStudy(tiny("llama"), config()).run(directory), directory


def test_each_part_is_the_study_that_it_would_be_alone(done, tiny, tmp_path):
    c = config()
    alone = mm.TwinStudy(tiny("llama"), c.taught.facts(), c.twins).run(tmp_path / "alone").erase
    np.testing.assert_array_equal(done[0].parts["twins"].erase.trace_after, alone.trace_after)


def test_the_report_says_every_claim_and_shows_what_was_run(done):
    report = (done[1] / "report.md").read_text(encoding="utf-8")
    table = done[0].summary()
    assert len(table) == len(done[0].findings)
    assert set(table["verdict"][table.index < 6]) <= {"agrees", "disagrees", "undecided"}
    assert set(table["verdict"][table.index == 6]) == {"not run"}
    figures = ("figures/twins_course.png", "figures/mask_depth.png")
    for text in ("Contradiction masks", "not run", "dose at which the group's trace is gone", "magnitude", *figures):
        assert text in report
    links = re.findall(r"\]\((.*?)\)", report)
    assert len(links) == len(PARTS) - 4 and all((done[1] / link).is_file() for link in links)
    assert (done[1] / "figures/correction_course.png").stat().st_size > 10_000
    assert f"Of {len(table)} claims" in done[0]._repr_html_() and done[0].to_latex() == mm.latex_table(table)
    assert f"{(table['verdict'] == 'not run').sum()} were not measured" in done[0].conclusion()


def test_the_notebook_reads_any_finished_run(done, tmp_path, monkeypatch):
    """It computes nothing: what it opens takes two hours to make, so that here it opens this run."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/paper").symlink_to(done[1])
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), names)
    assert len(names["table"]) == len(done[0].findings)


def test_parts_of_known_facts_install_nothing(done):
    parts = done[0].parts
    for name in ("mask_known", "reactance_known"):
        (study,) = parts[name]
        assert study.config["install"] is None and not (study.directory / "changes/install").exists()
        assert study.facts.contradicted.ids == next(iter(parts["correction"])).facts.contradicted.ids
    known = [one for one in done[0].findings if one.claim.part == "mask_known"]
    assert [one.claim.facts for one in known] == ["known"] * 3 and all(one.measured for one in known)
    with pytest.raises(StudyError, match="holds these facts already"):
        mm.PaperConfig(renewal_known=mm.RenewalConfig())
    assert all(getattr(mm.PaperConfig(), name).install is None for name in NOTHING_TO_INSTALL)


def test_it_is_taken_up_to_the_same_bits(done, tiny, contents):
    before = contents(done[1])
    mm.PaperStudy(tiny("llama"), config()).run(done[1])
    assert contents(done[1]) == before


def test_a_run_without_parts_is_refused(tiny):
    with pytest.raises(StudyError, match="No part is left"):
        mm.PaperStudy(tiny("llama"), config(**dict.fromkeys(PARTS, "none")))


def test_a_directory_that_holds_something_else_is_left_alone(tiny, tmp_path):
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(StudyError, match=r"holds no paper study \(there is report\.md\)"):
        mm.PaperStudy(tiny("llama"), config()).run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_parts_of_two_models_make_no_report(done, tiny, tmp_path):
    shutil.copytree(done[1], tmp_path / "run")
    shutil.rmtree(tmp_path / "run/correction")
    one = dict.fromkeys(PARTS) | {"correction": config().correction}
    with pytest.raises(StudyError, match="are of different models"):
        mm.PaperStudy(tiny("gpt2"), config(**one)).run(tmp_path / "run")


def test_a_directory_without_a_finished_part_is_refused(tmp_path):
    with pytest.raises(StudyError, match="no finished part"):
        mm.PaperResults(tmp_path)


READY = {
    "smollm2-135m": ("llama", "tokenizer"),
    "qwen2.5-1.5b": ("qwen2", "tokenizer"),
    "qwen2.5-3b": ("qwen2", "tokenizer"),
    "llama-3.2-3b": ("llama", "bos_tokenizer"),
    "gpt2-xl": ("gpt2", "tokenizer"),
}


@pytest.fixture
def kind(tiny_module, request):
    """``kind(name)``: a tiny random model of the architecture and the kind of tokenizer of a ready configuration."""

    def make(name):
        family, tokens = READY[name]
        return mm.load_model(tiny_module(family), tokenizer=request.getfixturevalue(tokens))

    return make


@pytest.mark.parametrize("name", READY)
def test_a_ready_configuration_is_one_that_its_kind_of_model_can_run(name, kind):
    """What every protocol refuses before work starts it refuses here."""
    written = read_toml(ready_papers()[name])
    study = written["study"]
    assert study.pop("protocol") == "paper" and set(PARTS) | {"draws", "known", "taught"} == set(study)
    study["known"]["min_margin"] = -1000.0
    editors = study["contrast"]["edits"]
    if name == "gpt2-xl":  # by presets, which are of the real model's size
        of = model_presets()[name]
        assert (of.n_layers, of.width) == (48, 1600) and set(editors) <= set(of.methods)
    assert [e if isinstance(e, str) else e["method"] for e in editors] == ["ft_l", "ft"]
    study["contrast"]["edits"] = EDITORS
    paper = mm.PaperStudy(kind(name), mm.PaperConfig.model_validate(study))
    assert paper.config.draws == 5 and list(paper.config.parts) == list(PARTS)


EDITORS = [{"method": "ft_l", "layer": 0, "clamp": 0.05, "steps": 3}, {"method": "ft", "layer": 0, "steps": 3}]
RUN = {
    "llama-3.2-3b": ("twins", "renewal"),
    "qwen2.5-1.5b": ("correction", "dose"),
    "qwen2.5-3b": ("mask_known", "precision", "reactance"),
    "gpt2-xl": ("contrast", "reacquisition"),
}


def shortened(table):
    """A table of a ready configuration with few steps that go far: what fits a tiny random model."""
    short = {key: shortened(value) if isinstance(value, dict) else value for key, value in table.items()}
    if "steps" in short:
        short |= {"steps": 14 if short["steps"] >= 36 else 9, "lr": 2e-3 if short.get("method") == "full" else 1e-2}
    return short | {key: 3 for key in ("checkpoint_every", "read_every") if key in short}


@pytest.mark.parametrize("name", RUN)
def test_a_ready_configuration_runs_on_its_kind_of_model_when_shortened(name, kind, tmp_path, undrawn):
    """Each part on one architecture at least, and none that only its draw, its counts and its steps make run."""
    study = shortened(read_toml(ready_papers()[name])["study"])
    study |= {part: None for part in PARTS if part not in RUN[name]}
    study |= {"draws": 1, "known": KNOWN, "taught": TAUGHT}
    if study["contrast"]:
        study["contrast"] |= {"edits": EDITORS, "matched_margin": 0.01}
    if study["dose"]:
        study["dose"]["text_tokens"] = 64
    del study["protocol"]
    done = mm.PaperStudy(kind(name), mm.PaperConfig.model_validate(study)).run(tmp_path / "run")
    assert set(done.parts) == set(RUN[name])
    assert (done.summary()["verdict"] != "not run").sum() > 3


def test_every_part_of_taught_facts_is_run_on_some_architecture():
    assert {part for parts in RUN.values() for part in parts} | {"mask"} >= {p for p in PARTS if "known" not in p}


def test_all_models_of_the_paper_have_a_ready_configuration():
    assert set(ready_papers()) == {"smollm2-135m", "qwen2.5-1.5b", "qwen2.5-3b", "llama-3.2-3b", "gpt2-xl"}


def test_its_page_holds_every_claim_and_every_part(done, shows_everything):
    from mechmask.draw.page.content import Sheet

    document = shows_everything(*done)
    headings = [section.heading for section in document.sections]
    assert [f"Part: {name.replace('_', ' ')}" in headings for name in done[0].parts] == [True] * len(done[0].parts)
    claims = [block for section in document.sections[:6] for block in section.blocks if isinstance(block, Sheet)]
    assert sum(len(sheet.table) for sheet in claims) == len(done[0].findings)
    assert mm.PaperConfig(**done[0].config) == config()
    assert type(mm.open_results(done[1])) is type(done[0])


def test_a_run_that_kept_no_configuration_has_a_page_that_says_so(done, tmp_path):
    root = shutil.copytree(done[1], tmp_path / "run")
    (root / "paper.json").unlink()
    section = mm.PaperResults(root).page().sections[-1]
    assert "was not recorded" in section.blocks[0].text
    (root / "paper.json").write_text("{}")
    with pytest.raises(StudyError, match=r"paper\.json is damaged"):
        _ = mm.PaperResults(root).config
