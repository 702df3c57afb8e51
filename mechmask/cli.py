"""The command line: parses, calls study and draw, prints. Everything else is a line of Python away.

Errors are one sentence on standard error and exit code 2; results go to standard output, as JSON with ``--json``.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mechmask.errors import MechmaskError, ReadingError

if TYPE_CHECKING:
    import pandas as pd

    from mechmask.study.study import MaskStudy

app = typer.Typer(
    help="Is a fact that a language model no longer says deleted, or out-competed?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

lenses = typer.Typer(help="Lenses for readings of depth.", no_args_is_help=True)
app.add_typer(lenses, name="lens")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script instead of a table.")]


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except MechmaskError as error:
        typer.echo(f"mechmask: {error}", err=True)
        sys.exit(2)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Directory of the study; taken up again where it stopped.")] = Path(
        "mechmask-demo"
    ),
    seed: Annotated[int, typer.Option(help="Draws the facts.")] = 0,
    json: Json = False,
) -> None:
    """The main job on SmolLM2-135M: install, contradict, edit, and say what became of the old values."""
    from mechmask.models.load import load_model
    from mechmask.study.demo import demo_config, demo_facts
    from mechmask.study.study import MaskStudy

    _report(MaskStudy(load_model(), demo_facts(seed), demo_config()).run(out), out, json)


@app.command()
def study(
    config: Annotated[Path, typer.Argument(help="TOML with [model], [facts] and [study].")],
    out: Annotated[Path, typer.Option(help="Directory of the study; taken up again where it stopped.")],
    json: Json = False,
) -> None:
    """A study as a TOML file describes it."""
    from mechmask.study.toml import study_from_file

    _report(study_from_file(config).run(out), out, json)


@app.command()
def read(
    model: Annotated[str, typer.Argument(help="smollm2-135m, a Hub id, a directory, a .gguf file or a PEFT adapter.")],
    facts: Annotated[Path, typer.Argument(help="JSONL or CSV of facts.")],
    score: Annotated[str, typer.Option(help="sequence, mean or divergence.")] = "sequence",
    depth: Annotated[bool, typer.Option("--depth", help="Read every layer, not only the output.")] = False,
    lens: Annotated[str, typer.Option(help="With --depth: logit, ridge, tuned, or the directory of a lens.")] = "logit",
    backend: Annotated[str, typer.Option(help="With --depth: transformer_lens or nnsight.")] = "transformer_lens",
    out: Annotated[Path | None, typer.Option(help="Also write the reading to this netCDF file.")] = None,
    json: Json = False,
) -> None:
    """Log-probabilities of old, new and distractors of every fact."""
    import pandas as pd

    from mechmask.facts.load import load_facts
    from mechmask.measure.reading import save_reading
    from mechmask.models.load import load_model
    from mechmask.read.depth import read_depth
    from mechmask.read.lenses.load import load_lens
    from mechmask.read.logits import read_logits

    contested, loaded = load_facts(facts), load_model(model)
    if depth:
        chosen = load_lens(lens, loaded) if Path(lens).is_dir() else lens
        reading = read_depth(loaded, contested, chosen, score, backend)
    else:
        reading = read_logits(loaded, contested, score)
    if out is not None and out.is_dir():
        raise ReadingError(f"{out} is a directory. Name a file for the reading.")
    if out is not None:
        save_reading(reading, out)
    columns = {f"logp({route})": reading.logprob.sel(route=route).to_series() for route in ("old", "new")}
    columns |= {
        name: reading[name].to_series() for name in ("margin", "standing", "ceiling", "entropy") if name in reading
    }
    table = pd.DataFrame(columns)
    _show(table, f"{loaded.name}, {score}, nats", json)


@lenses.command()
def fit(
    model: Annotated[str, typer.Argument(help="smollm2-135m, a Hub id, a directory, a .gguf file or a PEFT adapter.")],
    out: Annotated[Path, typer.Option(help="New directory for the lens, in tuned-lens's own format.")],
    corpus: Annotated[
        Path | None, typer.Option(help="UTF-8 text; by default text that the model samples from itself.")
    ] = None,
    kind: Annotated[str, typer.Option(help="tuned, or ridge: the closed form that it starts from.")] = "tuned",
    n_tokens: Annotated[int, typer.Option(help="Tokens of text, a tenth of them held out.")] = 16384,
    seed: Annotated[int, typer.Option(help="Draws the text and the held-out part.")] = 0,
    json: Json = False,
) -> None:
    """Fit a lens, save it, and print its held-out KL divergence from the model's output at every layer."""
    from mechmask.models.load import load_model
    from mechmask.read.lenses.fit import fit_lens

    if out.exists():
        raise ReadingError(f"{out} is there already. Name a new directory for the lens.")
    lens = fit_lens(load_model(model), corpus, kind=kind, n_tokens=n_tokens, seed=seed)
    lens.save(out)
    if lens.report is not None:  # a lens that was fitted just now has one
        _show(lens.report.kl.transpose("layer", "lens").to_pandas(), "Held-out KL, nats", json)


@app.command()
def doctor(
    model: Annotated[str | None, typer.Argument(help="A model to look at.")] = None,
    facts: Annotated[Path | None, typer.Argument(help="Facts to try on its tokenizer.")] = None,
    json: Json = False,
) -> None:
    """What is installed, and what the model and the facts would hit."""
    from mechmask.study.doctor import examine

    findings = examine(model, facts)
    if json:
        _print_json(findings)
    else:
        for name, value in findings.items():
            typer.echo(f"{name:<22} {value}")
    if "problem" in findings:
        raise typer.Exit(2)


def _report(done: MaskStudy, out: Path, json: bool) -> None:
    if json:
        _print_json(
            {
                "conclusion": done.conclusion(),
                "summary": done.summary().reset_index().to_dict("records"),
                "directory": str(out),
            }
        )
        return
    columns = [
        "index",
        "paper_verdict",
        "normalised",
        "standing_before",
        "standing_after",
        "never_low",
        "never_high",
        "verdict",
        "commit_layer",
    ]
    _show(done.summary().loc[:, columns], "Erase index (nats) beside commit layer, per fact", json)
    typer.echo(done.conclusion())
    typer.echo(f"Figures in {out / 'figures'}, all results in {out}.")


def _show(table: pd.DataFrame, title: str, json: bool) -> None:
    if json:
        _print_json(table.reset_index().to_dict("records"))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    sheet = Table(title=escape(title))
    for name in [*table.index.names, *table.columns]:
        sheet.add_column(str(name), justify="left" if name in table.index.names else "right")
    for index, row in table.iterrows():
        labels = index if isinstance(index, tuple) else (index,)
        cells = [*map(str, labels), *(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row)]
        sheet.add_row(*map(escape, cells))
    Console(width=None if sys.stdout.isatty() else 160).print(sheet)


def _print_json(data: Any) -> None:
    import json as encoder

    typer.echo(encoder.dumps(_plain(data), indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    """What JSON can say: Python's own types, and null for a number that is not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
