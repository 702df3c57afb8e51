"""Readings that were parsed lately: the same content, never the caller's array, never another file's."""

from __future__ import annotations

import threading

import numpy as np
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from mechmask.measure.reading import load_reading, save_reading
from mechmask.measure.recent import RecentReadings


def numbered(number: int, size: int = 4) -> xr.Dataset:
    return xr.Dataset({"margin": ("fact", np.full(size, float(number)))}, attrs={"number": number})


def test_what_a_caller_does_to_a_reading_does_not_reach_the_next(tmp_path):
    path = tmp_path / "reading.nc"
    save_reading(numbered(1), path)
    first = load_reading(path)
    first.margin.values[:] = 7.0
    first.attrs["number"] = 7
    first.margin.attrs["units"] = "nats"
    second = load_reading(path)
    assert (second.margin.values == 1.0).all()
    assert second.attrs["number"] == 1
    assert "units" not in second.margin.attrs


def test_a_file_that_is_written_anew_is_parsed_anew(tmp_path):
    path = tmp_path / "reading.nc"
    for number in range(3):
        save_reading(numbered(number), path)
        assert load_reading(path).margin.values.tolist() == [float(number)] * 4


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(0, 4))
def test_every_content_gives_its_own_reading_within_the_bound(asked, n_fit):
    one = numbered(0).nbytes
    recent, parsed = RecentReadings(n_fit * one), []
    for number in asked:
        got = recent.get(bytes([number]), lambda content: (parsed.append(content[0]), numbered(content[0]))[1])
        assert got.identical(numbered(number))
        assert sum(each.nbytes for each in recent._kept.values()) <= n_fit * one
    hits = len(asked) - len(parsed)
    expected, kept = 0, []
    for number in asked:
        expected += number in kept
        kept = ([n for n in kept if n != number] + [number])[-n_fit:] if n_fit else []
    assert hits == expected


def test_threads_get_what_they_ask_for():
    recent, wrong = RecentReadings(2 * numbered(0).nbytes), []

    def ask(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 6, 200).tolist():
            got = recent.get(bytes([number]), lambda content: numbered(content[0]))
            if not got.identical(numbered(number)):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
