"""Readings: what a measurement asks of one, whether two may be set against each other, and their files.

A reading is an ``xarray.Dataset`` with the dimensions of DESIGN: ``fact``, ``route``, ``layer``, ``step`` and so on.
Two more are used here: ``phrasing`` (0 is the prompt, then its paraphrases) and ``state`` (``before``, ``finetune``,
``ft_l`` ...: which model of a study was read). On disk it is netCDF-4 under a seal, never a pickle.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path

import h5netcdf
import h5py
import numpy as np
import xarray as xr
from xarray.backends import H5NetCDFStore

from mechmask.errors import MechmaskError, ReadingError
from mechmask.file_errors import file_errors
from mechmask.files import replaced_file
from mechmask.measure.recent import RecentReadings
from mechmask.measure.seal import has_seal, sealed
from mechmask.measure.texts import escaped, restored

SCHEMA_VERSION = 1

AS_ASKED = ("template", "aliases")
"""Attributes of readings of facts that were asked otherwise than as plain prompts with one spelling of each value: in a
chat template, or with other spellings counted in."""

_RECENT = RecentReadings(max_bytes=64 << 20)

_SEALED = "sealed"  # attribute of a file that ends with a digest

# No value stands for a missing one. The seal covers the whole file; fletcher32 lets other tools notice damage too.
_ENCODING = {"_FillValue": None, "fletcher32": True}


def save_reading(reading: xr.Dataset, path: str | Path) -> None:
    """Write a reading to a netCDF-4 file, atomically, with a digest of all its bytes at the end.

    Texts with a NUL or a lone surrogate, neither of which netCDF can hold, are stored escaped, and ``load_reading``
    restores them.

    Args:
        reading: any dataset of numbers, booleans and texts, such as ``logprob[fact, route]`` in nats.
        path: where to write; missing directories are made, a file that is there is replaced.

    Raises:
        ReadingError: if the path is a directory, or the reading holds something that netCDF cannot store.
        FileError: if the path cannot be written: no permission, a name that is too long, a full disk. What was at
            ``path`` is left as it was.

    Examples:
        >>> import xarray as xr
        >>> reading = xr.Dataset({"margin": ("fact", [0.5, -1.0])}, {"fact": ["mass", "age"]})
        >>> save_reading(reading, "reading.nc")
        >>> load_reading("reading.nc").margin.sel(fact="age").item()
        -1.0
    """
    path = Path(path)
    if not isinstance(reading, xr.Dataset):
        raise ReadingError(
            f"save_reading takes an xarray.Dataset, not a {type(reading).__name__}. Make one of it first."
        )
    try:
        with file_errors(path):
            is_directory = path.is_dir()
        if is_directory:
            raise ReadingError(f"{path} is a directory. Name a file for the reading.")
        plain = escaped(reading).drop_encoding()  # that of a file it came from would cut longer texts to that file's
        stamped = plain.assign_attrs({"schema_version": SCHEMA_VERSION, _SEALED: 1})
        content = sealed(_netcdf(stamped))
        with replaced_file(path) as temporary:
            temporary.write_bytes(content)
    except MechmaskError:
        raise
    except Exception as error:  # xarray, h5netcdf and h5py each refuse what they cannot store in their own way
        raise ReadingError(
            f"This reading cannot be stored in {_shown(path)} as netCDF-4 ({_first_line(error)}). Hold numbers, "
            "booleans and texts alone in its variables, and numbers and texts in its attributes."
        ) from error


def load_reading(path: str | Path) -> xr.Dataset:
    """The reading in a netCDF-4 file, wholly in memory.

    A file that carries a digest is held against it before anything else is read. One without, by an earlier version or
    by another program, is taken if its schema version fits.

    Args:
        path: a file that ``save_reading`` wrote.

    Returns:
        What was saved, such as ``logprob[fact, route]`` in nats.

    Raises:
        ReadingError: if the file is missing, was altered or cut, is not a reading, or is of a schema that this version
            does not know.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        _require_whole(content, path)
        reading = _RECENT.get(content, _parsed)
    except ReadingError:
        raise
    except FileNotFoundError as error:
        raise ReadingError(f"There is no file {_shown(path)}. Give a file that save_reading wrote.") from error
    except Exception as error:  # h5py and h5netcdf raise anything at all on damaged metadata
        raise ReadingError(
            f"{_shown(path)} cannot be read as netCDF-4 ({type(error).__name__}). Give a file that save_reading wrote."
        ) from error
    reading.attrs.pop(_SEALED, None)
    version = reading.attrs.get("schema_version", 0)
    if np.ndim(version) or version != SCHEMA_VERSION:
        raise ReadingError(
            f"{path} has schema version {version}; this mechmask reads version {SCHEMA_VERSION}. Make the reading "
            "again."
        )
    return reading


