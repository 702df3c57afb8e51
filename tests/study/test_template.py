"""The configuration that ``--init`` writes: valid as it stands, complete, with every default as the classes have it."""

from __future__ import annotations

import re

import pytest

from mechmask import StudyConfig
from mechmask.configuration import validated
from mechmask.errors import MechmaskError, StudyError
from mechmask.study.config import read_toml
from mechmask.study.template import template, write_template
from mechmask.study.toml import ModelTable, StudyFile, SyntheticTable, WorldTable


@pytest.fixture
def described(tmp_path):
    """``described(text)``: what a file of that text describes."""

    def read(text: str) -> StudyFile:
        (tmp_path / "study.toml").write_text(text, encoding="utf-8")
        return validated(StudyFile, read_toml(tmp_path / "study.toml"), "study.toml")

    return read


def test_as_it_stands_it_says_the_defaults(described):
    file = described(template())
    assert file.model == ModelTable()
    assert file.facts.synthetic == SyntheticTable()
    assert (file.facts.path, file.facts.world) == (None, None)
    assert file.study == StudyConfig()


def test_every_setting_of_every_class_is_there_with_its_meaning():
    lines = template().splitlines()
    for kind in (ModelTable, SyntheticTable, WorldTable, StudyConfig, type(StudyConfig().contradict)):
        for field in kind.model_fields:
            assert any(re.match(rf"(# )*{field}( = |: )|\[study\.{field}\]", line) for line in lines), field
            assert any(re.match(rf"(# )*{field}: \w", line) for line in lines), f"{field} has no meaning"


def test_the_other_sources_of_facts_are_valid_once_they_are_chosen(described):
    text = template()
    synthetic = re.search(r"\[facts\.synthetic\].*?(?=\n\n)", text, re.DOTALL)[0]
    world = re.search(r"# \[facts\.world\].*?(?=\n\n)", text, re.DOTALL)[0]
    chosen = re.sub(r"^# (?=\[|\w+ = (?!\())", "", world, flags=re.MULTILINE)
    file = described(text.replace(synthetic, "").replace(world, chosen))
    assert (file.facts.synthetic, file.facts.world) == (None, WorldTable())


def test_it_is_written_once_and_never_over_anything(tmp_path):
    write_template(tmp_path / "deep" / "study.toml")
    assert (tmp_path / "deep" / "study.toml").read_text(encoding="utf-8") == template()
    for there in (tmp_path / "deep" / "study.toml", tmp_path / "deep"):
        with pytest.raises(StudyError, match="already exists"):
            write_template(there)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "study.toml/below.toml"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, name):
    (tmp_path / "study.toml").write_text("mine")
    with pytest.raises(MechmaskError):
        write_template(tmp_path / name)
