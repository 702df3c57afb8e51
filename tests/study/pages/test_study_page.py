"""The page of a study: everything that it found is on it with a sentence, its facts whole, and it needs no torch."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path

import pytest

import mechmask as mm
from mechmask.draw.page.content import FactList, Plate, Sheet
from mechmask.draw.page.document import document_html
from mechmask.errors import MechmaskError, StudyError
from mechmask.study.outcome import outcome

NEW = "日本 \u2028 👩‍👩‍👧 <i>"
HOSTILE = {
    "<script>alert('id')</script>": "</td></tr></table><script>alert(2)</script>",
    "\"quoted\" & 'so' <b>": "]]> &amp; {x} $y_1$ \u202eabc\u202c",
}


@pytest.fixture(scope="module")
def page(page_file) -> str:
    return page_file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def document(done, shows_everything):
    return shows_everything(*done)


def test_it_asks_for_nothing(page):
    """No address but those of the sentences, and a policy under which none would be loaded."""
    used = re.findall(r'(?:src|href|srcset|action|data)="([^"]*)"', page)
    assert used and all(address.startswith(("#", "data:")) for address in used)
    assert not re.search(r"@import|url\((?!#)|<link|<iframe|<object|<base", page)
    assert "default-src 'none'" in html.unescape(page)
    assert len(page.encode()) < 400_000


def test_every_figure_and_table_of_the_study_is_there_with_its_sentence(done, document):
    assert not document.notice
    figures = {path.stem for path in (done[1] / "figures").glob("*.png")}
    assert len([block for section in document.sections for block in section.blocks if isinstance(block, Plate)]) == len(
        figures
    )


def test_the_numbers_are_those_of_the_results(done, page):
    text = html.unescape(page)
    overview = done[0].overview()
    for row in overview.to_dict("records"):
        assert f"{row['normalised']:.2f} [" in text and f"{row['index']:.2f} [{row['index_low']:.2f}" in text
    assert done[0].conclusion() in text
    verdicts = done[0].summary()["verdict"]
    shown = re.findall(r'<span class="verdict \w+">(\w+)</span>', page)
    assert sorted(shown) == sorted(verdicts)


def test_it_says_where_it_comes_from_and_how_to_run_it_again(done, page):
    text, study = html.unescape(page), done[0]
    for said in (study.model_name, study.fingerprint, study.facts.fingerprint(), "mechmask study study.toml --out"):
        assert said in text
    assert f"torch {study.before.attrs['version_torch']}" in text
    assert "10.5281/zenodo.20570433" in text and "@software{mechmask" in text


def test_the_command_on_the_directory_writes_what_python_writes_of_the_results(document, page):
    assert document_html(document) == page


def test_texts_that_look_like_html_are_text(done, tiny, tmp_path):
    """Facts, values and the name of the model, through a study's own files."""
    ids, values = list(HOSTILE), list(HOSTILE.values())
    facts = mm.FactSet(
        mm.Fact(id=name, subject="x", prompt=f"{value} x {name}", old=f"{value} old", new=NEW)
        for name, value in HOSTILE.items()
    )
    erase = done[0].erase
    erase = erase.drop_vars([name for name in erase.coords if name not in erase.dims]).assign_coords(fact=ids)
    with mm.Run(tmp_path / "run", tiny("llama"), facts, {"protocol": "<script>alert(3)</script>"}) as run:
        outcome(run, "erase", [], lambda: erase)
    page = mm.draw.report(tmp_path / "run", tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<script") == page.count("</script>") == 1
    for text in (
        *ids,
        *(f"{value} x {name}" for name, value in HOSTILE.items()),
        *(f"{value} old" for value in values),
    ):
        assert f">{html.escape(text)}<" in page
    assert f">{html.escape(NEW)}<" in page
    (facts_shown,) = [
        b for s in mm.open_study(tmp_path / "run").page().sections for b in s.blocks if isinstance(b, FactList)
    ]
    assert [(row.name, row.old, row.new, row.prompt) for row in facts_shown.rows] == [
        (fact.id, fact.old, fact.new, fact.prompt) for fact in facts
    ]


def test_a_study_that_was_stopped_says_what_is_missing_and_shows_the_rest(done, tmp_path):
    root = shutil.copytree(done[1], tmp_path / "run")
    shutil.rmtree(root / "results/depth")
    document = mm.open_study(root).page()
    missing = [row.step for row in mm.study_status(root) if row.state != "done"]
    assert "results/depth" in missing and all(name in document.notice for name in missing)
    headings = [section.heading for section in document.sections]
    assert "The course of both trainings" in headings and "The contest at every layer" not in headings
    assert "What became of the old values" not in headings, "it was made from what is missing"


def test_a_study_without_a_result_is_refused_in_one_sentence(tiny, small_facts, tmp_path, mechmask):
    with mm.Run(tmp_path / "run", tiny("llama"), small_facts):
        pass
    with pytest.raises(StudyError, match="has no result to report yet"):
        mm.draw.report(tmp_path / "run", tmp_path / "report.html")
    refused = mechmask("report", tmp_path / "run", "--out", tmp_path / "report.html")
    assert refused.code == 2 and "mechmask status" in refused.err and not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("name", ["results/erase/reading.nc", "results/depth/step.json", "facts.jsonl", "run.json"])
def test_a_file_that_was_altered_is_refused_by_name(done, tmp_path, name):
    root = shutil.copytree(done[1], tmp_path / "run")
    content = (root / name).read_bytes()
    (root / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(MechmaskError, match=Path(name).name.replace(".", r"\.")):
        mm.draw.report(root, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_studies_below_one_directory_are_one_page(done, document, tmp_path):
    alone = document
    for name in ("first", "second"):
        shutil.copytree(done[1], tmp_path / "both" / name)
    document = mm.open_results(tmp_path / "both").page()  # pyright: ignore[reportAttributeAccessIssue]
    (facts,) = [block for section in document.sections for block in section.blocks if isinstance(block, FactList)]
    assert len(facts.rows) == 2 * len(done[0].facts) and {row.name.split("/")[0] for row in facts.rows} == {
        "first",
        "second",
    }
    tables = [sum(isinstance(b, Sheet) for s in page.sections for b in s.blocks) for page in (document, alone)]
    assert tables[0] == 2 * tables[1] and "first: " in document.lead[0]
