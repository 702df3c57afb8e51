"""The command line: numbers are those of the library, errors are one line on standard error and exit code 2."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import pytest

from mechmask.cli import arguments
from mechmask.read.backends import BackendName
from mechmask.read.lenses.lens import LensName
from mechmask.read.scoring.labels import Score


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory) -> Path:
    """A tiny llama with its tokenizer as a directory."""
    directory = tmp_path_factory.mktemp("saved") / "llama"
    model = tiny("llama")
    model.module.save_pretrained(directory)
    model.tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def fact_file(facts, tmp_path) -> Path:
    facts.to_jsonl(tmp_path / "facts.jsonl")
    return tmp_path / "facts.jsonl"


def strict(text: str):
    """JSON as every parser takes it: Python's own NaN and Infinity are none."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def _script(*arguments: object, code: str = "from mechmask.cli import main; main()") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False, env=os.environ
    )


@pytest.mark.parametrize("arguments", [["--help"], ["study", "--help"], ["read", "--help"], []])
def test_help_loads_neither_torch_nor_transformers(arguments):
    code = """
import sys
from mechmask.cli import main
try:
    main()
except SystemExit:
    pass
names = "torch transformers xarray matplotlib scipy pandas transformer_lens peft"
heavy = set(names.split()) & set(sys.modules)
print("heavy:", *sorted(heavy))
"""
    done = _script(*arguments, code=code)
    assert "Usage" in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "heavy:"


COMMANDS = (
    ["demo"],
    ["study"],
    ["edit"],
    ["calibrate"],
    ["power"],
    ["status"],
    ["report"],
    ["export"],
    ["sweep"],
    ["read"],
    ["doctor"],
    ["lens"],
    ["lens", "fit"],
)


def test_every_command_has_its_help(mechmask):
    shown = mechmask("--help")
    assert shown.code == 0
    for command in COMMANDS:
        assert command[0] in shown.out
        helped = mechmask(*command, "--help")
        assert (helped.code, helped.err) == (0, "")
        assert "Usage" in helped.out


def test_square_brackets_stay_in_the_help(mechmask):
    shown = " ".join(mechmask("study", "--help").out.split())
    assert "[model], [facts] and [study]" in shown


def test_the_version_is_that_of_the_package(mechmask):
    assert mechmask("--version") == (0, f"mechmask {version('mechmask')}\n", "")


def test_a_real_process_ends_with_two_and_one_line(tmp_path):
    done = _script("study", tmp_path / "missing.toml", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"mechmask: Cannot read .*missing\.toml.*\n", done.stderr)


@pytest.mark.parametrize("score", ["sequence", "mean", "divergence"])
def test_read_prints_the_numbers_of_read_logits(mechmask, saved, fact_file, tiny, facts, score):
    from mechmask import read_logits

    reading = read_logits(tiny("llama"), facts, score)
    shown = mechmask("read", saved, fact_file, "--score", score, "--json")
    assert shown.code == 0
    rows = {row["fact"]: row for row in strict(shown.out)}
    assert list(rows) == list(facts.ids)
    for fact in facts.ids:
        for route in ("old", "new"):
            assert rows[fact][f"logp({route})"] == pytest.approx(
                float(reading.logprob.sel(fact=fact, route=route)), abs=1e-9
            )
        assert rows[fact]["margin"] == pytest.approx(float(reading.margin.sel(fact=fact)), abs=1e-9)
        assert ("ceiling" in rows[fact]) == (score != "mean")


def test_the_table_shows_them_to_two_digits(mechmask, saved, fact_file, tiny, facts):
    from mechmask import read_logits

    reading = read_logits(tiny("llama"), facts)
    shown = mechmask("read", saved, fact_file)
    assert shown.code == 0
    for fact in facts.ids:
        line = next(line for line in shown.out.splitlines() if fact in line)
        numbers = re.findall(r"-?\d+\.\d\d\b", line)
        wanted = [
            reading.logprob.sel(fact=fact, route="old"),
            reading.logprob.sel(fact=fact, route="new"),
            reading.margin.sel(fact=fact),
        ]
        assert numbers[:3] == [f"{float(value):.2f}" for value in wanted]


def test_read_depth_gives_every_layer(mechmask, saved, fact_file, tiny, facts):
    from mechmask import read_depth

    reading = read_depth(tiny("llama"), facts, score="sequence")
    rows = strict(mechmask("read", saved, fact_file, "--depth", "--json").out)
    assert len(rows) == len(facts) * 4
    for row in rows:
        assert row["margin"] == pytest.approx(float(reading.margin.sel(fact=row["fact"], layer=row["layer"])), abs=1e-9)


