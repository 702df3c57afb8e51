"""Exported tables say what the results say, in files that other programs read by a description of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import mechmask as mm
from mechmask.errors import StudyError
from mechmask.study.data_package import long_tables

READ = {"csv": lambda path: pd.read_csv(path, keep_default_na=False, na_values=[""]), "parquet": pd.read_parquet}


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_every_number_of_a_study_is_in_the_file_that_the_package_names(done, format, tmp_path):
    results, directory = done
    assert mm.export_tables(directory, tmp_path / "out", format) == []
    package = json.loads((tmp_path / "out" / "datapackage.json").read_text())
    named = {resource["path"] for resource in package["resources"]}
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == named | {"datapackage.json"}
    for resource in package["resources"]:
        if "schema" in resource:
            table = READ[format](tmp_path / "out" / resource["path"])
            assert [field["name"] for field in resource["schema"]["fields"]] == list(table.columns)
    assert package["studies"]["."]["inputs"]["model"] == results.fingerprint
    for name in ("results/erase", "results/depth", "readings/read_logits/before"):
        reading = results.reading(name)
        seen = set()
        for path in sorted((tmp_path / "out" / name).iterdir()):
            table = READ[format](path)
            for variable in set(table.columns) & set(reading.data_vars):
                seen.add(variable)
                dims = list(reading[variable].dims)
                rows = table.set_index(dims)[variable].to_xarray() if dims else table[variable].iloc[0]
                expected = reading[variable].reset_coords(drop=True)
                got = rows.reindex_like(expected) if dims else xr.DataArray(rows)
                if expected.dtype.kind == "f":
                    np.testing.assert_array_equal(got.transpose(*dims).values.astype(expected.dtype), expected.values)
                else:
                    assert got.transpose(*dims).values.tolist() == expected.values.tolist()
        assert seen == set(reading.data_vars)
    summary = READ[format](tmp_path / "out" / f"summary.{format}")
    pd.testing.assert_frame_equal(summary, results.summary().reset_index(), check_dtype=False)
    assert mm.load_facts(tmp_path / "out" / "facts.jsonl") == results.facts


def test_variables_of_the_same_dimensions_share_a_table_whatever_their_order():
    reading = xr.Dataset(
        {
            "margin": (("fact", "layer"), [[1.0, 2.0], [3.0, 4.0]]),
            "rank": (("layer", "fact"), [[10, 30], [20, 40]]),
            "n": ("fact", [5, 6]),
            "level": 0.95,
        },
        {"fact": ["a", "NA"], "layer": [0, 1], "depth": ("layer", [0.0, 1.0]), "score": "mean"},
    )
    tables = long_tables(reading)
    assert set(tables) == {"fact_layer", "fact", "scalars"}
    rows = tables["fact_layer"].set_index(["fact", "layer"])
    assert rows.loc[("NA", 0), ["margin", "rank", "depth", "score"]].tolist() == [3.0, 30, 0.0, "mean"]
    assert rows.loc[("a", 1), ["margin", "rank", "depth", "score"]].tolist() == [2.0, 20, 1.0, "mean"]
    assert tables["fact"].to_dict("list") == {"fact": ["a", "NA"], "score": ["mean", "mean"], "n": [5, 6]}
    assert tables["scalars"].to_dict("list") == {"score": ["mean"], "level": [0.95]}


def test_an_unfinished_study_says_what_is_missing_and_writes_the_rest(done, tmp_path, mechmask):
    _, directory = done
    shutil.copytree(directory, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "results" / "erase")
    shown = mechmask("export", tmp_path / "run", "--to", tmp_path / "out")
    assert shown.code == 0
    absent = "summary, overview, results/surprise"
    assert shown.err == f"The study has not come to its end, so that these are not: {absent}.\n"
    assert not (tmp_path / "out" / "summary.csv").exists()
    assert (tmp_path / "out" / "results" / "depth").is_dir()


def test_what_is_damaged_leaves_nothing(done, tmp_path):
    _, directory = done
    shutil.copytree(directory, tmp_path / "run")
    with (tmp_path / "run" / "results" / "depth" / "reading.nc").open("r+b") as file:
        file.seek(2000)
        file.write(b"\xff\xff")
    with pytest.raises(StudyError, match="is damaged"):
        mm.export_tables(tmp_path / "run", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_cannot_be_written_is_refused_before_any_work(done, tmp_path):
    results, _ = done
    with pytest.raises(StudyError, match="cannot be written as 'xlsx'"):
        mm.export_tables(results, tmp_path / "out", "xlsx")  # pyright: ignore[reportArgumentType]
    with pytest.raises(StudyError, match="already exists"):
        mm.export_tables(results, tmp_path)
    with pytest.raises(StudyError, match="holds no study"):
        mm.export_tables(tmp_path / "nothing", tmp_path / "out")
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "import mechmask as mm\n"
        "try: mm.export_tables(sys.argv[1], sys.argv[2], 'parquet')\n"
        "except mm.MechmaskError as error: print(error)\n"
        "print('torch' in sys.modules)"
    )
    arguments = [sys.executable, "-c", code, str(results.directory), str(tmp_path / "out")]
    said = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert said == "Parquet needs pyarrow, which is not installed. Run: pip install pyarrow, or write csv.\nFalse\n"


def test_text_that_no_cell_can_hold_is_escaped(tmp_path):
    reading = xr.Dataset({"said": ("fact", ["a\0b", "\ud800", 'q"u,o\r\nte'])}, {"fact": ["x", "y", "z"]})
    table = long_tables(reading)["fact"]
    table.to_csv(tmp_path / "t.csv", index=False)
    assert pd.read_csv(tmp_path / "t.csv").said.tolist() == [r"a\x00b", r"\ud800", 'q"u,o\r\nte']
