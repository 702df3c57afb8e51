"""Commands that work in a directory and go on where they stopped (demo, study, edit, calibrate), or look at one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechmask.cli.arguments import EditedHow, Json, ModelName, SweepWhere, TableFormat
from mechmask.console import INTERRUPTED, loading, print_json, show, stop
from mechmask.errors import ChangeError, StudyError

if TYPE_CHECKING:
    import pandas as pd

    from mechmask.study.draws import DrawnResults
    from mechmask.study.paper_results import PaperResults
    from mechmask.study.results import StudyResults
    from mechmask.study.sweep_results import SweepResults


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


def sweep(
    config: Annotated[Path, typer.Argument(help="TOML of a study with a table [sweep] of what is varied.")],
    out: Annotated[Path, typer.Option(help="Directory of the sweep; taken up again where it stopped.")],
    on: Annotated[
        SweepWhere, typer.Option(help="One study after the other in this process, or as tasks of Ray.")
    ] = "here",
    workers: Annotated[int | None, typer.Option(help="Studies at once on this machine, on Ray.", min=1)] = None,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster, such as auto.")] = None,
    cpus: Annotated[float, typer.Option(help="Processors a study, on Ray.")] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs a study, on Ray; 0.5 puts two studies on one.")] = 0,
    json: Json = False,
) -> None:
    """A study over every combination of models, draws, seeds, doses or methods; each is a study of its own."""
    with _resumable(out):
        with loading():
            from mechmask.study.sweep import Sweep
        described = Sweep(config)
        _report(described.run(out, on, workers=workers, address=address, cpus=cpus, gpus=gpus), json)


def edit(
    model: ModelName,
    data: Annotated[Path, typer.Argument(help="Facts: CounterFact, zsRE, own JSONL or CSV, and others.")],
    out: Annotated[Path, typer.Option(help="Directory of the study; taken up again where it stopped.")],
    methods: Annotated[
        str,
        typer.Option(
            help="Editors with commas between them: names, such as ft_l, whose preset for the model is taken; TOML "
            "files with an editor's own settings, such as malmen's trained networks; or all that have a preset and "
            "need no training."
        ),
    ] = "all",
    facts: Annotated[int, typer.Option(help="Facts that the model knows, at most so many.", min=1)] = 100,
    format: Annotated[str, typer.Option(help="Of the data, as load_facts takes it, such as counterfact.")] = "auto",
    edited: Annotated[
        EditedHow, typer.Option(help="Each fact alone, all together, or one after the other on one model.")
    ] = "each",
    read_every: Annotated[int, typer.Option(help="Edits of a sequence between two readings of its drift.", min=1)] = 10,
    text: Annotated[
        str | None, typer.Option(help="UTF-8 text to read drift on, or model: text that it samples itself.")
    ] = None,
    text_tokens: Annotated[int, typer.Option(help="Tokens of that text, at most so many.", min=2)] = 1024,
    generation: Annotated[bool, typer.Option(help="Whether texts are sampled, for GE.")] = True,
    seed: Annotated[int, typer.Option(help="Draws the facts, and texts.", min=0)] = 0,
    json: Json = False,
) -> None:
    """Editors side by side on facts that the model knows: ES, PS, NS, S and GE beside the verdict on the old value."""
    with _resumable(out):
        with loading():
            from mechmask.facts.load import load_facts
            from mechmask.models.load import load_model
            from mechmask.study.editing.facts import drawn_facts
            from mechmask.study.editing.methods import configured
            from mechmask.study.protocols.editing import EditStudy

        contested = load_facts(data, format)
        with loading("the model"):
            loaded = load_model(model)
        settings = {"edited": edited, "read_every": read_every, "text": text, "text_tokens": text_tokens}
        settings |= {"generation": generation, "seed": seed}
        config = configured(loaded, methods, settings)
        drawn = drawn_facts(loaded, contested, facts, seed=seed)
        n, n_control = len(drawn.contradicted), len(drawn.control)
        if n < facts:
            known = f"{loaded.name} knows {n + n_control} of {data.name}, {n_control} of which are kept as controls"
            typer.echo(f"{n} facts are edited, not {facts}: {known}.", err=True)
        _report(EditStudy(loaded, drawn, config).run(out), json)


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


def report(
    directory: Annotated[
        Path,
        typer.Argument(help="Directory of a study, or of what consists of studies.", metavar="DIR"),
    ],
    out: Annotated[Path, typer.Option(help="The page: one HTML file that opens offline.")] = Path("report.html"),
) -> None:
    """Every figure and table of a study with its sentence, its facts, and how to cite it, as one HTML file."""
    from mechmask import draw

    typer.echo(f"The report is {draw.report(directory, out)}. Open it in a browser; it needs no network.")


def export(
    directory: Annotated[
        Path,
        typer.Argument(help="Directory of a study, or of what consists of studies.", metavar="DIR"),
    ],
    to: Annotated[Path, typer.Option(help="A new directory for the tables and a datapackage.json about them.")],
    format: Annotated[TableFormat, typer.Option(help="Of the tables; parquet needs pyarrow.")] = "csv",
) -> None:
    """Every table and reading of a study as CSV or Parquet, for other programs."""
    from mechmask.study.data_package import export_tables

    absent = export_tables(directory, to, format)
    typer.echo(f"The tables are in {to}, and datapackage.json there says what they are.")
    if absent:
        typer.echo(f"The study has not come to its end, so that these are not: {', '.join(absent)}.", err=True)


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Where Ctrl-C stops a study, say how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if not out.exists():
            stop("mechmask: stopped. Nothing was finished yet.", INTERRUPTED)
        stop(
            f"mechmask: stopped. What is finished is kept in {out}: the same command goes on from there, and "
            f"'mechmask status {out}' says how far it is.",
            INTERRUPTED,
        )


def _report(done: StudyResults | DrawnResults | SweepResults | PaperResults, json: bool) -> None:
    if json:
        print_json(_as_json(done))
        return
    _show_summary(done, "What was found; traces and indices in nats")
    typer.echo(done.conclusion())
    figures = done.directory / "figures"
    typer.echo(f"{f'Figures in {figures}, all' if figures.is_dir() else 'All'} results in {done.directory}.")


def _as_json(done: StudyResults | DrawnResults | SweepResults | PaperResults) -> dict[str, object]:
    return {
        "conclusion": done.conclusion(),
        "summary": _main_table(done).reset_index().to_dict("records"),
        "directory": str(done.directory),
    }


def _show_summary(done: StudyResults | DrawnResults | SweepResults | PaperResults, title: str) -> None:
    columns = [
        *("index", "paper_verdict", "trace_before", "trace_after"),
        *("ES", "PS", "NS", "S", "GE", "erase_index", "EI*", "standing", "trace", "rebound", "kl", "perplexity_ratio"),
        *("normalised", "took", "failed", "facts", "measured", "unit", "estimate", "low", "high", "n"),
        *("verdict", "reason", "commit_layer", "seconds", "memory_mib"),
    ]
    table = _main_table(done)
    show(table.loc[:, [name for name in columns if name in table]], title, json=False)


def _main_table(done: StudyResults | DrawnResults | SweepResults | PaperResults) -> pd.DataFrame:
    """The first of its tables: the summary, where there is one."""
    return next(iter(done.tables().values()))()
