"""Readings as files: labelled arrays in netCDF-4, with their schema version, and never a pickle.

A reading is an ``xarray.Dataset`` with the dimensions of DESIGN: ``fact``, ``route``, ``layer``, ``step`` and so on.
Two more are used here: ``phrasing`` (0 is the prompt, then its paraphrases) and ``state`` (``before``, ``finetune``,
``ft_l`` ...: which model of a study was read).
"""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from mechmask.errors import ReadingError
from mechmask.files import replaced_file

SCHEMA_VERSION = 1

_ENCODING = {"_FillValue": None, "fletcher32": True}  # no value stands for a missing one; damaged data are noticed


def save_reading(reading: xr.Dataset, path: str | Path) -> None:
    """Write a reading to a netCDF-4 file, atomically."""
    with replaced_file(Path(path)) as temporary:
        stamped = reading.assign_attrs(schema_version=SCHEMA_VERSION)
        stamped.to_netcdf(temporary, engine="h5netcdf", encoding={name: _ENCODING for name in _numbers(stamped)})


def load_reading(path: str | Path) -> xr.Dataset:
    """The reading in a netCDF-4 file, wholly in memory.

    Raises:
        ReadingError: if the file is missing, is no reading, or is of a schema that this version does not know.
    """
    path = Path(path)
    try:
        with xr.open_dataset(path, engine="h5netcdf") as opened:
            reading = opened.load()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ReadingError(
            f"{path} cannot be read as netCDF-4 ({type(error).__name__}). Give a file that save_reading wrote."
        ) from error
    found = reading.attrs.get("schema_version", 0)
    if found != SCHEMA_VERSION:
        raise ReadingError(
            f"{path} has schema version {found}; this mechmask reads version {SCHEMA_VERSION}. Make the reading again."
        )
    return reading


def require(reading: xr.Dataset, what: str, *, variables: tuple[str, ...] = (), dims: tuple[str, ...] = ()) -> None:
    """Refuse a dataset that lacks what a measurement needs.

    Raises:
        ReadingError: naming what is missing and what made it.
    """
    if not isinstance(reading, xr.Dataset):
        raise ReadingError(
            f"{what} takes a reading (an xarray.Dataset), not a {type(reading).__name__}. Make one with "
            "read_logits or read_depth."
        )
    missing = [name for name in (*variables, *dims) if name not in reading.variables and name not in reading.dims]
    if missing:
        raise ReadingError(
            f"{what} needs {', '.join(missing)}, which this reading has not. It holds "
            f"{', '.join(map(str, reading.variables))}."
        )


def _numbers(reading: xr.Dataset) -> list[str]:
    return [str(name) for name, variable in reading.variables.items() if variable.dtype.kind in "fiub"]
