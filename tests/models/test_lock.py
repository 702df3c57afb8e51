"""One thread at a time has a module: real threads, and a reading that never meets another thread's change."""

from __future__ import annotations

import signal
import threading
import time

import pytest
import torch

from mechmask import FTLConfig, edit, read_logits
from mechmask.errors import ModelError
from mechmask.models.lock import exclusive
from mechmask.models.states import active


@pytest.fixture
def modules():
    return torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)


def in_thread(work):
    """Start ``work`` in a thread; what it returns or raises is the result of ``join``."""
    results = []

    def run():
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join():
        thread.join(20)
        assert not thread.is_alive()
        return results[0]

    return join


def test_the_same_thread_enters_again(modules):
    with exclusive(modules[0]), exclusive(modules[0]), exclusive(modules[1]):
        pass


def test_a_context_that_is_dropped_is_left(modules):
    in_thread(lambda: exclusive(modules[0]).__enter__())()
    with exclusive(modules[0]):
        pass


def test_another_thread_waits_until_the_outermost_is_left(modules):
    order = []
    with exclusive(modules[0]):
        with exclusive(modules[0]):

            def wait():
                with exclusive(modules[0]):
                    order.append("other")

            join = in_thread(wait)
            time.sleep(0.05)
        time.sleep(0.05)
        order.append("this")
    join()
    assert order == ["this", "other"]


def test_threads_that_would_wait_for_each_other_are_refused(modules):
    first, second = modules
    both_hold = threading.Barrier(2)

    def take(one, other):
        with exclusive(one):
            both_hold.wait(5)
            with exclusive(other):
                return "both"

    joins = [in_thread(lambda: take(first, second)), in_thread(lambda: take(second, first))]
    results = [join() for join in joins]
    assert "both" in results
    (refused,) = [result for result in results if result != "both"]
    assert isinstance(refused, ModelError) and "Take the models in the same order" in str(refused)
    with exclusive(first), exclusive(second):
        pass


def test_a_thread_that_ended_without_leaving(modules):
    context = exclusive(modules[0])
    in_thread(context.__enter__)()
    with pytest.raises(ModelError, match="thread that has ended"), exclusive(modules[0]):
        pass
    del context
    with exclusive(modules[0]):
        pass


def test_ctrl_c_ends_the_waiting(modules):
    held, free = threading.Event(), threading.Event()

    def hold():
        with exclusive(modules[0]):
            held.set()
            time.sleep(0.1)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            free.wait(10)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        join = in_thread(hold)
        held.wait(5)
        with pytest.raises(KeyboardInterrupt), exclusive(modules[0]):
            pass
    finally:
        signal.signal(signal.SIGINT, before)
        free.set()
    join()
    with exclusive(modules[0]):
        pass


def test_no_reading_meets_the_change_of_another_thread(tiny, facts):
    """One thread puts a change on and off as fast as it can; every reading of another is of the bare model."""
    model = tiny("llama")
    change = edit(model, [facts[0]], "ft_l", FTLConfig(layer=1, clamp=1e-1, steps=2))
    bare, some = model.fingerprint, facts[:2]
    wanted = read_logits(model, some).logprob
    stop = threading.Event()

    def toggle():
        n = 0
        while not stop.is_set():
            with active(change.on(model)) as changed:
                assert changed.fingerprint != bare
                n += 1
        return n

    join = in_thread(toggle)
    try:
        for _ in range(15):
            with active(model) as same:
                reading = read_logits(same, some)
            assert reading.attrs["fingerprint"] == bare
            assert reading.logprob.equals(wanted)
    finally:
        stop.set()
    assert join() > 0
    assert model.fingerprint == bare
