"""A sweep's studies as tasks of Ray: one machine with several processors or GPUs, or a cluster, by the same call.

A task does what is not done yet of one study, in the study's own directory, so that one whose worker was killed (for
memory, or with its machine) goes on where it was when Ray starts it again. Processes stay for the next study and keep
the model that they loaded last.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mechmask.errors import StudyError
from mechmask.study.sweep_grid import Point
from mechmask.study.toml import LastModel

_RETRIES = 3  # of a study whose worker was killed
_REACHED_SECONDS = 10.0
_HERE = "local"  # Ray's address of a session of one's own, whatever the environment names

_models = LastModel()  # of a worker, whose studies follow one another


def run_on_ray(
    points: Sequence[Point],
    directory: Path,
    *,
    workers: int | None = None,
    address: str | None = None,
    cpus: float = 1,
    gpus: float = 0,
) -> Iterator[tuple[str, str]]:
    """Do what is not done yet of every study.

    Args:
        points: the studies.
        directory: of the sweep, which every machine of the cluster sees under this path.
        workers: studies at once on this machine.
        address: of a cluster, such as ``auto``; that in ``RAY_ADDRESS`` by default, and without one this machine.
        cpus: processors a study.
        gpus: GPUs a study.

    Yields:
        The name of each study as it ends, and why it could not be done; empty where it is finished.

    Raises:
        StudyError: if Ray is not installed, cannot be started or reached, or has no place for a single study.
    """
    ray = _imported()
    with _running(ray, workers, address, cpus) as resources:
        _require_room(resources, cpus, gpus)
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES)(_study_done)
        names = {task.remote(point, str(directory)): point.name for point in points}
        waiting = list(names)
        while waiting:
            (ended,), waiting = ray.wait(waiting)
            yield names[ended], _problem(ray, ended)


def _study_done(point: Point, directory: str) -> str:
    """The task: a study done, or why it cannot be, which no other attempt would change."""
    return point.run(_models, Path(directory))


def _problem(ray: Any, ended: Any) -> str:
    """What a task returned; of one that did not come to its end, what Ray says."""
    try:
        return ray.get(ended)
    except ray.exceptions.RayTaskError as error:
        return _first_line(error.cause)
    except ray.exceptions.RayError as error:
        return f"Its worker was killed {_RETRIES + 1} times ({_first_line(error)})."


@contextmanager
def _running(ray: Any, workers: int | None, address: str | None, cpus: float) -> Iterator[dict[str, float]]:
    """Ray's resources: those of the session that the caller has, of a cluster, or of this machine, until it is left."""
    if address is not None and workers is not None:
        raise StudyError("workers is for this machine, and address for a cluster. Give one of the two.")
    if workers is not None and workers < 1:
        raise StudyError(f"{workers} studies at once cannot be run. Give at least one worker.")
    if ray.is_initialized():
        if address is not None or workers is not None:
            raise StudyError("Ray runs in this process already. Leave workers and address out, or call ray.shutdown().")
        yield ray.cluster_resources()
        return
    place = address or (os.environ.get("RAY_ADDRESS") if workers is None else None) or _HERE
    processors = None if workers is None else max(1, round(workers * cpus))
    own = {"num_cpus": processors, "include_dashboard": False} if place == _HERE else {}
    try:
        _require_reached(place)
        ray.init(address=place, log_to_driver=False, logging_level="ERROR", **own)
    except Exception as error:  # of the cluster, the network, the machine
        raise StudyError(
            f"Ray cannot be started or reached ({_first_line(error)}). Check the address, or run the sweep here."
        ) from error
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def _require_reached(address: str) -> None:
    """Refuse an address where nothing answers, for which Ray would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHED_SECONDS).close()


def _require_room(resources: dict[str, float], cpus: float, gpus: float) -> None:
    """Refuse a study that no machine has room for: Ray would wait for one without an end."""
    if cpus <= 0 or gpus < 0:
        raise StudyError(f"A study cannot take {cpus:g} processors and {gpus:g} GPUs. Give numbers above 0.")
    for what, asked, there in (
        ("processors", cpus, resources.get("CPU", 0.0)),
        ("GPUs", gpus, resources.get("GPU", 0.0)),
    ):
        if asked > there:
            raise StudyError(f"A study asks for {asked:g} {what} and Ray has {there:g}. Give each study fewer.")


def _imported() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unless the user says so
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise StudyError("A sweep on Ray needs ray. Run: pip install ray, or run the sweep here.") from error
    return ray


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
