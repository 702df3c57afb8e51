"""Commands before any work: doctor, which looks at what is there, and power, which says how much it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mechmask.cli.arguments import Json
from mechmask.console import loading, print_json, show


def doctor(
    model: Annotated[str | None, typer.Argument(help="A model to look at.")] = None,
    facts: Annotated[Path | None, typer.Argument(help="Facts to try on its tokenizer.")] = None,
    json: Json = False,
) -> None:
    """What is installed, and what the model and the facts would hit."""
    with loading():
        from mechmask.study.doctor import examine, proof_table

    findings = examine(model, facts)
    if json:
        print_json(findings)
    else:
        for name, value in findings.items():
            if name != "proof":
                typer.echo(f"{name:<22} {value}")
        if "proof" in findings:
            show(proof_table(findings), "Held against the model's own output", json)
    if "problem" in findings:
        raise typer.Exit(2)


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
