"""Lenses, changes and fact sets on the Hub and back: huggingface_hub's own client against a server of a directory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub_server import Hub

from mechmask import load_facts, synthetic_facts
from mechmask.errors import FactError
from mechmask.files import require_sealed, sealed_names
from mechmask.hub_card import Card

_HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def served(tiny, tmp_path_factory):
    """What every attempt of ``hub_round_trips`` came to, and the server's directory."""
    root = tmp_path_factory.mktemp("hub")
    for seed, name in enumerate(("one", "other")):
        model = tiny("llama", seed=seed)
        for part in (model.module, model.tokenizer):
            part.save_pretrained(root / "models" / name)
    (root / "work").mkdir()
    with Hub(root / "hub") as hub:
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(root / "home"), "HF_TOKEN": "hf_mine"}
        kept = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_HUB_CACHE")}
        paths = os.pathsep.join([str(_HERE.parent), kept.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-W", "ignore", _HERE / "local_hub" / "hub_round_trips.py", root / "models", root / "hub"],
            env={**kept, **settings, "PYTHONPATH": paths, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            capture_output=True,
            text=True,
            cwd=root / "work",
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), root / "hub"


@pytest.mark.parametrize(
    "name",
    [
        *("facts", "facts of a commit", "facts of a branch", "datasets", "a copy of the repository", "change", "lens"),
        "a path of that name",
    ],
)
def test_what_was_pushed_comes_back_as_it_was(served, name):
    assert served[0][name] is True


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("facts of no revision", "FactError: me/facts has no revision 'gone'."),
        ("no such facts", "FactError: There is no path me/nothing here, and no dataset of that id on the Hub"),
        ("a file that is missing", "FactError: .*me/facts.jsonl"),
        ("no facts to push", "FactError: The fact set is empty"),
        ("no id", "FactError: a/b/c is no id of a repository"),
        ("facts of another set", "FactError: The fact set in .* is damaged: facts.jsonl is altered"),
        ("a revision of a path", "FactError: me/facts is on this machine, and has no revisions"),
        ("change of another model", "ChangeError: The weights of .* are not those that this change was made on"),
        ("no such change", "ChangeError: There is no path me/nothing here, and no model of that id"),
        ("no change by that path", "ChangeError: There is no nothing/at/all, and it is no id"),
        ("facts are no change", "ChangeError: There is no path me/facts here, and no model of that id"),
        ("a damaged change", r"ChangeError: The change in .* is damaged: .*safetensors is (cut|altered)"),
        ("half a change", r"ChangeError: The change in .* is damaged: .*safetensors is missing"),
        ("pushing over a model", "ChangeError: me/theirs holds files that mechmask did not save .*model.safetensors"),
        ("a model is no change", "ChangeError: me/theirs does not hold a change that mechmask saved"),
        ("lens of another model", "ReadingError: The lens in .* was fitted with another unembedding"),
        ("no such lens", "ReadingError: There is no path me/nothing here, and no model of that id"),
        ("a pickle", "ReadingError: me/lens holds params.pt, a pickle, which is not taken from the Hub"),
    ],
)
def test_what_cannot_be_had_is_refused_in_a_sentence(served, name, said):
    assert re.match(said, served[0][name]), served[0][name]


def test_a_repository_holds_one_artefact_and_no_pickle(served):
    found = served[0]
    assert found["files of the facts"] == ["README.md", "digests.json", "facts.jsonl", "mechmask.json"]
    assert {"README.md", "change.json", "digests.json"} < set(found["files of the change"])
    lens = ["README.md", "config.json", "digests.json", "mechmask.json", "params.safetensors", "report.nc"]
    assert found["files of the lens"] == lens
    assert found["the next change"] == "ft_l" and found["a card that was written on"] == found["base"]
    assert found["files of the next change"] == ["README.md", "change.json", "digests.json", "weights.safetensors"]
    assert found["files of theirs"] == ["model.safetensors"]


def test_a_card_says_what_it_is_and_on_what_it_goes(served):
    found, hub = served
    cards = [path.read_text() for path in hub.glob("models/me/change/commits/*/README.md")]
    card = next(text for text in cards if "them/base" in text)
    head = yaml.safe_load(card.split("---")[1])
    assert (head["license"], head["library_name"], head["base_model"]) == ("apache-2.0", "mechmask", "them/base")
    assert head["mechmask"]["base_fingerprint"] == found["base"] and "mechmask" in head["tags"]
    assert "mm.load_change('me/change', model)" in card and '"rank": 2' in card and "final\\_loss" not in card


def test_without_a_connection_an_id_is_said_to_be_neither(tmp_path):
    """This process is offline, as all tests are."""
    with pytest.raises(FactError, match=r"There is no path no/where here.* HF_HUB_OFFLINE is set"):
        load_facts("no/where")


def test_a_card_is_no_part_of_what_is_sealed(tmp_path):
    from mechmask.facts.saved import save_facts

    save_facts(synthetic_facts(4), tmp_path / "facts")
    (tmp_path / "facts" / "README.md").write_text("# Mine")
    assert require_sealed(tmp_path / "facts", "It", "Again.")
    assert sealed_names(tmp_path / "facts") == ["facts.jsonl", "mechmask.json"]
    assert sealed_names(tmp_path) is None


def test_texts_in_a_card_are_shown_and_not_obeyed():
    card = Card(
        "facts",
        "a <script>",
        "[link](x) and `code`",
        "pass",
        {"a|b": "c\n## d"},
        [("n",), ("<img src=x>",)],
        {"text": "```\n<b>\ud800"},
        license="mit: yes",
    ).text("model")
    assert "<script>" not in card and "<img" not in card and "\\[link](x)" in card
    assert yaml.safe_load(card.split("---")[1])["license"] == "mit: yes"
    assert "| a\\|b | c ## d |" in card
    assert not re.search(r"^```\n<b>", card, re.MULTILINE)
