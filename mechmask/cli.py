"""The command line: parses, calls study and draw, prints. Everything else is a line of Python away.

Errors are one sentence on standard error and exit code 2; results go to standard output, as JSON with ``--json``.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mechmask.console import drop_output, loading, print_json, show, stop, stop_at_usage
from mechmask.errors import ChangeError, MechmaskError, ReadingError, StudyError
from mechmask.file_errors import file_errors

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from mechmask.study.draws import DrawnResults
    from mechmask.study.paper_results import PaperResults
    from mechmask.study.results import StudyResults

_INTERRUPTED = 130  # what a shell expects of a program that Ctrl-C ended

app = typer.Typer(
    help="Is a fact that a language model no longer says deleted, or out-competed?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # square brackets are TOML here, not markup
)

lenses = typer.Typer(help="Lenses for readings of depth.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(lenses, name="lens")


# Named here once more: where they are defined, torch is imported.
ScoreName = Literal["sequence", "mean", "divergence"]
BackendName = Literal["transformer_lens", "nnsight"]
FittedLensName = Literal["tuned", "ridge"]
EditedHow = Literal["each", "together", "sequence"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script instead of a table.")]
ModelName = Annotated[
    str, typer.Argument(help="smollm2-135m, a Hub id, a directory, a .gguf file or a PEFT adapter.", metavar="MODEL")
]


def main() -> None:
    """Entry point of the console script."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries, about themselves
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    code: object = 0
    try:
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        stop("mechmask: stopped.", _INTERRUPTED)
    except MechmaskError as error:
        stop(f"mechmask: {error}", 2)
    except BrokenPipeError:
        drop_output()
        stop("", 1)
    except RecursionError:
        stop("mechmask: The input is nested too deeply to be read. Give a plainer file.", 2)
    except OSError as error:
        if error.filename is None:
            drop_output()
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
        stop(f"mechmask: {what}. Check the path, its permissions and the free space.", 2)
    except MemoryError:
        stop(
            "mechmask: There is not enough memory. Use a smaller model, or in a study a smaller batch_size.",
            2,
        )
    except Exception as error:
        stop_at_usage(error)
        first = (str(error).strip().splitlines() or ["no message"])[0]
        stop(f"mechmask: {type(error).__name__}: {first}. This is a bug of mechmask: please report it.", 1)
    if code == _INTERRUPTED:
        stop("mechmask: stopped.", _INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"mechmask {version('mechmask')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Is a fact that a language model no longer says deleted, or out-competed?"""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Directory of the study; taken up again where it stopped.")] = Path(
        "mechmask-demo"
    ),
    seed: Annotated[int, typer.Option(help="Draws the facts.", min=0)] = 0,
    json: Json = False,
) -> None:
    """The main job on SmolLM2-135M: correct facts that it knows and facts that it was taught, and look for the old."""
    with _resumable(out):
        with loading():
            from mechmask.models.load import load_model
            from mechmask.study.demo import KNOWN_HOW, run_demo
        with loading("the model"):
            model = load_model()
        done = run_demo(model, out, seed)
    from mechmask.measure.summary import plainly

    sentences = {name: plainly(results.erase, KNOWN_HOW[name]) for name, results in done.items()}
    if json:
        print_json({name: {"plainly": sentences[name], **_as_json(results)} for name, results in done.items()})
        return
    for name, results in done.items():
        _show_summary(results, f"Facts {KNOWN_HOW[name]}: erase index and traces in nats")
    for name, sentence in sentences.items():
        typer.echo(f"{sentence} Figures in {out / name / 'figures'}.")


