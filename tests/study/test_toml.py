"""A study as a TOML file: what it says is what is built, and what it gets wrong is said before work starts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechmask import FinetuneConfig, FTLConfig, StudyConfig, load_facts, synthetic_facts
from mechmask.errors import MechmaskError, StudyError
from mechmask.study.config import tomllib
from mechmask.study.toml import study_from_file


@pytest.fixture(scope="session")
def model_directory(tiny, tmp_path_factory) -> Path:
    """A tiny llama with its tokenizer, as ``save_pretrained`` writes it."""
    model, directory = tiny("llama"), tmp_path_factory.mktemp("saved") / "llama"
    model.module.save_pretrained(directory)
    model.tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def written(tmp_path, model_directory):
    """``written(text)``: a TOML file with the model's table before ``text``."""

    def write(text: str, model: str | None = None) -> Path:
        path = tmp_path / "study.toml"
        path.write_text(
            (f'[model]\nsource = "{model_directory}"\n' if model is None else model) + text, encoding="utf-8"
        )
        return path

    return write


EDIT = "\n[[study.edits]]\nmethod = 'ft_l'\nlayer = 1\nclamp = 0.05\n"


def test_every_table_becomes_the_study(written, tiny):
    study = study_from_file(
        written(
            """
            [facts.synthetic]
            n = 6
            seed = 4
            n_never = 9
            distractors = 3
            [study]
            checkpoint_every = 3
            score = "mean"
            install = { steps = 7 }
            contradict = { lr = 1e-3, batch_size = 2 }
            [[study.edits]]
            method = "ft_l"
            layer = 2
            clamp = 1e-2
            steps = 4
            """
        )
    )
    assert study.model.fingerprint == tiny("llama").fingerprint
    assert study.facts == synthetic_facts(6, seed=4, n_never=9, distractors=3)
    assert study.config == StudyConfig(
        checkpoint_every=3,
        score="mean",
        install=FinetuneConfig(steps=7),
        contradict=FinetuneConfig(lr=1e-3, batch_size=2),
        edits=(FTLConfig(layer=2, clamp=1e-2, steps=4),),
    )


@pytest.mark.parametrize("name", ["facts.jsonl", "facts.csv", "deep/facts.jsonl"])
def test_facts_are_looked_for_beside_the_file(written, tmp_path, facts, name, monkeypatch):
    (tmp_path / "deep").mkdir()
    (facts.to_csv if name.endswith("csv") else facts.to_jsonl)(tmp_path / name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert study_from_file(written(f'[facts]\npath = "{name}"' + EDIT)).facts == facts == load_facts(tmp_path / name)


def test_an_absolute_path_of_facts_stays(written, tmp_path_factory, facts):
    path = tmp_path_factory.mktemp("elsewhere") / "facts.jsonl"
    facts.to_jsonl(path)
    assert study_from_file(written(f'[facts]\npath = "{path}"' + EDIT)).facts == facts


def test_a_model_directory_is_looked_for_beside_the_file_too(
    written, tmp_path, model_directory, tmp_path_factory, monkeypatch
):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "llama").symlink_to(model_directory)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    path = written("[facts.synthetic]\nn = 4" + EDIT, model='[model]\nsource = "models/llama"\n')
    assert study_from_file(path).model.n_layers == 3


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("[facts]\n", 0),
        ('[facts]\npath = "facts.jsonl"\n[facts.synthetic]\nn = 4\n', 2),
        ("[facts.world]\n[facts.synthetic]\n", 2),
        ('[facts]\npath = "facts.jsonl"\n[facts.synthetic]\n[facts.world]\n', 3),
    ],
)
def test_facts_come_from_one_source(written, text, n):
    with pytest.raises(StudyError, match=f"names {n} sources. Give one of path, synthetic, world") as caught:
        study_from_file(written(text))
    assert "study.toml" in str(caught.value)


def test_the_number_of_sources_is_checked_before_a_model_is_loaded(written):
    with pytest.raises(StudyError, match="names 0 sources"):
        study_from_file(written("[facts]\n", model='[model]\nsource = "no/such/model"\n'))