def require(reading: xr.Dataset, what: str, *, variables: tuple[str, ...] = (), dims: tuple[str, ...] = ()) -> None:
    """Refuse a dataset that lacks what a measurement needs.

    Args:
        reading: the dataset.
        what: the measurement, which opens the sentence.
        variables: names of variables or coordinates.
        dims: names of dimensions.

    Raises:
        ReadingError: naming all that is missing, or the type of what is not a dataset.
    """
    if not isinstance(reading, xr.Dataset):
        raise ReadingError(
            f"{what} takes a reading (an xarray.Dataset), not a {type(reading).__name__}. Make one with "
            "read_logits or read_depth."
        )
    missing = [name for name in (*variables, *dims) if name not in reading.variables and name not in reading.dims]
    if missing:
        raise ReadingError(
            f"{what} needs {', '.join(missing)}, which this reading lacks. It holds "
            f"{', '.join(map(str, reading.variables))}."
        )


def require_every_layer(reading: xr.Dataset, what: str) -> None:
    """Refuse a reading whose ``layer`` is not 0, 1, ..., L.

    Raises:
        ReadingError: naming ``what``, the measurement that needs them.
    """
    if not np.array_equal(reading.layer.values, np.arange(reading.sizes["layer"])):
        raise ReadingError(f"{what} needs every layer from 0 to L, in order. Read all of them.")


def require_same(
    readings: Mapping[str, xr.Dataset],
    what: str,
    *,
    dims: tuple[str, ...] = (),
    attributes: tuple[str, ...] = (),
    coordinates: tuple[str, ...] = (),
    same_model: bool = False,
) -> None:
    """Refuse readings that may not be set against each other.

    Args:
        readings: two or more, by what the caller calls them, such as ``before`` and ``after``.
        what: the measurement, which opens the sentence.
        dims: dimensions that have to be there in all or in none, with the same labels in the same order.
        attributes: have to be the same, or missing in all; those of ``AS_ASKED`` always.
        coordinates: compared where two readings both have them, at the labels that both have. ``token`` goes with the
            attribute ``score``, on which it depends.
        same_model: whether the models may differ in nothing but their changes. The weights under the changes are
            compared where both readings name them (``base_fingerprint``), else the names: a state is called
            ``model + change``.

    Raises:
        ReadingError: naming the first difference and the readings that have it.
    """
    attributes = (*attributes, *AS_ASKED)
    for (first_name, first), (second_name, second) in combinations(readings.items(), 2):
        pair = f"{first_name} and {second_name}"
        for dim in dims:
            if (dim in first.dims) != (dim in second.dims):
                having, lacking = (first_name, second_name) if dim in first.dims else (second_name, first_name)
                raise ReadingError(f"{what}: {having} has the dimension {dim} and {lacking} does not. Read both alike.")
            if dim in first.dims and first[dim].values.tolist() != second[dim].values.tolist():
                raise ReadingError(f"{what}: {pair} are not of the same {dim}s. Read one fact set both times, alike.")
        for name in attributes:
            first_value, second_value = first.attrs.get(name), second.attrs.get(name)
            if not np.array_equal(np.asarray(first_value), np.asarray(second_value)):
                raise ReadingError(
                    f"{what}: {pair} differ in {name} ({first_value} and {second_value}). Read both alike."
                )
        for name in coordinates:
            if difference := _difference(first, second, name):
                raise ReadingError(f"{what}: {pair} differ in {name} ({difference}). Read one fact set both times.")
        if same_model:
            _require_same_model({first_name: first, second_name: second}, what)


