"""The same result of several draws of facts as one, with the draw as the cluster.

Facts that were drawn and trained together are not independent, so every mean of a pooled result takes that of a draw as
one observation (``over_facts``, ``group_normalised``), and a correlation resamples whole draws.
"""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr

from mechmask.errors import ReadingError


def pooled(draws: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """The same result of several draws, joined along ``fact``.

    Args:
        draws: by the name of the draw, a result such as ``index[fact]`` in nats; all dimensions but ``fact``, and their
            labels, are the same in all.

    Returns:
        The variables ``[..., fact]`` in their own units, facts labelled ``draw/fact``; the coordinate ``seed[fact]`` is
        the name of the draw. What a result holds once, such as ``shared_error``, stands beside each of its facts.

    Raises:
        ReadingError: if there is no draw, a result has no facts, or the results differ in another dimension.

    Examples:
        >>> import xarray as xr
        >>> index = {seed: xr.Dataset({"index": ("fact", [1.0, 2.0])}, {"fact": ["a", "b"]}) for seed in "01"}
        >>> pooled(index).fact.values.tolist(), pooled(index)["seed"].values.tolist()
        (['0/a', '0/b', '1/a', '1/b'], ['0', '0', '1', '1'])
    """
    if not draws:
        raise ReadingError("There is no draw to pool. Give the result of at least one.")
    parts = [_of_draw(str(name), result) for name, result in draws.items()]
    try:
        if len({frozenset(part.data_vars) for part in parts}) > 1:
            raise ValueError("they hold different variables")
        joined = xr.concat(
            parts,
            "fact",
            data_vars="all",
            coords="different",
            compat="equals",
            join="exact",
            combine_attrs="drop_conflicts",
        )
    except ValueError as error:
        raise ReadingError(
            f"The draws {', '.join(map(str, draws))} cannot be pooled ({_first_line(error)}). Give results of one "
            "protocol under one configuration."
        ) from error
    return joined.transpose(..., "fact")


def only(result: xr.Dataset, kept: xr.DataArray) -> xr.Dataset:
    """The numbers of some facts of a result, NaN for all others.

    The facts themselves stay, so that it is known of how many draws they are (``several_draws``).

    Args:
        result: ``[..., fact]``, in any units.
        kept: which facts, ``[fact]``, booleans.
    """
    numbers = {name: of for name, of in result.data_vars.items() if "fact" in of.dims and of.dtype.kind == "f"}
    return result.assign({name: of.where(kept) for name, of in numbers.items()})


def _of_draw(name: str, result: xr.Dataset) -> xr.Dataset:
    if "fact" not in result.dims:
        raise ReadingError(f"The result of draw {name} has no dimension fact. Give one number for each fact.")
    facts = result.fact
    spread = {
        key: value.broadcast_like(facts).transpose(*(dim for dim in value.dims if dim != "fact"), "fact")
        for key, value in result.data_vars.items()
    }
    return result.assign(spread).assign_coords(
        fact=[f"{name}/{fact}" for fact in facts.values.tolist()], seed=("fact", [name] * facts.size)
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
