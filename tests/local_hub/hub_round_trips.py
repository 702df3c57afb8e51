"""Everything that ``test_hub`` asserts about, done in a process of its own, in which the Hub is the local server.

huggingface_hub reads ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` once, when it is imported. What every attempt came to is
printed as JSON: what it returned, or the class and the sentence of its error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from huggingface_hub import HfApi

import mechmask as mm
from mechmask.models.fingerprint import digest

FOUND: dict[str, Any] = {}


def attempt(name: str, action: Callable[[], Any]) -> None:
    try:
        FOUND[name] = action()
    except Exception as error:
        FOUND[name] = f"{type(error).__name__}: {error}"


def facts_there_and_back(facts: mm.FactSet, hub: Path) -> None:
    first = facts.push_to_hub("me/facts", license="mit", private=True)
    FOUND["first facts"] = first
    second = facts.contradicted.push_to_hub("me/facts", commit_message="the half of them")
    facts.never.push_to_hub("me/facts", revision="never")
    attempt("facts", lambda: mm.load_facts("me/facts") == facts.contradicted)
    attempt("facts of a commit", lambda: mm.load_facts("me/facts", revision=first) == facts)
    attempt("facts of a branch", lambda: mm.load_facts("me/facts", revision="never") == facts.never)
    attempt("facts of no revision", lambda: mm.load_facts("me/facts", revision="gone"))
    attempt("no such facts", lambda: mm.load_facts("me/nothing"))
    attempt("a file that is missing", lambda: mm.load_facts("me/facts.jsonl"))
    attempt("no facts to push", lambda: facts.select(facts.ids)[:0].push_to_hub("me/facts"))
    attempt("no id", lambda: facts.push_to_hub("a/b/c"))
    FOUND["files of the facts"] = sorted(HfApi().list_repo_files("me/facts", repo_type="dataset"))
    place = hub / "datasets/me/facts/commits"
    attempt("datasets", lambda: mm.FactSet(load_dataset(str(place / first), split="train")) == facts)
    attempt("a copy of the repository", lambda: mm.load_facts(place / first) == facts)
    (place / second / "facts.jsonl").write_bytes((place / first / "facts.jsonl").read_bytes())
    os.environ["HF_HUB_CACHE"] = str(hub / "other")
    attempt("facts of another set", lambda: len(mm.load_facts(place / second)))
    Path("me").mkdir()
    facts.control.to_jsonl("me/facts")
    attempt("a path of that name", lambda: mm.load_facts("me/facts", "jsonl") == facts.control)
    attempt("a revision of a path", lambda: mm.load_facts("me/facts", revision="main"))


def change_there_and_back(model: mm.Model, other: mm.Model, facts: mm.FactSet, hub: Path) -> None:
    change = mm.finetune(model, facts, mm.FinetuneConfig(steps=2, lr=1e-2, rank=2))
    FOUND["base"] = change.base
    commit = change.push_to_hub("me/change", base_model="them/base", license="apache-2.0")
    back = mm.load_change("me/change", model, revision=commit)
    before, after = (mm.read_logits(c.on(model), facts).logprob.values for c in (change, back))
    FOUND["change"] = bool((before == after).all())
    attempt("change of another model", lambda: mm.load_change("me/change", other))
    attempt("no such change", lambda: mm.load_change("me/nothing"))
    attempt("no change by that path", lambda: mm.load_change("nothing/at/all"))
    attempt("facts are no change", lambda: mm.load_change("me/facts"))
    FOUND["files of the change"] = sorted(HfApi().list_repo_files("me/change"))
    api = HfApi()
    api.upload_file(path_or_fileobj=b"# My words", path_in_repo="README.md", repo_id="me/change")
    attempt("a card that was written on", lambda: mm.load_change("me/change", model).base)
    edited = mm.edit(model, facts.contradicted[:1], "ft_l", mm.FTLConfig(layer=1, clamp=0.05, steps=3))
    edited.push_to_hub("me/change")
    FOUND["files of the next change"] = sorted(api.list_repo_files("me/change"))
    attempt("the next change", lambda: mm.load_change("me/change", model).method)
    tensors = next(name for name in FOUND["files of the next change"] if name.endswith(".safetensors"))
    api.upload_file(path_or_fileobj=b"not these", path_in_repo=tensors, repo_id="me/change", revision="main")
    attempt("a damaged change", lambda: mm.load_change("me/change"))
    api.delete_file(tensors, "me/change")
    attempt("half a change", lambda: mm.load_change("me/change"))
    api.create_repo("me/theirs")
    api.upload_file(path_or_fileobj=b"tensors", path_in_repo="model.safetensors", repo_id="me/theirs")
    attempt("pushing over a model", lambda: change.push_to_hub("me/theirs"))
    attempt("a model is no change", lambda: mm.load_change("me/theirs"))
    FOUND["files of theirs"] = sorted(api.list_repo_files("me/theirs"))


def lens_there_and_back(model: mm.Model, other: mm.Model) -> None:
    lens = mm.fit_lens(model, kind="ridge", n_tokens=512, progress=False)
    lens.push_to_hub("me/lens")
    back = mm.load_lens("me/lens", model, revision="main")
    hashes = {digest(each.layer_translators.state_dict().items()) for each in (lens, back)}
    FOUND["lens"] = len(hashes) == 1 and back.details == lens.details and back.report.equals(lens.report)
    FOUND["files of the lens"] = sorted(HfApi().list_repo_files("me/lens"))
    attempt("lens of another model", lambda: mm.load_lens("me/lens", other))
    attempt("no such lens", lambda: mm.load_lens("me/nothing", model))
    lens.save("pickled")
    HfApi().upload_folder(repo_id="me/lens", folder_path="pickled", delete_patterns="*")
    attempt("a pickle", lambda: mm.load_lens("me/lens", model))


def main(models: Path, hub: Path) -> None:
    torch.set_num_threads(1)
    facts = mm.synthetic_facts(6, n_never=3, distractors=3, seed=3)
    model, other = (mm.load_model(models / name) for name in ("one", "other"))
    change_there_and_back(model, other, facts, hub)
    lens_there_and_back(model, other)
    facts_there_and_back(facts, hub)
    print(json.dumps(FOUND))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