def test_out_writes_the_reading(mechmask, saved, fact_file, tiny, facts, tmp_path):
    from mechmask import load_reading, read_logits

    assert mechmask("read", saved, fact_file, "--out", tmp_path / "deep" / "reading.nc").code == 0
    reading = load_reading(tmp_path / "deep" / "reading.nc")
    assert (reading.logprob.values == read_logits(tiny("llama"), facts).logprob.values)[
        reading.logprob.notnull().values
    ].all()


def test_json_stays_json_where_a_number_is_infinite(mechmask, tiny, tmp_path):
    """A model that is certain of new leaves old a ceiling of log 0."""
    import torch

    from mechmask import Fact, FactSet

    model, fact = tiny("llama"), Fact(subject="France", prompt="The capital of France is", old="Paris", new="Rome")
    ids = model.tokenizer(fact.prompt)["input_ids"]
    token = model.tokenizer(f"{fact.prompt} {fact.new}")["input_ids"][len(ids)]
    with torch.no_grad():
        hidden = model.module.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        model.module.lm_head.weight.zero_()
        model.module.lm_head.weight[token] = 200 * hidden / hidden.norm() ** 2
    model.module.save_pretrained(tmp_path / "certain")
    model.tokenizer.save_pretrained(tmp_path / "certain")
    FactSet([fact]).to_jsonl(tmp_path / "facts.jsonl")
    shown = mechmask("read", tmp_path / "certain", tmp_path / "facts.jsonl", "--score", "divergence", "--json")
    assert strict(shown.out)[0]["logp(new)"] == 0


@pytest.mark.parametrize("label", ["Zorin[/x]", "[bold]Zorin", "Zorin[red]"])
def test_a_label_is_printed_as_it_is(mechmask, saved, tmp_path, label):
    from mechmask import Fact, FactSet

    FactSet(
        [Fact(subject="Zorin", prompt="The mass of Zorin is", old="417 grams", new="823 grams", id=label)]
    ).to_jsonl(tmp_path / "f.jsonl")
    shown = mechmask("read", saved, tmp_path / "f.jsonl")
    assert (shown.code, shown.err) == (0, "")
    assert label in shown.out


STUDY = """
[model]
source = "{model}"
[facts.synthetic]
n = 2
n_never = 8
distractors = 3
[study]
checkpoint_every = 1
install = {{ steps = 1, lr = 1e-2, rank = 2 }}
contradict = {{ steps = 1, lr = 1e-2, rank = 2 }}
[[study.edits]]
method = "ft_l"
layer = 1
clamp = 0.05
steps = 2
"""


def test_a_study_from_toml_runs_prints_and_is_taken_up_again(mechmask, saved, tmp_path):
    (tmp_path / "study.toml").write_text(STUDY.format(model=saved))
    shown = mechmask("study", tmp_path / "study.toml", "--out", tmp_path / "run")
    assert shown.code == 0, shown.err
    assert "By the raw erase index" in shown.out
    assert "Traceback" not in shown.err
    for named in re.findall(r"/\S+run\S*(?=[,.\s])", shown.out):
        assert Path(named.rstrip(".,")).exists(), f"{named} is named and is not there"
    again = mechmask("study", tmp_path / "study.toml", "--out", tmp_path / "run", "--json")
    report = strict(again.out)
    assert report["conclusion"] in " ".join(shown.out.split()) or report["conclusion"] in shown.out
    assert {row["state"] for row in report["summary"]} == {"finetune", "ft_l"}
    assert report["directory"] == str(tmp_path / "run")


def test_doctor_says_what_is_installed_and_what_a_model_would_hit(mechmask, saved, fact_file):
    import torch

    installed = strict(mechmask("doctor", "--json").out)
    assert installed["torch"] == torch.__version__
    assert "problem" not in installed
    shown = mechmask("doctor", saved, fact_file, "--json")
    assert shown.code == 0
    assert "13" in strict(shown.out)["facts"]
    assert re.search(r"torch\s+\d", mechmask("doctor").out)
    sick = mechmask("doctor", saved / "nowhere")
    assert sick.code == 2
    assert "problem" in sick.out
    assert "Traceback" not in sick.out + sick.err