@app.command()
def study(
    config: Annotated[Path, typer.Argument(help="TOML with the tables [model], [facts] and [study].")],
    out: Annotated[Path | None, typer.Option(help="Directory of the study; taken up again where it stopped.")] = None,
    init: Annotated[
        bool, typer.Option("--init", help="Write CONFIG anew, with every setting, its default and what it means.")
    ] = False,
    paper: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --init: all experiments of the paper, for smollm2-135m, qwen2.5-1.5b, qwen2.5-3b, llama-3.2-3b "
            "or gpt2-xl.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """A study as a TOML file describes it."""
    if init:
        from mechmask.study.template import write_template

        write_template(config, paper)
        held = "every setting with its default" if paper is None else "all experiments of the paper"
        typer.echo(f"{config} holds {held}. Edit it, then: mechmask study {config} --out DIR")
        return
    if paper is not None:
        raise StudyError("--paper names a configuration to write. Give --init beside it.")
    if out is None:
        raise StudyError("The study needs a directory. Give --out DIR, or --init to write a configuration.")
    with _resumable(out):
        with loading():
            from mechmask.study.toml import study_from_file
        with loading("the model"):
            described = study_from_file(config)
        _report(described.run(out), json)


@app.command()
def edit(
    model: ModelName,
    data: Annotated[Path, typer.Argument(help="Facts: CounterFact, zsRE, own JSONL or CSV, and others.")],
    out: Annotated[Path, typer.Option(help="Directory of the study; taken up again where it stopped.")],
    methods: Annotated[
        str,
        typer.Option(
            help="Editors with commas between them: names, such as ft_l, whose preset for the model is taken; TOML "
            "files with an editor's own settings; or all that have a preset."
        ),
    ] = "all",
    facts: Annotated[int, typer.Option(help="Facts that the model knows, at most so many.", min=1)] = 100,
    format: Annotated[str, typer.Option(help="Of the data, as load_facts takes it, such as counterfact.")] = "auto",
    edited: Annotated[
        EditedHow, typer.Option(help="Each fact alone, all together, or one after the other on one model.")
    ] = "each",
    text: Annotated[
        str | None, typer.Option(help="UTF-8 text to read drift on, or model: text that it samples itself.")
    ] = None,
    generation: Annotated[bool, typer.Option(help="Whether texts are sampled, for GE.")] = True,
    seed: Annotated[int, typer.Option(help="Draws the facts, and texts.", min=0)] = 0,
    json: Json = False,
) -> None:
    """Editors side by side on facts that the model knows: ES, PS, NS, S and GE beside the verdict on the old value."""
    with _resumable(out):
        with loading():
            from mechmask.facts.load import load_facts
            from mechmask.models.load import load_model
            from mechmask.study.editing_facts import drawn_facts
            from mechmask.study.editing_methods import configured
            from mechmask.study.protocols.editing import EditStudy

        contested = load_facts(data, format)
        with loading("the model"):
            loaded = load_model(model)
        settings = {"edited": edited, "text": text, "generation": generation, "seed": seed}
        config = configured(loaded, methods, settings)
        _report(EditStudy(loaded, drawn_facts(loaded, contested, facts, seed=seed), config).run(out), json)


@app.command()
def calibrate(
    model: ModelName,
    out: Annotated[Path, typer.Option(help="Directory of the draws; taken up again where it stopped.")],
    choosing: Annotated[int, typer.Option(help="Draws of facts that choose the statistic.", min=1)] = 4,
    judging: Annotated[
        int, typer.Option(help="Further draws that judge it and have no part in the choice.", min=1)
    ] = 4,
    edits: Annotated[bool, typer.Option(help="Whether facts are edited too (FT-L), which takes a preset.")] = True,
) -> None:
    """Which statistic tells that a model knew, where the truth is known. It takes hours on two cores."""
    with _resumable(out):
        with loading():
            from mechmask.models.load import load_model
            from mechmask.study.calibration import calibrate as calibrated
            from mechmask.study.protocols.calibrate import CalibrationConfig
            from mechmask.study.states import edit_settings

        seeds, loaded = range(choosing + judging), load_model(model)
        config = CalibrationConfig() if edits else CalibrationConfig(edits=())
        try:
            edit_settings(loaded, config.edits)
        except ChangeError as error:
            raise ChangeError(f"{str(error).split('. ')[0]}. Leave the edits out: --no-edits.") from error
        found = calibrated(loaded, out, choosing=seeds[:choosing], judging=seeds[choosing:], config=config)
    typer.echo(found.to_markdown())
    typer.echo(f"The page is {out / 'calibration.md'}, its tables are beside it.")


@app.command()
def status(
    directory: Annotated[Path, typer.Argument(help="Directory of a study.", metavar="DIR")], json: Json = False
) -> None:
    """What of a study is done and what is not."""
    from mechmask.study.status import study_status

    rows = study_status(directory)
    if json:
        print_json([row._asdict() for row in rows])
        return
    width = max([len(row.step) for row in rows], default=0)
    for row in rows:
        typer.echo(f"{row.step:<{width}}  {row.state:<11}  {row.detail}".rstrip())
    n_done = sum(row.state == "done" for row in rows)
    typer.echo(f"{n_done} of {len(rows)} steps are done.")


@app.command()
def read(
    model: ModelName,
    facts: Annotated[Path, typer.Argument(help="Facts: JSONL, CSV, or a data set as it is published.")],
    score: Annotated[ScoreName, typer.Option(help="How a value's tokens become one number.")] = "sequence",
    depth: Annotated[bool, typer.Option("--depth", help="Read every layer, not only the output.")] = False,
    lens: Annotated[str, typer.Option(help="With --depth: logit, ridge, tuned, or the directory of a lens.")] = "logit",
    backend: Annotated[
        BackendName, typer.Option(help="With --depth: who watches the residual stream.")
    ] = "transformer_lens",
    out: Annotated[Path | None, typer.Option(help="Also write the reading here: .nc, or the table as .csv.")] = None,
    json: Json = False,
) -> None:
    """Log-probabilities of old, new and distractors of every fact."""
    _require_new(out, (".nc", ".csv"))
    with loading():
        from mechmask.facts.load import load_facts
        from mechmask.models.load import load_model
        from mechmask.read.depth import read_depth
        from mechmask.read.lenses.load import load_lens
        from mechmask.read.logits import read_logits

    contested = load_facts(facts)
    with loading("the model"):
        loaded = load_model(model)
    if depth:
        chosen = load_lens(lens, loaded) if Path(lens).is_dir() else lens
        reading = read_depth(loaded, contested, chosen, score, backend)
    else:
        reading = read_logits(loaded, contested, score)
    table = _table(reading)
    if out is not None:
        _write(reading, table, out)
    show(table, f"{loaded.name}, {score}, nats", json)


@lenses.command()
def fit(
    model: ModelName,
    out: Annotated[Path, typer.Option(help="New directory for the lens, in tuned-lens's own format.")],
    corpus: Annotated[
        Path | None, typer.Option(help="UTF-8 text; by default text that the model samples from itself.")
    ] = None,
    kind: Annotated[
        FittedLensName, typer.Option(help="tuned, or ridge: the closed form that it starts from.")
    ] = "tuned",
    n_tokens: Annotated[int, typer.Option(help="Tokens of text, a tenth of them held out.")] = 16384,
    seed: Annotated[int, typer.Option(help="Draws the text and the held-out part.", min=0)] = 0,
    json: Json = False,
) -> None:
    """Fit a lens, save it, and print its held-out KL divergence from the model's output at every layer."""
    if out.exists():
        raise ReadingError(f"{out} already exists. Name a new directory for the lens.")
    with loading():
        from mechmask.models.load import load_model
        from mechmask.read.lenses.fit import fit_lens

    lens = fit_lens(load_model(model), corpus, kind=kind, n_tokens=n_tokens, seed=seed)
    lens.save(out)
    if lens.report is not None:  # a lens that was fitted just now has one
        show(lens.report.kl.transpose("layer", "lens").to_pandas(), "Held-out KL, nats", json)


@app.command()
def doctor(
    model: Annotated[str | None, typer.Argument(help="A model to look at.")] = None,
    facts: Annotated[Path | None, typer.Argument(help="Facts to try on its tokenizer.")] = None,
    json: Json = False,
) -> None:
    """What is installed, and what the model and the facts would hit."""
    with loading():
        from mechmask.study.doctor import examine

    findings = examine(model, facts)
    if json:
        print_json(findings)
    else:
        for name, value in findings.items():
            typer.echo(f"{name:<22} {value}")
    if "problem" in findings:
        raise typer.Exit(2)


@app.command()
def power(
    facts: Annotated[int, typer.Option(help="Contradicted facts.")] = 12,
    never: Annotated[int, typer.Option(help="Facts that no twin is taught.")] = 12,
    twins: Annotated[int, typer.Option(help="Each is taught its share of the facts.")] = 2,
    replicates: Annotated[int, typer.Option(help="Of every twin.")] = 1,
    phrasings: Annotated[int, typer.Option(help="Of every fact.")] = 4,
    distractors: Annotated[int, typer.Option(help="Of every fact.")] = 8,
    trace: Annotated[float | None, typer.Option(help="Mean trace before the change, nats.")] = None,
    noise: Annotated[float | None, typer.Option(help="Of a never-known reading over training histories, nats.")] = None,
    noise_phrasing: Annotated[float | None, typer.Option(help="What one phrasing adds to it, nats.")] = None,
    noise_distractor: Annotated[float | None, typer.Option(help="What one distractor adds to it, nats.")] = None,
    spread: Annotated[float | None, typer.Option(help="Of the traces over facts, nats.")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Directory of mechmask calibrate: what is not given is as its draws say.")
    ] = None,
    json: Json = False,
) -> None:
    """How often a study of twins decides what became of its facts, and how many of what it would take."""
    from mechmask.measure.planning import counts_needed, power_conclusion, power_table
    from mechmask.measure.twin_design import Expected, TwinDesign
    from mechmask.study.expected import EXPECTED, read_expected

    counts = {"facts": facts, "never": never, "twins": twins, "replicates": replicates}
    counts |= {"phrasings": phrasings, "distractors": distractors}
    noises = {"noise_history": noise, "noise_phrasing": noise_phrasing, "noise_distractor": noise_distractor}
    given = {"trace_before": trace, "spread": spread, **noises}
    design = TwinDesign.model_validate(counts)
    measured = read_expected(calibration / EXPECTED).model_dump() if calibration else {}
    expected = Expected.model_validate(measured | {name: value for name, value in given.items() if value is not None})
    table = power_table({name: [n] for name, n in counts.items()}, expected, shares=(1.0, 0.5, 0.0, -0.5))
    said, needed = power_conclusion(design, expected), counts_needed(design, expected)
    if json:
        print_json(
            {"conclusion": said, "table": table.to_dict("records"), "needed": needed.reset_index().to_dict("records")}
        )
        return
    columns = [f"{unit}_{verdict}" for unit in ("fact", "group") for verdict in ("masked", "erased", "suppressed")]
    error = f"{expected.error(design):.2f} nats"
    title = f"How often each verdict falls, by the share of the trace that is left (error of one trace: {error})"
    show(table.set_index("share").loc[:, columns], title, json)
    shown = needed.map(lambda n: f"{n:.0f}" if n == n else "not enough")
    show(shown, "Needed of each, all others as planned, for 95% of groups and for 80% of single facts", json)
    typer.echo(said)


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Where Ctrl-C stops a study, say how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        stop(
            f"mechmask: stopped. What is finished is kept in {out}: the same command goes on from there, and "
            f"'mechmask status {out}' says how far it is.",
            _INTERRUPTED,
        )


def _report(done: StudyResults | DrawnResults | PaperResults, json: bool) -> None:
    if json:
        print_json(_as_json(done))
        return
    _show_summary(done, "What was found; traces and indices in nats")
    typer.echo(done.conclusion())
    typer.echo(f"Figures in {done.directory / 'figures'}, all results in {done.directory}.")


def _as_json(done: StudyResults | DrawnResults | PaperResults) -> dict[str, object]:
    return {
        "conclusion": done.conclusion(),
        "summary": done.summary().reset_index().to_dict("records"),
        "directory": str(done.directory),
    }


def _show_summary(done: StudyResults | DrawnResults | PaperResults, title: str) -> None:
    columns = [
        *("index", "paper_verdict", "trace_before", "trace_after"),
        *("ES", "PS", "NS", "S", "GE", "erase_index", "EI*", "standing", "trace", "rebound", "kl", "perplexity_ratio"),
        *("normalised", "took", "failed", "facts", "measured", "unit", "estimate", "low", "high", "n"),
        *("verdict", "reason", "commit_layer", "seconds", "memory_mib"),
    ]
    table = done.summary()
    show(table.loc[:, [name for name in columns if name in table]], title, json=False)


def _table(reading: xr.Dataset) -> pd.DataFrame:
    """The numbers of a reading that a person looks at first."""
    import pandas as pd

    columns = {f"logp({route})": reading.logprob.sel(route=route).to_series() for route in ("old", "new")}
    columns |= {
        name: reading[name].to_series() for name in ("margin", "standing", "ceiling", "entropy") if name in reading
    }
    return pd.DataFrame(columns)


def _require_new(out: Path | None, suffixes: tuple[str, ...]) -> None:
    """Refuse a file that is there, or of a kind that cannot be written, before any work."""
    if out is None:
        return
    with file_errors(out):
        if out.exists():
            raise ReadingError(f"{out} already exists. Name a new file, or remove that one.")
    if out.suffix.lower() not in suffixes:
        raise ReadingError(
            f"A reading cannot be written to {out.name!r}. Give a name that ends in {' or '.join(suffixes)}."
        )


def _write(reading: xr.Dataset, table: pd.DataFrame, out: Path) -> None:
    from mechmask.files import write_text
    from mechmask.measure.reading import save_reading

    if out.suffix.lower() == ".csv":
        write_text(out, table.to_csv())
    else:
        save_reading(reading, out)
