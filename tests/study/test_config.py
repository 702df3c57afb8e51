"""Configurations: defaults that are stated, bounds, and every bad field in one message."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechmask import FinetuneConfig, FTLConfig, LensConfig, StudyConfig
from mechmask.configuration import validated
from mechmask.errors import ChangeError, MechmaskError, ReadingError, StudyError
from mechmask.study.config import read_toml
from mechmask.write.methods.ft import FTConfig


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


EDITS = (FTLConfig(layer=1, clamp=0.1), FTConfig(layer=0, steps=3))


@pytest.mark.parametrize(
    "config",
    [
        StudyConfig(),
        StudyConfig(install=None, edits=()),
        StudyConfig(contradict=FinetuneConfig(layers=(0, 1), batch_size=2), edits=("ft_l", *EDITS)),
    ],
)
def test_json_round_trip(config):
    assert StudyConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("edits", "wanted"),
    [
        ([], ()),
        (["ft_l"], ("ft_l",)),
        (["ft", "ft_l"], ("ft", "ft_l")),
        ([{"method": "ft_l", "layer": 1, "clamp": 0.1}, {"method": "ft", "layer": 0, "steps": 3}], EDITS),
        (["ft", {"method": "ft", "layer": 0, "steps": 3}], ("ft", EDITS[1])),
        (EDITS, EDITS),
    ],
)
def test_editors_are_names_or_settings_told_apart_by_their_method(edits, wanted):
    built = StudyConfig(edits=edits).edits
    assert built == wanted
    assert [type(entry) for entry in built] == [type(entry) for entry in wanted]


def test_none_stands_for_no_installation():
    assert StudyConfig.model_validate({"install": "none"}).install is None


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
        ("edits", "ft_l"),
        ("edits", ["mend"]),
        ("edits", [3]),
        ("edits", [{"method": "ft_l", "layer": 1, "clamp": -1}]),
        ("edits", [{"layer": 1, "clamp": 0.1}]),
        ("install", "nothing"),
        ("contradict", None),
        ("contradict", {"steps": 0}),
        ("contradict", {"learning_rate": 1}),
        ("checkpoint_evry", 3),
    ],
)
def test_a_bad_value_is_one_sentence_however_it_comes(field, value):
    ways = (
        lambda: StudyConfig(**{field: value}),
        lambda: StudyConfig.model_validate({field: value}),
        lambda: StudyConfig.model_validate_json(json.dumps({field: value})),
        lambda: validated(StudyConfig, {field: value}, "study.toml"),
    )
    for way in ways:
        with pytest.raises(StudyError, match=field) as caught:
            way()
        assert "\n" not in str(caught.value)
        assert "pydantic" not in str(caught.value)
        assert str(caught.value).startswith(("StudyConfig: ", "study.toml: "))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"levl": 0.9}, "the setting 'levl' is not known. Did you mean 'level'? Known are statistic, margin_share, "),
        ({"install": {"rang": 8}}, "the setting 'install.rang' is not known. Did you mean 'rank'? Known are method, "),
        ({"contradict": {"stepz": 8}}, "the setting 'contradict.stepz' is not known. Did you mean 'steps'? Known are"),
        (
            {"edits": ["ft", {"method": "ft_l", "layer": 1, "clamp": 1.0, "clammp": 2}]},
            "the setting 'edits[1].clammp' is not known. Did you mean 'clamp'? Known are layer, lr, steps, ",
        ),
        (
            {"edits": [{"method": "ft", "layer": 1, "clamp": 1}]},
            "the setting 'edits[0].clamp' is not known. Known are ",
        ),
        (
            {"edits": [{"method": "ft_m", "layer": 1}]},
            "edits[0]: there is no method 'ft_m'. Did you mean 'ft_l'? Known",
        ),
        ({"edits": [{"layer": 1}]}, "edits[0] does not say its method. Give one of ft, ft_l, "),
        ({"edits": ["ftl"]}, "edits[0]: there is no edit method 'ftl'. Did you mean 'ft_l'? Known are ft, ft_l, "),
        ({"edit": "none"}, "the setting 'edit' is not known. It is now edits, a list: edits = [\"ft_l\"] takes the "),
        ({"edit": {"layer": 1}}, 'a table [[study.edits]] with method = "ft_l" holds an editor\'s own settings, and '),
        ({"level": 7}, "level cannot be 7: it should be less than 1."),
        ({"score": "best"}, "score cannot be 'best': it should be 'sequence' or 'mean'."),
        ({"contradict": {"layers": 3}}, "contradict.layers cannot be 3: it should be a list."),
        ({"contradict": 3}, "contradict cannot be 3: a table of settings is needed."),
    ],
)
def test_the_sentence_says_what_to_write_instead(data, sentence):
    with pytest.raises(StudyError) as caught:
        StudyConfig(**data)
    assert sentence in str(caught.value)


def test_every_bad_field_is_in_one_message():
    data = {"checkpoint_every": 0, "level": 2, "contradict": {"rank": 0, "stepz": 3}, "odd": 1}
    with pytest.raises(StudyError) as caught:
        validated(StudyConfig, data, "my.toml")
    lines = str(caught.value).splitlines()
    assert lines[0] == "5 problems in my.toml:"
    for field, line in zip(
        ("level", "contradict.rank", "contradict.stepz", "checkpoint_every", "odd"), lines[1:], strict=True
    ):
        assert field in line


@pytest.mark.parametrize("data", [None, [], 3, "text"])
def test_what_is_no_table_is_refused(data):
    with pytest.raises(StudyError, match=r"my\.toml: the whole cannot be .*: a table of settings is needed\."):
        validated(StudyConfig, data, "my.toml")


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: FinetuneConfig(steps=0), ChangeError),
        (lambda: FinetuneConfig(learning_rate=1), ChangeError),
        (lambda: FinetuneConfig.model_validate({"projections": "some"}), ChangeError),
        (lambda: FTLConfig(layer=1), ChangeError),
        (lambda: FTLConfig(layer=1, clamp=None), ChangeError),
        (lambda: FTConfig(layer=-1), ChangeError),
        (lambda: LensConfig(n_tokens=3), ReadingError),
        (lambda: LensConfig.model_validate_json("{"), ReadingError),
        (lambda: setattr(LensConfig(), "steps", 3), ReadingError),
        (lambda: setattr(StudyConfig(), "level", 0.9), StudyError),
    ],
)
def test_each_configuration_raises_the_error_of_its_room(make, kind):
    with pytest.raises(kind) as caught:
        make()
    assert isinstance(caught.value, ValueError)
    assert "http" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_configuration_shows_its_settings_and_nothing_of_pydantic():
    shown = set(dir(StudyConfig()))
    assert set(StudyConfig.model_fields) <= shown
    assert shown - set(StudyConfig.model_fields) == {"model_copy", "model_dump", "model_dump_json", "options"}


def test_a_configuration_is_pickled_and_copied():
    config = StudyConfig(edits=EDITS)
    assert pickle.loads(pickle.dumps(config)) == config
    assert config.model_copy(update={"level": 0.9}).level == 0.9


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["ft", "none", "mlp"])
)
_KEYS = st.sampled_from(
    ["install", "contradict", "edits", "edit", "level", "method", "layer", "steps", "rank", "layers", "score", "lens"]
) | st.text(max_size=4)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4), max_leaves=8
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([StudyConfig, FinetuneConfig, FTLConfig, FTConfig, LensConfig]), st.dictionaries(_KEYS, _VALUES))
def test_nothing_but_errors_of_ours_comes_out_of_a_configuration(kind, data):
    ways = (lambda: kind(**data), lambda: kind.model_validate(data), lambda: validated(kind, data, "my.toml"))
    refusals = [_sentence(way) for way in ways]
    assert len({refusal is None for refusal in refusals}) == 1, "one way takes what another refuses"
    for refusal in filter(None, refusals):
        assert "pydantic" not in refusal
        assert "tagged-union" not in refusal


def _sentence(way) -> str | None:
    try:
        way()
    except MechmaskError as error:
        return str(error)
    return None


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


def test_toml_that_no_parser_should_have_to_read_is_refused(tmp_path):
    for text in ("a = " + "[" * 100_000, "a = " + "9" * 5_000, 'a = "\\ud800"'):
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(StudyError, match=r"bad\.toml is (not TOML|nested too deeply)") as caught:
            read_toml(tmp_path / "bad.toml")
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["missing.toml", "directory", "directory/missing.toml"])
def test_what_cannot_be_read_is_refused(tmp_path, name):
    (tmp_path / "directory").mkdir()
    with pytest.raises(StudyError, match="Cannot read"):
        read_toml(tmp_path / name)


def test_toml_is_read_as_utf_8(tmp_path):
    (tmp_path / "good.toml").write_bytes('[a]\nname = "Łódź"\n'.encode())
    assert read_toml(tmp_path / "good.toml") == {"a": {"name": "Łódź"}}