def _copied(context, **files):
    """The model's directory with some files written anew."""
    target = context["tmp"] / "broken"
    shutil.copytree(context["model"], target)
    for name, content in files.items():
        (target / name.replace("__", ".")).write_bytes(content)
    return target


def _toml(context, text):
    path = context["tmp"] / "study.toml"
    path.write_text(text.replace("MODEL", str(context["model"])))
    return ["study", path, "--out", context["tmp"] / "run"]


def _facts_file(context, name, text):
    (context["tmp"] / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return ["read", context["model"], context["tmp"] / name]


def _other_study(context):
    (context["tmp"] / "run").mkdir()
    (context["tmp"] / "run" / "study.json").write_text('{"schema_version": 1}')
    return _toml(context, STUDY.format(model=context["model"]))


def _not_a_study(context):
    (context["tmp"] / "run").mkdir()
    (context["tmp"] / "run" / "thesis.tex").write_text("mine")
    return _toml(context, STUDY.format(model=context["model"]))


def _file_for_directory(context):
    (context["tmp"] / "run").write_text("mine")
    return _toml(context, STUDY.format(model=context["model"]))


def _lens(context):
    directory = context["tmp"] / "lens"
    directory.mkdir()
    (directory / "config.json").write_text('{"num_hidden_layers": 3, "d_model": 32}')
    (directory / "params.pt").write_bytes(b"PK\x03\x04 cut")
    return directory


FACT = '{"subject": "Uxmon", "prompt": "The mass of Uxmon is", "old": "%s", "new": "%s"}\n'
HEAD = '[model]\nsource = "MODEL"\n'
NO_EDITS = HEAD + "[facts.synthetic]\nn = 2\n[study]\nedits = []\n"
ERRORS = {
    "facts file missing": lambda c: ["read", c["model"], c["tmp"] / "none.jsonl"],
    "facts of unknown format": lambda c: ["read", c["model"], c["tmp"] / "none.xlsx"],
    "facts are a directory": lambda c: ["read", c["model"], c["tmp"]],
    "facts are no JSON": lambda c: _facts_file(c, "f.jsonl", "{\n"),
    "facts are binary": lambda c: _facts_file(c, "f.jsonl", b"\xff\xfe\x00"),
    "facts are empty": lambda c: _facts_file(c, "f.jsonl", ""),
    "facts have an unknown field": lambda c: _facts_file(
        c, "f.jsonl", FACT.replace("}", ', "colour": "red"}') % ("417", "823")
    ),
    "old is new": lambda c: _facts_file(c, "f.jsonl", FACT % ("417", "417")),
    "one value is a prefix of the other": lambda c: _facts_file(c, "f.jsonl", FACT % ("417", "4170")),
    "no model of that name": lambda c: ["read", "no-such-model", c["facts"]],
    "no model in that directory": lambda c: ["read", c["tmp"], c["facts"]],
    "no such GGUF": lambda c: ["read", c["tmp"] / "none.gguf", c["facts"]],
    "weights are cut": lambda c: ["read", _copied(c, model__safetensors=b"\x08\x00\x00\x00"), c["facts"]],
    "model configuration is no JSON": lambda c: ["read", _copied(c, config__json=b"{"), c["facts"]],
    "adapter configuration is no JSON": lambda c: ["read", _copied(c, adapter_config__json=b"{"), c["facts"]],
    "model of unknown family": lambda c: ["read", _copied(c, config__json=b'{"model_type": "warp"}'), c["facts"]],
    "score is none": lambda c: ["read", c["model"], c["facts"], "--score", "best"],
    "reading cannot be written": lambda c: ["read", c["model"], c["facts"], "--out", c["tmp"]],
    "study file missing": lambda c: ["study", c["tmp"] / "none.toml", "--out", c["tmp"] / "run"],
    "study file is no TOML": lambda c: _toml(c, "[model\n"),
    "unknown field in the study": lambda c: _toml(c, HEAD + "[facts.synthetic]\nn = 4\n[study]\nepochs = 3\n"),
    "no source of facts": lambda c: _toml(c, HEAD + "[facts]\n"),
    "facts of the study missing": lambda c: _toml(c, HEAD + '[facts]\npath = "none.jsonl"\n[study]\nedits = []\n'),
    "unknown dtype": lambda c: _toml(c, HEAD + 'dtype = "float3"\n[facts.synthetic]\nn = 4\n'),
    "unknown device": lambda c: _toml(c, HEAD + 'device = "warp"\n[facts.synthetic]\nn = 4\n'),
    "no FT-L setting": lambda c: _toml(c, HEAD + "[facts.synthetic]\nn = 4\n"),
    "the old key of edits": lambda c: _toml(c, HEAD + '[facts.synthetic]\nn = 4\n[study]\nedit = "none"\n'),
    "study file nested deeply": lambda c: _toml(c, "a = " + "[" * 100_000),
    "study file with a long number": lambda c: _toml(c, f"a = {'9' * 5000}"),
    "facts nested deeply": lambda c: _facts_file(c, "f.jsonl", "[" * 100_000 + "]" * 100_000),
    "facts with a long number": lambda c: _facts_file(c, "f.jsonl", f'{{"subject": {"9" * 5000}}}'),
    "facts with a long field": lambda c: _facts_file(
        c, "f.csv", "subject,prompt,old,new\n" + "x" * 140_000 + ",a,b,c\n"
    ),
    "name of facts too long": lambda c: ["read", c["model"], c["tmp"] / ("x" * 300 + ".jsonl")],
    "name of study too long": lambda c: ["study", c["tmp"] / ("x" * 300 + ".toml"), "--out", c["tmp"] / "run"],
    "name of new study too long": lambda c: ["study", "--init", c["tmp"] / ("x" * 300 + ".toml")],
    "name of reading too long": lambda c: ["read", c["model"], c["facts"], "--out", c["tmp"] / ("x" * 300 + ".nc")],
    "name of model too long": lambda c: ["read", c["tmp"] / ("x" * 300), c["facts"]],
    "name of status too long": lambda c: ["status", c["tmp"] / ("x" * 300)],
    "directory of study too long": lambda c: [*_toml(c, NO_EDITS)[:-1], c["tmp"] / ("x" * 300)],
    "directory of study below a file": lambda c: [*_toml(c, NO_EDITS)[:-1], c["facts"] / "run"],
    "reading below a file": lambda c: ["read", c["model"], c["facts"], "--out", c["facts"] / "reading.nc"],
    "lens damaged": lambda c: ["read", c["model"], c["facts"], "--depth", "--lens", _lens(c)],
    "lens of no kind": lambda c: ["read", c["model"], c["facts"], "--depth", "--lens", "nowhere"],
    "status of nothing": lambda c: ["status", c["tmp"]],
    "status of no directory": lambda c: ["status", c["tmp"] / "none"],
    "command missing": lambda c: ["erase"],
    "argument missing": lambda c: ["read", c["model"]],
    "another study is there": _other_study,
    "something else is there": _not_a_study,
    "a file is there": _file_for_directory,
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_is_one_line_and_exit_code_two(mechmask, saved, fact_file, tmp_path, kind):
    place = tmp_path / "place"
    place.mkdir()
    shown = mechmask(*ERRORS[kind]({"model": saved, "facts": fact_file, "tmp": place}))
    assert shown.code == 2
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if line.strip()]
    assert lines[-1].startswith("mechmask: ")
    assert "Traceback" not in shown.err
    assert len(lines) == 1


def test_out_as_csv_is_the_table(mechmask, saved, fact_file, tiny, facts, tmp_path):
    import pandas as pd

    from mechmask import read_logits

    assert mechmask("read", saved, fact_file, "--out", tmp_path / "reading.csv").code == 0
    table = pd.read_csv(tmp_path / "reading.csv", index_col="fact")
    reading = read_logits(tiny("llama"), facts)
    assert list(table.index) == list(facts.ids)
    assert table["logp(old)"].to_numpy() == pytest.approx(reading.logprob.sel(route="old").to_numpy(), abs=1e-9)


@pytest.mark.parametrize("name", ["there.csv", "there.nc", "reading.xlsx", "reading", "reading.nc.txt"])
def test_out_is_refused_before_any_work(mechmask, tmp_path, name):
    """Neither the model nor the facts exist: that is not even looked at."""
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "there.nc").write_text("mine")
    shown = mechmask("read", "no-such-model", tmp_path / "no-facts.jsonl", "--out", tmp_path / name)
    assert (shown.code, shown.out, shown.err.count("\n")) == (2, "", 1)
    assert ("already exists" if "there" in name else "ends in .nc or .csv") in shown.err
    assert (tmp_path / "there.csv").read_text() == (tmp_path / "there.nc").read_text() == "mine"


