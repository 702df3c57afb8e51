"""Results open from their directory: without a model, without torch, and not where a file was altered."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import xarray as xr

import mechmask as mm
from mechmask.errors import MechmaskError, StudyError

WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "peft", "transformer_lens", "nnsight", "tuned_lens"):
            raise ImportError(f"{name} is refused")
sys.meta_path.insert(0, Refuse())
from pathlib import Path
import mechmask as mm
study = mm.open_study(sys.argv[1])
print(study.conclusion())
print(len(study.summary()), len(study.overview()), len(study.facts), study.config["level"])
print(study.to_markdown()[:8], study.to_latex()[:6])
for name, figure in {
    "trajectory": mm.draw.trajectory(study.trajectory),
    "checkpoints": mm.draw.checkpoints(study.depth_trajectory),
    "depth": mm.draw.depth(study.depth),
    "erase": mm.draw.erase(study.erase),
}.items():
    mm.draw.save_figure(figure, Path(sys.argv[2]) / f"{name}.png")
print(mm.erase_index(study.before, study.after).sizes["fact"], mm.commit_layer(study.depth).dims)
print([row.state for row in mm.study_status(sys.argv[1])].count("done"))
print(study.tree["results/erase"].sizes["state"])
"""


def test_results_figures_and_measures_need_no_torch(done, tmp_path):
    directory = done[1]
    command = [sys.executable, "-c", WITHOUT_TORCH, str(directory), str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert done[0].conclusion() in finished.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoints.png",
        "depth.png",
        "erase.png",
        "trajectory.png",
    ]


def test_what_a_run_returns_is_what_opens(done):
    study, directory = done
    opened = mm.open_study(directory)
    for name in ("before", "after", "trajectory", "depth_trajectory", "depth", "erase"):
        xr.testing.assert_identical(getattr(study, name), getattr(opened, name))
    assert type(study) is type(opened)
    assert opened.facts == mm.load_facts(directory / "facts.jsonl")


def test_the_tree_holds_every_reading(done):
    study = done[0]
    xr.testing.assert_identical(study.tree["results/erase"].to_dataset(), study.erase)
    xr.testing.assert_identical(study.tree["readings/read_logits/before"].to_dataset(), study.before)
    assert {"before", "finetune", "ft_l"} == set(study.tree["readings/read_depth"].children)


def test_tab_completion_shows_no_internals(done):
    assert not [name for name in dir(done[0]) if name.startswith("_")]
    assert {"summary", "overview", "conclusion", "tree", "erase"} <= set(dir(done[0]))


@pytest.mark.parametrize("name", ["results/erase/reading.nc", "results/depth/step.json", "facts.jsonl", "run.json"])
def test_a_file_that_was_altered_is_refused_by_name(done, tmp_path, name):
    root = tmp_path / "run"
    shutil.copytree(done[1], root)
    path = root / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(MechmaskError, match=path.name.replace(".", r"\.")):
        study = mm.open_study(root)
        _ = (study.erase, study.depth, study.facts)


def test_a_result_of_steps_that_were_made_anew_is_refused(done, tmp_path, small_facts, small_config, tiny):
    """As after a study whose configuration was changed and that was stopped before its end."""
    root = tmp_path / "run"
    shutil.copytree(done[1], root)
    with mm.Run(root, tiny("llama"), small_facts) as run:
        mm.train(run, "install", small_facts.install_examples(), small_config.install.model_copy(update={"lr": 2e-2}))
    study = mm.open_study(root)
    with pytest.raises(StudyError, match=r"changes/install.*has not been run to its end"):
        _ = study.before
    states = {row.step: row.state for row in mm.study_status(root)}
    assert states["changes/install"] == "done"
    assert states["changes/contradict"] == states["results/erase"] == "out of date"


@pytest.mark.parametrize("kind", ["missing", "empty", "of 0.1", "file"])
def test_what_is_no_study_is_refused_in_one_sentence(tmp_path, kind):
    root = tmp_path / "place"
    if kind == "file":
        root.write_text("mine")
    elif kind != "missing":
        root.mkdir()
    if kind == "of 0.1":
        (root / "study.json").write_text('{"schema_version": 2}')
    with pytest.raises(StudyError, match=r"0\.1\.0" if kind == "of 0.1" else "holds no study"):
        mm.open_study(root)


def test_an_unfinished_study_says_so(tiny, small_facts, tmp_path):
    with mm.Run(tmp_path / "run", tiny("llama"), small_facts):
        pass
    study = mm.open_study(tmp_path / "run")
    with pytest.raises(StudyError, match="has not been run to its end"):
        study.summary()
    assert "StudyResults" in study._repr_html_()
