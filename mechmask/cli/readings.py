"""Commands that look at a model: read, trajectory, and lens fit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechmask.cli.arguments import BackendName, FittedLensName, Json, ModelName, ScoreName, TemplateName
from mechmask.console import loading, show
from mechmask.errors import ReadingError
from mechmask.file_errors import file_errors

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from mechmask.models.model import Model
    from mechmask.models.states import Variant

Out = Annotated[Path | None, typer.Option(help="Also write the reading here: .nc, or the table as .csv.")]


def read(
    model: ModelName,
    facts: Annotated[Path, typer.Argument(help="Facts: JSONL, CSV, or a data set as it is published.")],
    score: Annotated[ScoreName, typer.Option(help="How a value's tokens become one number.")] = "sequence",
    depth: Annotated[bool, typer.Option("--depth", help="Read every layer, not only the output.")] = False,
    lens: Annotated[str, typer.Option(help="With --depth: logit, ridge, tuned, or the directory of a lens.")] = "logit",
    backend: Annotated[
        BackendName, typer.Option(help="With --depth: who watches the residual stream.")
    ] = "transformer_lens",
    after: Annotated[
        Path | None,
        typer.Option(
            help="Read the model with this change too: an adapter of peft's, a checkpoint, or a saved change."
        ),
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="With --after: which adapter, where there are several.")] = None,
    template: Annotated[
        TemplateName | None, typer.Option(help="Prompts as plain text, in the model's chat template, or both ways.")
    ] = None,
    out: Out = None,
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
        from mechmask.study.tables import concatenated
        from mechmask.write.load import load_change

    contested = load_facts(facts)
    with loading("the model"):
        loaded = load_model(model)
    states: dict[str, Model | Variant] = {"before": loaded}
    if after is not None:
        states["after"] = load_change(after, loaded, adapter=adapter).on(loaded)
    if depth:
        chosen = load_lens(lens, loaded) if Path(lens).is_dir() else lens
        one = partial(read_depth, facts=contested, lens=chosen, score=score, backend=backend, template=template)
    else:
        one = partial(read_logits, facts=contested, score=score, template=template)
    readings = [one(state) for state in states.values()]
    reading = readings[0] if after is None else concatenated(readings, "state", states)
    table = _table(reading)
    if out is not None:
        _write(reading, table, out)
    show(table, f"{loaded.name}, {score}, nats", json)


def trajectory(
    model: ModelName,
    run: Annotated[Path, typer.Argument(help="Output directory of a run, with checkpoint-N in it.")],
    facts: Annotated[Path, typer.Argument(help="Facts: JSONL, CSV, or a data set as it is published.")],
    score: Annotated[ScoreName, typer.Option(help="How a value's tokens become one number.")] = "sequence",
    depth: Annotated[bool, typer.Option("--depth", help="Read every layer, not only the output.")] = False,
    adapter: Annotated[str | None, typer.Option(help="Which adapter of peft's, where there are several.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Also draw it here: .png, .pdf or .svg.")] = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Old and new value at every checkpoint of a run that was trained from MODEL, which is its step 0."""
    _require_new(out, (".nc", ".csv"))
    _require_new(figure, (".png", ".pdf", ".svg"))
    with loading():
        from mechmask import draw
        from mechmask.facts.load import load_facts
        from mechmask.models.load import load_model
        from mechmask.read.trajectory import read_depth_trajectory, read_trajectory
        from mechmask.write.checkpoints import load_checkpoints

    contested = load_facts(facts)
    with loading("the model"):
        loaded = load_model(model)
    states = {0: loaded, **load_checkpoints(run, loaded, adapter=adapter)}
    course = (read_depth_trajectory if depth else read_trajectory)(states, contested, score=score)
    table = _table(course)
    if out is not None:
        _write(course, table, out)
    if figure is not None:
        draw.save_figure((draw.checkpoints if depth else draw.trajectory)(course), figure)
    means = _table(course.mean("fact", keep_attrs=True))
    show(means, f"Means over facts, {score}, nats", json)


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