def test_facts_of_a_data_set_lie_beside_the_file(written, tmp_path, monkeypatch):
    """Whatever directory the command runs in; a model that holds none of them says so."""
    rewrite = {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "subject": "Ana",
        "target_true": {"str": "Berlin"},
        "target_new": {"str": "Rome"},
    }
    (tmp_path / "data.json").write_text(json.dumps([{"case_id": 0, "requested_rewrite": rewrite}]))
    monkeypatch.chdir("/")
    for text in (
        "[facts.world]\npath = 'data.json'\n",
        "[study]\nprotocol = 'paper'\n[study.known]\npath = 'data.json'\n",
    ):
        with pytest.raises(MechmaskError, match=r"\b0\b|none|No fact"):
            study_from_file(written(text))
    with pytest.raises(MechmaskError, match=r"Cannot read .*elsewhere\.json"):
        study_from_file(written("[facts.world]\npath = 'elsewhere.json'\n"))


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("[facts.synthetic]\nnumber = 3\n", ["facts.synthetic.number"]),
        ('[facts.synthetic]\nn = "many"\n', ["facts.synthetic.n"]),
        ("[facts.world]\nn_controls = 3\n", ["facts.world.n_controls"]),
        ("[facts]\nfile = 'x'\n", ["facts.file"]),
        ("[facts.synthetic]\n[studies]\n", ["studies"]),
        ("[facts.synthetic]\n[study]\nsteps = 3\n", ["study.steps"]),
        (
            "[facts.synthetic]\n[study]\nlevel = 7\ninstall = { rank = 0, rang = 1 }\n",
            ["study.level", "study.install.rank", "study.install.rang"],
        ),
        (
            "[facts.synthetic]\nn = true\nm = 1\n[study]\nbatch_size = 0\n[more]\n",
            ["facts.synthetic.m", "study.batch_size", "more"],
        ),
    ],
)
def test_every_bad_field_is_named_in_one_error(written, text, fields):
    with pytest.raises(StudyError) as caught:
        study_from_file(written(text))
    for field in fields:
        assert re.search(rf"study\.toml: (the setting ')?{re.escape(field)}\b", str(caught.value))


@pytest.mark.parametrize("table", ["source = 3", 'sauce = "x"', 'source = "smollm2-135m"\nquantize = true'])
def test_a_bad_model_table_is_refused(written, table):
    with pytest.raises(StudyError, match=r"study\.toml: (the setting ')?model\."):
        study_from_file(written("[facts.synthetic]\n", model=f"[model]\n{table}\n"))


@pytest.mark.parametrize(
    "text",
    [
        '[facts]\npath = "missing.jsonl"\n',
        '[facts]\npath = "study.toml"\n',
        "[facts.synthetic]\nn = -1\n",
        "[facts.synthetic]\nn = 4\nn_contradicted = 9\n",
        "[facts.synthetic]\ndistractors = -2\n",
        "[facts.world]\nrelations = ['spin']\n",
        "[facts.world]\n",  # which a random model does not hold
        "[facts.synthetic]\nn = 4\nn_control = 0\n",
    ],
)
def test_facts_that_cannot_be_had_are_an_error_of_ours(written, text):
    with pytest.raises(MechmaskError):
        study_from_file(written(text + EDIT))


def test_ft_l_without_a_known_setting_is_said_at_once(written):
    with pytest.raises(MechmaskError, match="No FT-L setting is known"):
        study_from_file(written("[facts.synthetic]\nn = 4\n"))


def test_a_table_of_an_edit_lists_what_it_knows(written):
    text = (
        "[facts.synthetic]\nn = 4\n[[study.edits]]\nmethod = 'ft'\nlayer = 1\nclamp = 0.1\n[[study.edits]]\nlayer = 1\n"
    )
    with pytest.raises(StudyError) as caught:
        study_from_file(written(text))
    message = str(caught.value)
    assert "the setting 'study.edits[0].clamp' is not known. Known are layer, lr, steps, " in message
    assert "study.edits[1] does not say its method. Give one of ft, ft_l, ft_prompt_last, rome, " in message


def test_a_file_of_facts_in_a_format_of_its_own(written, tmp_path):
    """zsRE's two readings are told apart by name alone."""
    record = {
        "subject": "Uxmon",
        "src": "What is the mass of Uxmon?",
        "rephrase": "Which mass has Uxmon?",
        "alt": "5 kg",
    }
    record |= {"answers": ["7 kg"], "loc": "nq question: who was first", "loc_ans": "Ana"}
    (tmp_path / "zsre.json").write_text(
        json.dumps([record, {**record, "subject": "Arbel", "src": "How old is Arbel?"}])
    )
    facts = "[facts]\npath = 'zsre.json'\n"
    with pytest.raises(StudyError, match="there are 2 and 0"):  # facts, of which none is a control
        study_from_file(written(f"{facts}format = 'zsre_counterfactual'\n"))
    with pytest.raises(MechmaskError, match="zsre_true"):
        study_from_file(written(facts))
    with pytest.raises(StudyError, match="Give its path"):
        study_from_file(written("[facts]\nformat = 'jsonl'\n[facts.synthetic]\nn = 4\n"))


@pytest.mark.parametrize(("edits", "n"), [("edits = []", 0), ("", 1)])
def test_no_editor_is_needed(written, edits, n):
    """An empty list asks for none; the default asks for FT-L, for which this model has no preset."""
    path = written(f"[facts.synthetic]\nn = 4\n[study]\n{edits}\n")
    if n:
        with pytest.raises(MechmaskError, match="No FT-L setting is known"):
            study_from_file(path)
    else:
        assert study_from_file(path).config.edits == ()


