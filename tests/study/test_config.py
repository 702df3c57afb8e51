"""Configurations: defaults that are stated, bounds, and every bad field in one message."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict

from mechmask import FinetuneConfig, FTLConfig, StudyConfig
from mechmask.errors import StudyError
from mechmask.study.config import checked, read_toml


class _Two(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int
    name: str = ""


def test_the_paper_s_numbers_are_the_defaults():
    """Paper 2F: LoRA of rank 16 and alpha 32 on all projections; a cutoff within 3..13 nats."""
    config = StudyConfig()
    for phase in (config.install, config.contradict):
        assert (phase.rank, phase.alpha, phase.projections, phase.layers) == (16, 32.0, "all", None)
    assert 3 < config.cutoff_nats < 13
    assert config.score == "sequence"


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        StudyConfig().checkpoint_every = 3


@pytest.mark.parametrize(
    "config",
    [
        StudyConfig(),
        StudyConfig(install=None, edit=None),
        StudyConfig(contradict=FinetuneConfig(layers=(0, 1), batch_size=2), edit=FTLConfig(layer=1, clamp=0.1)),
    ],
)
def test_json_round_trip(config):
    assert StudyConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("checkpoint_every", 0),
        ("install_recall", 0.0),
        ("install_recall", 1.5),
        ("cutoff_nats", 0),
        ("level", 1.0),
        ("batch_size", 0),
        ("score", "divergence"),
        ("edit", "rome"),
        ("edit", {"layer": 1, "clamp": -1}),
        ("contradict", None),
        ("contradict", {"steps": 0}),
        ("contradict", {"learning_rate": 1}),
        ("checkpoint_evry", 3),
    ],
)
def test_a_bad_value_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        StudyConfig.model_validate({field: value})
    with pytest.raises(StudyError, match=field) as caught:
        checked(StudyConfig, {field: value}, "study.toml")
    assert str(caught.value).startswith(("study.toml", "2 problems in study.toml"))


def test_every_bad_field_is_in_one_message():
    with pytest.raises(StudyError) as caught:
        checked(
            StudyConfig, {"checkpoint_every": 0, "level": 2, "contradict": {"rank": 0, "stepz": 3}, "odd": 1}, "my.toml"
        )
    message = str(caught.value)
    for field in ("checkpoint_every", "level", "contradict.rank", "contradict.stepz", "odd"):
        assert f"my.toml: {field}: " in message
    assert message.startswith("5 problems in my.toml:")


def test_one_bad_field_is_one_line():
    with pytest.raises(StudyError) as caught:
        checked(StudyConfig, {"level": 2}, "my.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [None, [], 3, "text"])
def test_what_is_no_table_is_refused(data):
    with pytest.raises(StudyError, match="the file"):
        checked(_Two, data, "my.toml")


def test_good_data_becomes_the_configuration():
    assert checked(_Two, {"n": 3}, "x") == _Two(n=3)


@pytest.mark.parametrize("text", ["[study", "a = ", "a = 1\na = 2", "a = nan nan", "= 3", "[a]\n[a]"])
def test_what_is_no_toml_is_refused(tmp_path, text):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(StudyError, match=r"bad\.toml is not TOML") as caught:
        read_toml(tmp_path / "bad.toml")
    assert "\n" not in str(caught.value)


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(StudyError, match=r"bad\.toml is not TOML"):
        read_toml(tmp_path / "bad.toml")


@pytest.mark.parametrize("name", ["missing.toml", "directory", "directory/missing.toml"])
def test_what_cannot_be_read_is_refused(tmp_path, name):
    (tmp_path / "directory").mkdir()
    with pytest.raises(StudyError, match="Cannot read"):
        read_toml(tmp_path / name)


def test_toml_is_read_as_utf_8(tmp_path):
    (tmp_path / "good.toml").write_bytes('[a]\nname = "Łódź"\n'.encode())
    assert read_toml(tmp_path / "good.toml") == {"a": {"name": "Łódź"}}