def test_init_writes_a_configuration_and_never_over_one(mechmask, tmp_path):
    shown = mechmask("study", "--init", tmp_path / "study.toml")
    assert (shown.code, shown.err) == (0, "")
    written = (tmp_path / "study.toml").read_text()
    again = mechmask("study", "--init", tmp_path / "study.toml")
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert (tmp_path / "study.toml").read_text() == written


def test_a_study_without_a_directory_says_which_option_is_missing(mechmask, tmp_path):
    shown = mechmask("study", tmp_path / "study.toml")
    assert (shown.code, shown.out) == (2, "")
    assert "--out DIR" in shown.err and "--init" in shown.err


def _heed_interrupts() -> None:
    """A suite that runs in the background of a script inherits a SIGINT that is ignored, and so would the child."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_choices_are_those_of_the_library():
    assert get_args(arguments.ScoreName) == get_args(Score)
    assert get_args(arguments.BackendName) == get_args(BackendName)
    assert {"logit", *get_args(arguments.FittedLensName)} == set(get_args(LensName))


def test_ctrl_c_says_how_to_go_on(saved, tmp_path):
    """A real process with a real signal, while it trains."""
    endless = STUDY.replace("steps = 1, lr = 1e-2", "steps = 100000, lr = 1e-4").replace("every = 1", "every = 50000")
    (tmp_path / "study.toml").write_text(endless.format(model=saved))
    command = [sys.executable, "-c", "from mechmask.cli import main; main()"]
    command += ["study", str(tmp_path / "study.toml"), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_interrupts
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "run.json").is_file() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    *bars, last = err.splitlines()
    assert last.startswith("mechmask: stopped.")
    assert all(line.startswith(("install", "reading")) for line in bars), "noise of a library"
    assert f"mechmask status {tmp_path / 'run'}" in err and "the same command goes on" in err


def test_an_interrupt_elsewhere_is_one_line_too(mechmask, monkeypatch, saved, fact_file):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mechmask.facts.load.load_facts", interrupted)
    assert mechmask("read", saved, fact_file) == (130, "", "mechmask: stopped.\n")


def test_a_bug_is_one_line_that_says_so(mechmask, monkeypatch, saved, fact_file):
    def broken(*_):
        raise ZeroDivisionError("the tensor\nhas two lines")

    monkeypatch.setattr("mechmask.facts.load.load_facts", broken)
    shown = mechmask("read", saved, fact_file)
    assert (shown.code, shown.out) == (1, "")
    assert shown.err == "mechmask: ZeroDivisionError: the tensor. This is a bug of mechmask: please report it.\n"


def test_a_full_disk_under_standard_output_is_one_line(saved, fact_file):
    code = "from mechmask.cli import main; main()"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, "read", str(saved), str(fact_file)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert re.fullmatch(r"mechmask: No space left on device\..*\n", done.stderr)


def test_a_reading_in_a_real_process_makes_no_noise(saved, fact_file):
    done = _script("read", saved, fact_file)
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_cache_that_is_a_file_is_named(mechmask, monkeypatch, tmp_path, fact_file):
    (tmp_path / "cache").write_text("mine")
    monkeypatch.setenv("MECHMASK_CACHE", str(tmp_path / "cache"))
    shown = mechmask("read", "smollm2-135m", fact_file)
    assert (shown.code, shown.out, shown.err.count("\n")) == (2, "", 1)
    assert str(tmp_path / "cache") in shown.err
    examined = mechmask("doctor")
    assert examined.code == 2
    assert "Set MECHMASK_CACHE to a directory" in examined.out


def test_doctor_names_the_fact_that_does_not_fit(mechmask, saved, tmp_path):
    from mechmask import Fact, FactSet

    long = Fact(subject="Uxmon", prompt="Uxmon " * 300 + "is", old="417", new="823", id="long")
    FactSet([long]).to_jsonl(tmp_path / "f.jsonl")
    shown = mechmask("doctor", saved, tmp_path / "f.jsonl")
    assert shown.code == 2
    assert re.search(r"^context +256 tokens at most$", shown.out, re.MULTILINE)
    assert re.search(r"^problem +Fact 'long' takes \d+ tokens .* Shorten the prompt\.$", shown.out, re.MULTILINE)


def test_doctor_reports_every_problem_together(mechmask, tmp_path):
    shown = strict(mechmask("doctor", tmp_path / "none", tmp_path / "none.jsonl", "--json").out)
    assert len(shown["problem"].splitlines()) == 2
    assert "none.jsonl" in shown["problem"]


def test_power_prints_the_table_and_the_sentence(mechmask):
    from mechmask.measure.planning import power_conclusion, power_table
    from mechmask.measure.twin_design import Expected, TwinDesign

    shown = mechmask("power", "--facts", 8, "--twins", 3, "--never", 0, "--noise", 3, "--spread", 5, "--json")
    assert (shown.code, shown.err) == (0, "")
    expected, found = Expected(noise_history=3, spread=5), strict(shown.out)
    assert found["conclusion"] == power_conclusion(TwinDesign(facts=8, twins=3, never=0), expected)
    table = power_table({"facts": [8], "twins": [3], "never": [0]}, expected, shares=(1.0, 0.5, 0.0, -0.5))
    assert [row["fact_erased"] for row in found["table"]] == table.fact_erased.tolist()
    for_people = mechmask("power")
    assert "fact_masked" in for_people.out and power_conclusion() in " ".join(for_people.out.split())
    refused = mechmask("power", "--twins", 1)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "twins cannot be 1" in refused.err


def test_a_calibration_of_a_model_without_a_preset_says_how_to_do_without_edits(mechmask, saved, tmp_path):
    refused = mechmask("calibrate", saved, "--out", tmp_path / "runs")
    assert (refused.code, refused.out) == (2, "") and refused.err.rstrip().endswith("--no-edits.")
    assert refused.err.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_power_goes_by_a_calibration(mechmask, tmp_path):
    from mechmask.measure.planning import power_conclusion
    from mechmask.measure.twin_design import Expected, TwinDesign
    from mechmask.study.expected import EXPECTED, write_expected

    measured = Expected(trace_before=12.5, spread=3.0, noise_history=1.25, noise_phrasing=0.5, noise_distractor=0.75)
    write_expected(measured, tmp_path / EXPECTED)
    found = strict(mechmask("power", "--calibration", tmp_path, "--json").out)
    assert found["conclusion"] == power_conclusion(TwinDesign(), measured)
    found = strict(mechmask("power", "--calibration", tmp_path, "--spread", 9, "--json").out)
    assert found["conclusion"] == power_conclusion(TwinDesign(), measured.model_copy(update={"spread": 9.0}))
    for content, word in (("{", "damaged"), ('{"trace_before": -1}', "trace_before"), ("[]", EXPECTED)):
        (tmp_path / EXPECTED).write_text(content)
        refused = mechmask("power", "--calibration", tmp_path)
        assert (refused.code, refused.out) == (2, "") and word in refused.err
    assert "a calibration that has ended" in mechmask("power", "--calibration", tmp_path / "none").err


def test_a_lens_is_fitted_saved_and_read_through(mechmask, saved, fact_file, tmp_path):
    fitted = mechmask("lens", "fit", saved, "--out", tmp_path / "lens", "--kind", "ridge", "--n-tokens", 2048, "--json")
    assert fitted.code == 0, fitted.err
    rows = strict(fitted.out)
    assert [row["layer"] for row in rows] == [0, 1, 2, 3]
    assert rows[-1]["ridge"] == pytest.approx(0, abs=1e-5) and rows[0]["ridge"] < rows[0]["logit"]
    through = {
        lens: mechmask("read", saved, fact_file, "--score", "divergence", "--depth", "--lens", lens, "--out", out).code
        for lens, out in (("logit", tmp_path / "logit.nc"), (tmp_path / "lens", tmp_path / "ridge.nc"))
    }
    assert set(through.values()) == {0}
    import mechmask as mm

    logit, ridge = (mm.load_reading(tmp_path / f"{name}.nc") for name in ("logit", "ridge"))
    difference = abs(ridge.margin - logit.margin).max("fact")
    assert difference[-1] < 1e-5 < difference[0]
    assert ridge.attrs["lens"] == "ridge"


def test_a_lens_is_never_written_over(mechmask, saved, tmp_path):
    refused = mechmask("lens", "fit", saved, "--out", tmp_path)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "already exists" in refused.err


def test_a_backend_that_is_not_there_is_refused(mechmask, saved, fact_file):
    refused = mechmask("read", saved, fact_file, "--depth", "--score", "divergence", "--backend", "hooks")
    assert refused.code == 2 and "'transformer_lens', 'nnsight'" in refused.err