def require_same_coordinates(
    first: xr.Dataset | xr.DataArray, second: xr.Dataset | xr.DataArray, what: str, names: Iterable[str]
) -> None:
    """Refuse two readings of which one has a coordinate, and the other another one or none.

    Args:
        first: a reading, or a variable of one.
        second: what is held against it.
        what: the measurement, which opens the sentence.
        names: of the coordinates.

    Raises:
        ReadingError: naming the first that differs.
    """
    for name in names:
        one, other = (None if name not in of.coords else of.coords[name].variable for of in (first, second))
        if not (other is None if one is None else other is not None and one.equals(other)):
            raise ReadingError(f"{what}: first and second differ in {name}. Read one fact set both times, alike.")


def _require_same_model(pair: Mapping[str, xr.Dataset], what: str) -> None:
    (first_name, first), (second_name, second) = pair.items()
    for name, label in (("base_fingerprint", "base_model"), ("base_model", "base_model"), ("model", "model")):
        if name in first.attrs and name in second.attrs:
            first_model, second_model = (str(reading.attrs[name]).split(" + ")[0] for reading in (first, second))
            if first_model != second_model:
                shown = [str(reading.attrs.get(label, reading.attrs[name])) for reading in (first, second)]
                raise ReadingError(
                    f"{what}: {first_name} and {second_name} are of two models ({shown[0]} and {shown[1]}; they "
                    f"differ in {name}). Read one model with and without its change; if one is a trained copy of the "
                    "other, state it by "
                    f"{second_name}.assign_attrs({name}={first_name}.attrs[{name!r}])."
                )
            return


def _difference(first: xr.Dataset, second: xr.Dataset, name: str) -> str:
    """The first place at which two readings differ in a coordinate, as text; empty where there is none."""
    if name not in first.coords or name not in second.coords:
        return ""
    pair = (reading[name].reset_coords(drop=True) for reading in (first, second))
    # broadcast, since tokens have phrasings only where these differ in them
    left, right = xr.broadcast(*xr.align(*pair, join="inner"))
    places = np.argwhere(np.atleast_1d(left.values != right.values))
    if not len(places):
        return ""
    at = dict(zip(left.dims, places[0], strict=False))
    where = ", ".join(f"{dim} {left[dim].values[index] if dim in left.coords else index}" for dim, index in at.items())
    values = f"{left.isel(at).item()!r} and {right.isel(at).item()!r}"
    return f"{where}: {values}" if where else values


def _require_whole(content: bytes, path: Path) -> None:
    """Refuse what was altered or cut, before h5netcdf, which complains in the background, sees it."""
    if not has_seal(content, path):
        with h5py.File(io.BytesIO(content)) as file:
            if _SEALED in file.attrs:
                raise ReadingError(f"{path} is damaged: its digest was cut off. Delete it and make the reading again.")


def _parsed(content: bytes) -> xr.Dataset:
    with xr.open_dataset(io.BytesIO(content), engine="h5netcdf") as opened:
        return restored(opened.load())


def _netcdf(reading: xr.Dataset) -> bytes:
    """A netCDF-4 file in memory: HDF5 kills the process (segmentation fault) where a disk runs full under it."""
    numbers = [name for name, variable in reading.variables.items() if variable.dtype.kind in "fiub"]
    buffer = io.BytesIO()
    with h5netcdf.File(buffer, "w") as file:
        reading.dump_to_store(H5NetCDFStore(file), encoding={name: _ENCODING for name in numbers})
    return buffer.getvalue()


def _shown(path: Path) -> str:
    """A path as one short piece of text that can be printed anywhere."""
    text = str(path).encode("utf-8", "backslashreplace").decode().replace("\0", r"\x00")
    return text if len(text) <= 300 else f"{text[:120]}...{text[-60:]}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
