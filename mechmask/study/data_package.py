"""``export_tables``: results as CSV or Parquet for other programs, described by a Data Package.

A labelled array becomes long tables: variables over the same dimensions are columns of one table, with a row for each
combination of labels, and the coordinates along those dimensions beside them. ``datapackage.json`` (the Data Package
standard, https://datapackage.org) names every table, its columns and their types, and says what the numbers come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import xarray as xr

from mechmask.errors import StudyError, UnfinishedError, known_names
from mechmask.file_errors import file_errors
from mechmask.files import new_directory, write_text
from mechmask.measure.reading import load_reading
from mechmask.measure.texts import escaped
from mechmask.study.opened import Results, open_results
from mechmask.study.pages.words import COLUMNS
from mechmask.study.results import READING, StudyResults
from mechmask.study.tabled import Tabled

TableFormat = Literal["csv", "parquet"]

PACKAGE = "datapackage.json"
_TYPES = {"b": "boolean", "i": "integer", "u": "integer", "f": "number"}  # by numpy's kind; all else is text
_CSV = {"mediatype": "text/csv", "encoding": "utf-8"}
_MEDIA = {"csv": _CSV, "parquet": {"mediatype": "application/vnd.apache.parquet"}}


def export_tables(results: Results | str | Path, directory: str | Path, format: TableFormat = "csv") -> list[str]:
    """Write every table and every reading of results into a new directory, for other programs to read.

    Args:
        results: of a study, of draws, of the paper's experiments or of a calibration; or their directory.
        directory: where the files will be. It may not be there yet.
        format: ``csv`` (UTF-8; a missing number is an empty cell, and so is an empty text) or ``parquet``, which keeps
            types and tells the two apart, and needs pyarrow.

    Returns:
        What could not be written since the study has not come to its end; empty where it has.

    Raises:
        StudyError: if there is something at ``directory``, there are no results, a file of them is damaged, or the
            format is not known or cannot be written here.
        FileError: if the files cannot be written.

    Examples:
        >>> import mechmask as mm
        >>> mm.export_tables("runs/france", "runs/france-tables", "parquet")  # doctest: +SKIP
        []
    """
    _require_format(format)
    opened = open_results(results) if isinstance(results, str | Path) else results
    place = Path(directory)
    with file_errors(place):
        taken = place.exists() or place.is_symlink()
    if taken:
        raise StudyError(f"{place} already exists. Name a directory that is not there yet.")
    absent: list[str] = []
    resources: list[dict[str, Any]] = []
    with new_directory(place) as temporary:
        for name, table in _tables(opened, absent):
            file = f"{name}.{format}"
            _write(table, temporary / file, format)
            resources.append({"name": _slug(name), "path": file, "format": format, **_MEDIA[format], **_schema(table)})
        for where, study in _studies(opened):
            file = f"{where}facts.jsonl"
            study.facts.to_jsonl(temporary / file)
            resources.append({"name": _slug(file.removesuffix(".jsonl")), "path": file, "format": "jsonl"})
        write_text(temporary / PACKAGE, json.dumps(_package(opened, resources), indent=1, ensure_ascii=False))
    return absent


def _tables(results: Results, absent: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every table by its path, those of the whole before those of its parts; names of the others go to ``absent``."""
    for where, one in _with_parts(results):
        for name, make in one.tables().items() if isinstance(one, Tabled) else ():
            try:
                table = make()
            except UnfinishedError:
                absent.append(f"{where}{name}")
            else:
                yield f"{where}{name}", table.reset_index() if table.index.names != [None] else table
    for where, study in _studies(results):
        for name in study.step_names:
            try:
                step = study.step(name)
            except UnfinishedError:
                absent.append(f"{where}{name}")
                continue
            for path in sorted(step.directory.glob("*.nc")):
                inner = "" if path.name == READING else f"/{path.stem}"
                for dims, table in long_tables(load_reading(path)).items():
                    yield f"{where}{name}{inner}/{dims}", table


def long_tables(reading: xr.Dataset) -> dict[str, pd.DataFrame]:
    """A labelled array as long tables, one for all variables that have the same dimensions.

    Args:
        reading: any dataset, such as ``logprob[fact, route]`` in nats.

    Returns:
        By its dimensions, such as ``fact_route`` (``scalars`` where there is none): a row for each combination of
        labels, with the columns of the dimensions, of the coordinates along some of them, and of the variables.
    """
    plain = escaped(reading)
    by_dims: dict[tuple[str, ...], list[str]] = {}
    for name, variable in plain.data_vars.items():
        dims = next((dims for dims in by_dims if set(dims) == set(variable.dims)), tuple(map(str, variable.dims)))
        by_dims.setdefault(dims, []).append(str(name))
    return {"_".join(dims) or "scalars": _long(plain[names], dims) for dims, names in by_dims.items()}


def _long(group: xr.Dataset, dims: tuple[str, ...]) -> pd.DataFrame:
    """Variables over the same dimensions, in one table."""
    beside = [str(name) for name in group.coords if name not in dims]
    if not dims:
        return pd.DataFrame({str(name): [group[name].item()] for name in group.variables})
    whole = group[next(iter(group.data_vars))]
    columns = {
        str(name): group[name].broadcast_like(whole).transpose(*dims).values.ravel()
        for name in [*dims, *beside, *group.data_vars]
    }
    return pd.DataFrame(columns)


def _with_parts(results: Results) -> Iterator[tuple[str, Any]]:
    """Results and what they consist of, each with where it is: nothing, or a path that ends in a slash."""
    yield "", results
    for name, part in _parts_of(results).items():
        for where, inner in _with_parts(part):
            yield f"{name}/{where}", inner


def _parts_of(results: Any) -> Mapping[str, Any]:
    return getattr(results, "parts", None) or getattr(results, "studies", {})


def _studies(results: Results) -> Iterator[tuple[str, StudyResults]]:
    for where, one in _with_parts(results):
        if isinstance(one, StudyResults):
            yield where, one


def _require_format(format: str) -> None:
    known = get_args(TableFormat)
    if format not in known:
        raise StudyError(f"Tables cannot be written as {format!r}. {known_names(format, known)}")
    if format == "parquet" and find_spec("pyarrow") is None:
        raise StudyError("Parquet needs pyarrow, which is not installed. Run: pip install pyarrow, or write csv.")


def _write(table: pd.DataFrame, path: Path, format: TableFormat) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if format == "csv":
        table.to_csv(path, index=False, lineterminator="\n")
    else:
        table.to_parquet(path, index=False)


def _schema(table: pd.DataFrame) -> dict[str, Any]:
    return {"schema": {"fields": [_field(str(name), table[name]) for name in table]}}


def _field(name: str, column: pd.Series) -> dict[str, str]:
    title = {"title": COLUMNS[name]} if name in COLUMNS else {}
    return {"name": name, "type": _TYPES.get(np.asarray(column).dtype.kind, "string"), **title}


def _slug(name: str) -> str:
    """A name as the standard wants it: no capitals, no slashes."""
    return "".join(c if (c.isalnum() and c.isascii()) or c in "-_." else "-" for c in name.lower())


def _package(results: Results, resources: list[dict[str, Any]]) -> dict[str, Any]:
    made = {
        where.rstrip("/") or ".": {"protocol": one.protocol, "model": one.card["model"], "inputs": one.card["inputs"]}
        for where, one in _studies(results)
    }
    return {
        "profile": "tabular-data-package" if all("schema" in one for one in resources) else "data-package",
        "name": "mechmask-results",
        "description": repr(results),
        "mechmask_version": version("mechmask"),
        "studies": made,
        "resources": resources,
    }
