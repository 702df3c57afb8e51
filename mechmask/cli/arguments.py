"""What several commands take, and the choices among which a user has one."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

# Named here once more: where they are defined, torch is imported.
ScoreName = Literal["sequence", "mean", "divergence"]
BackendName = Literal["transformer_lens", "nnsight"]
TemplateName = Literal["plain", "chat", "both"]
FittedLensName = Literal["tuned", "ridge"]
TableFormat = Literal["csv", "parquet"]
SweepWhere = Literal["here", "ray"]
EditedHow = Literal["each", "together", "sequence"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script instead of a table.")]
ModelName = Annotated[
    str, typer.Argument(help="smollm2-135m, a Hub id, a directory, a .gguf file or a PEFT adapter.", metavar="MODEL")
]