_KEYS = st.sampled_from(
    [
        "model",
        "facts",
        "study",
        "source",
        "path",
        "synthetic",
        "world",
        "n",
        "seed",
        "n_never",
        "edits",
        "edit",
        "level",
    ]
) | st.text("ab_", min_size=1, max_size=3)
_SCALARS = st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=4)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4), max_leaves=8
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(_KEYS, _VALUES, max_size=4))
def test_arbitrary_toml_ends_in_an_error_of_ours(tmp_path_factory, data):
    """The model that is named does not exist, so nothing is ever loaded."""
    tables = {
        **data,
        "model": {"source": "no/such/model", **(data["model"] if isinstance(data.get("model"), dict) else {})},
    }
    path = tmp_path_factory.getbasetemp() / "arbitrary.toml"
    lines = [f"{json.dumps(key)} = {_toml(value)}" for key, value in tables.items()]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(MechmaskError) as caught:
        study_from_file(path)
    assert "pydantic" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")))
def test_arbitrary_text_ends_in_an_error_of_ours(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "arbitrary.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(MechmaskError):
        study_from_file(path)


def _toml(value) -> str:
    """A value as TOML writes it in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


@pytest.mark.parametrize(
    ("protocol", "setting", "kind"),
    [
        ("twins", "twins = 3", "TwinStudy"),
        ("correction", "taught_phrasings = 2", "CorrectionStudy"),
        ("precision", "taught_phrasings = 2", "PrecisionStudy"),
        ("mask", "edits = []", "MaskStudy"),
        ("reactance", "levels = [4, { recall = 0.5 }]", "ReactanceStudy"),
        ("reacquisition", 'install = "none"', "ReacquisitionStudy"),
        ("renewal", 'c = "Page 2.\\n"', "RenewalStudy"),
    ],
)
def test_a_file_names_its_protocol_and_takes_its_settings(written, protocol, setting, kind):
    facts = "[facts.synthetic]\nn = 6\nn_contradicted = 3\nn_never = 3\ndistractors = 3\n"
    study = study_from_file(written(f"{facts}[study]\nprotocol = {protocol!r}\n{setting}\n"))
    assert type(study).__name__ == kind
    given = type(study.config).model_validate(tomllib.loads(setting))
    assert study.config == given != type(given)()


def test_a_contrast_has_its_trainings_by_name(written):
    facts = "[facts.synthetic]\nn = 6\nn_never = 2\ndistractors = 3\n"
    study = study_from_file(
        written(
            f"{facts}[study]\nprotocol = 'contrast'\nmatched_margin = 2.0\n"
            "edits = [{ method = 'ft_l', layer = 0, clamp = 0.01 }]\n"
            "[study.trainings.gentle]\nmethod = 'full'\nlr = 1e-6\n"
        )
    )
    assert type(study).__name__ == "ContrastStudy" and study.config.matched_margin == 2.0
    assert list(study.config.trainings) == ["gentle"] and study.config.trainings["gentle"].method == "full"


def test_draws_are_studies_of_other_facts_and_other_seeds(written):
    facts = "[facts.synthetic]\nn = 4\nn_never = 2\ndistractors = 3\nseed = 5\n"
    draws = study_from_file(written(f"{facts}[draws]\nn = 2\nseeds = 2\n[study]\nedits = []\n"))
    assert (draws.draws, draws.seeds) == ((0, 1), (0, 1))
    first, last = draws.study_of(0, 0), draws.study_of(1, 1)
    assert (first.facts, last.facts) == tuple(
        synthetic_facts(4, seed=seed, n_never=2, distractors=3) for seed in (5, 6)
    )
    assert (last.config.install.seed, last.config.contradict.seed) == (1, 1)
    assert first.config == StudyConfig(edits=())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[facts]\npath = 'facts.jsonl'\n[draws]\nn = 2\n", "the facts of a file are one draw"),
        ("[draws]\nn = 2\n[study]\nprotocol = 'paper'\n", "draws its facts itself"),
        ("", "[facts] names 0 sources. Give one of path"),
        ("[facts.world]\n[study]\nprotocol = 'paper'\n", "draws its own: leave the table out"),
    ],
)
def test_what_cannot_be_drawn_is_refused(written, text, sentence):
    with pytest.raises(StudyError, match=re.escape(sentence)):
        study_from_file(written(text))


def test_an_unknown_protocol_and_a_setting_of_another_one_are_refused(written):
    facts = "[facts.synthetic]\nn = 6\n[study]\n"
    with pytest.raises(StudyError, match="no protocol is called 'twin'"):
        study_from_file(written(f"{facts}protocol = 'twin'\n"))
    with pytest.raises(StudyError, match="twins"):
        study_from_file(written(f"{facts}protocol = 'correction'\ntwins = 3\n"))
