"""A recorded configuration as TOML describes the same study: of every protocol, and of every kind of value."""

from __future__ import annotations

import sys

import pytest
from pydantic import create_model

import mechmask as mm
from mechmask.configuration import validated
from mechmask.study.pages.toml_text import nameless, study_toml, toml_text, without_none
from mechmask.study.paper_parts import PARTS
from mechmask.study.registry import PROTOCOLS
from mechmask.study.toml import StudyFile
from mechmask.study.until import Until

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TRAINED = mm.FinetuneConfig(steps=7, lr=1e-5, layers=(1, 2), seed=3)
CHANGED = {
    "mask": {
        "install": None,
        "contradict": TRAINED,
        "contradict_until": Until(margin=1.0),
        "edits": (mm.FTLConfig(layer=1, clamp=0.5),),
    },
    "correction": {"contradict": TRAINED, "edits": ("ft_l", mm.FTConfig(layer=0)), "reference": "some/model"},
    "twins": {"install": TRAINED},
    "dose": {"contradict": TRAINED, "install": TRAINED, "scales": (-1.0, 0.5)},
    "precision": {"install": None, "contradict": TRAINED},
    "contrast": {"trainings": {"my way": TRAINED}, "matched_margin": 1.0},
    "reactance": {"install": None},
    "reacquisition": {"install": None, "samples": (1, 5)},
    "renewal": {"a": "none", "b": 'Page "2".\n', "c": "\u2028 日本 \U0001f600 \x7f"},
    "elasticity": {"install": TRAINED, "doses": (2, 3)},
    "retention": {
        "tasks": ({"kind": "text", "source": "my text.txt", "until": {"loss": 3.1}, "finetune": TRAINED},),
        "together": {"memit": 2},
    },
    "editing": {"edits": ("memit",), "text": "model", "install": TRAINED},
}


@pytest.mark.parametrize("changed", [False, True], ids=["defaults", "changed"])
@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "paper"])
def test_the_file_holds_the_configuration_of_the_card(protocol, changed):
    kind = PROTOCOLS[protocol].config
    config = kind(**CHANGED[protocol]) if changed else kind()
    text = study_toml(protocol, config.model_dump(mode="json"), 'a "model"', "float32", "facts.jsonl")
    content = tomllib.loads(text)
    assert content["study"].pop("protocol") == protocol
    read = validated(create_model("StudyFile", __base__=StudyFile, study=(kind, kind())), content, "study.toml")
    assert read.study == config
    assert (read.model.source, read.model.dtype, str(read.facts.path)) == ('a "model"', "float32", "facts.jsonl")


def test_the_configuration_of_the_whole_paper_too():
    config = mm.PaperConfig(draws=2, dose=None, contrast=mm.ContrastConfig(matched_margin=2.0), mask_known=None)
    recorded = config.model_dump(mode="json")
    tables = {
        name: without_none(value, nameless(PARTS[name].protocol)) if name in PARTS and value is not None else value
        for name, value in recorded.items()
    }
    shown = {name: "none" if value is None else value for name, value in tables.items()}
    read = tomllib.loads(toml_text({"study": shown}))["study"]
    assert mm.PaperConfig(**read) == config


def test_numbers_that_are_not_finite_and_names_with_spaces():
    table = {"a b": float("inf"), "c": [1, 2.5, True, "x"], "d": {"e": {"f": None, "g": 1}}, "h": {}}
    assert tomllib.loads(toml_text({"t": table}))["t"] == {**table, "d": {"e": {"g": 1}}}
