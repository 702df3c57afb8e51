"""An interrupt at any instruction of a ``with`` statement leaves nothing behind, and none is lost."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

import mechmask
from mechmask.interrupts import atomic_context, interrupt_waits, uninterrupted


class Thing:
    def __init__(self) -> None:
        self.is_on = False
        self.body_began = self.body_ended = False

    @atomic_context
    def on(self):
        try:
            self.is_on = True
            yield self
        finally:
            self.is_on = False

    @atomic_context
    def twice(self):
        with self.on(), Thing().on():
            yield self


def use(make) -> None:
    with make() as thing:  # nothing else holds the context: its destructor runs here too
        thing.body_began = True
        assert thing.is_on
        thing.body_ended = True


def interrupted_at(number: int, make) -> bool:
    """Run ``use`` with SIGINT at its ``number``-th instruction, in whatever frame; whether it had so many."""
    counted = 0

    def trace(frame, event, _argument):
        nonlocal counted
        frame.f_trace_opcodes = True
        if event == "opcode":
            counted += 1
            if counted == number:
                signal.raise_signal(signal.SIGINT)
        return trace

    sys.settrace(trace)
    try:
        use(make)
    finally:
        sys.settrace(None)
    return counted >= number


@pytest.fixture(autouse=True)
def no_garbage_is_collected():
    """What other libraries do when it is would be interrupted too, and Python raises nothing from there."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(autouse=True)
def default_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("context", ["on", "twice"])
def test_an_interrupt_at_every_instruction(context):
    """Between every two instructions of entering, body and leaving, in all frames: undone, and raised."""
    number, raised = 0, 0
    while True:
        number += 1
        thing = Thing()
        try:
            if not interrupted_at(number, getattr(thing, context)):
                break
        except KeyboardInterrupt:
            raised += 1
        assert not thing.is_on, number
        assert not interrupt_waits(), number
    assert raised == number - 1 > 100


def test_contextmanager_would_fail_that():
    """The check can fail: the standard library's context leaves the change on."""

    class Plain(Thing):
        @contextlib.contextmanager
        def on(self):
            try:
                self.is_on = True
                yield self
            finally:
                self.is_on = False

    left = []
    for number in range(1, 200):
        thing = Plain()
        with contextlib.suppress(KeyboardInterrupt):
            interrupted_at(number, thing.on)
        left.append(thing.is_on)
    assert any(left)


def test_timed_interrupts(monkeypatch):
    """300 of a timer, over entering, body and leaving that take as long as each other.

    In Python 3.10 one that falls into the destructor of a context, where Python can only report it, counts as well.
    """
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)

    class Slow(Thing):
        @atomic_context
        def on(self):
            try:
                self.is_on = True
                time.sleep(0.0005)
                yield self
            finally:
                time.sleep(0.0005)
                self.is_on = False

    raised = 0
    before = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        for i in range(300):
            thing = Slow()
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 + i * 2e-3 / 300)
                with thing.on():
                    time.sleep(0.0005)
                time.sleep(0.002)
            except KeyboardInterrupt:
                raised += 1
            assert not thing.is_on
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if sys.version_info >= (3, 11):
        assert not reported
    for one in reported:
        assert (one.exc_type, one.object.__qualname__) == (KeyboardInterrupt, "_Opened.__del__")
    assert raised + len(reported) == 300


def test_the_body_is_interrupted_at_once():
    with pytest.raises(KeyboardInterrupt), Thing().on() as thing:
        signal.raise_signal(signal.SIGINT)
        thing.body_ended = True
    assert not thing.body_ended and not thing.is_on


def test_a_block_that_is_not_cut():
    done = False
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        with uninterrupted():
            pass
        with Thing().on():
            assert interrupt_waits()
        done = True
    assert done and not interrupt_waits()


def test_errors_pass_as_through_a_context_of_the_standard_library():
    thing = Thing()
    with pytest.raises(ZeroDivisionError), thing.on():
        raise ZeroDivisionError
    assert not thing.is_on

    @atomic_context
    def suppressing():
        with contextlib.suppress(ValueError):
            yield

    with suppressing():
        raise ValueError

    @atomic_context
    def failing():
        raise KeyError("before the yield")
        yield

    with pytest.raises(KeyError), failing():
        pass


def test_a_handler_of_the_users_is_asked_and_may_go_on():
    """One that only notes the interrupt, as a trainer that stops after its step does: nothing is undone early."""
    noted = []
    before = signal.signal(signal.SIGINT, lambda *_: noted.append(1))
    try:
        for number in range(1, 10_000):
            thing = Thing()
            if not interrupted_at(number, thing.on):
                break
            assert thing.body_ended and not thing.is_on
        assert len(noted) == number - 1
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_that_are_put_in_place_inside_stand_until_they_are_taken_away():
    """One chains to what it found, which is the handler of a context that is open."""
    noted, around = [], signal.getsignal(signal.SIGINT)
    with Thing().on():
        found = signal.getsignal(signal.SIGINT)

        def chained(number, frame):
            noted.append(1)
            found(number, frame)

        signal.signal(signal.SIGINT, chained)
        inner = Thing()
        with pytest.raises(KeyboardInterrupt), inner.on(), Thing().on():
            signal.raise_signal(signal.SIGINT)
        assert noted == [1] and not inner.is_on
        assert signal.getsignal(signal.SIGINT) is chained
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            signal.raise_signal(signal.SIGINT)
        assert noted == [1, 1]
        signal.signal(signal.SIGINT, found)
    assert signal.getsignal(signal.SIGINT) is around


def test_a_second_interrupt_reaches_a_handler_that_is_still_busy_with_the_first():
    """As one that saves its work at the first Ctrl-C and gives up at the second."""
    noted = []

    def patient(number, frame):
        noted.append(1)
        if len(noted) == 1:
            signal.raise_signal(signal.SIGINT)
            noted.append("saved")
        else:
            signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, patient)
    try:
        for how in (Thing().on, uninterrupted):
            noted.clear()
            with pytest.raises(KeyboardInterrupt), how():
                signal.raise_signal(signal.SIGINT)
            assert noted == [1, 1]
    finally:
        signal.signal(signal.SIGINT, before)


def test_contexts_that_are_left_in_another_order():
    around, first, second = signal.getsignal(signal.SIGINT), Thing(), Thing()
    outer, inner = first.on(), second.on()
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert signal.getsignal(signal.SIGINT) is not around and second.is_on and not first.is_on
    inner.__exit__(None, None, None)
    assert signal.getsignal(signal.SIGINT) is around


def test_where_interrupts_are_ignored_they_stay_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Thing().on() as thing, uninterrupted():
            signal.raise_signal(signal.SIGINT)
            thing.body_ended = True
        assert thing.body_ended and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_off_the_main_thread_it_is_a_plain_context():
    seen = []

    def work():
        handler = signal.getsignal(signal.SIGINT)
        with Thing().on() as thing, uninterrupted():
            seen.append((thing.is_on, signal.getsignal(signal.SIGINT) is handler))
        seen.append(thing.is_on)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, True), False]


def test_torchs_own_contexts_of_gradients_are_entered_in_one_place():
    """Elsewhere Ctrl-C could leave gradients off for the rest of a session."""
    root = Path(mechmask.__file__).parent
    bare = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(r"torch\.(no_grad|enable_grad|set_grad_enabled)\b", path.read_text(encoding="utf-8"))
    ]
    assert bare == ["models/gradients.py"]
