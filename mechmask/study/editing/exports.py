"""What a study of editors writes for people: the one table and those beside it as CSV, and its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping

from mechmask import draw
from mechmask.files import write_text
from mechmask.study.editing.results import EditResults
from mechmask.study.exports import export_figure, export_table
from mechmask.study.run import Run


def export_editing(run: Run, results: EditResults, about: Mapping[str, str | float], *, in_sequence: bool) -> None:
    """Figures and tables of a study of editors, written where they or what they show has changed.

    Args:
        run: whose directory they go to.
        results: what they show.
        about: provenance of the model.
        in_sequence: whether facts were edited one after the other.
    """
    editing, verdicts, depth, erase, cost = (
        results.step(f"results/{name}") for name in ("editing", "verdicts", "depth", "erase", "cost")
    )
    export_table(run, "editing", [editing, verdicts, cost], results.summary)
    export_table(run, "metrics", [editing], lambda: results.editing.to_dataframe())
    export_table(run, "verdicts", [verdicts], lambda: results.verdicts.to_dataframe())
    export_table(run, "summary", [erase], results.by_fact)
    if in_sequence:
        worn = results.step("results/sequence")
        export_table(run, "sequence", [worn], lambda: results.sequence.to_dataframe())
        export_figure(run, "editors_sequence", [worn], lambda: draw.editors_sequence(results.sequence))
    export_figure(run, "editors", [editing, verdicts], lambda: draw.editors(results.editing, results.verdicts))
    export_figure(run, "editors_depth", [depth], lambda: draw.editors_depth(results.depth))
    export_figure(run, "erase", [erase], lambda: draw.erase(results.erase))
    made_by = json.dumps(about, indent=2, sort_keys=True)
    run.export("provenance.json", {erase.name: erase.digest}, lambda path: write_text(path, made_by))
