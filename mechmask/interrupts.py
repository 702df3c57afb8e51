"""Ctrl-C while something of the caller's is being changed or put back: it waits until the state is whole again.

``contextlib.contextmanager`` has three windows in which an interrupt leaves a change behind: after the generator has
yielded and before the body begins, at the first instruction of ``__exit__``, and within the undoing itself.
``atomic_context`` closes them: as long as such a context is open, a handler of this module stands before the one that
was there, and looks where the interrupt fell. In the body it goes on at once; inside entering or leaving it is put off.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import wraps
from types import FrameType, TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")


def atomic_context(
    function: Callable[Arguments, Iterator[Value]],
) -> Callable[Arguments, AbstractContextManager[Value]]:
    """Like ``contextlib.contextmanager``, but Ctrl-C falls into the body or waits: never into entering or leaving.

    An interrupt that comes while the generator runs up to its ``yield`` is raised there, so that its ``finally``
    undoes what it did; one that comes while it undoes is raised when that is done. What stands before the ``yield``
    has to be short, and its ``try`` has to begin before the first change: an error there is nobody else's to undo.

    Off the main thread, where Python raises no interrupt, it is ``contextmanager``.
    """
    make = contextmanager(function)

    @wraps(function)
    def context(*args: Arguments.args, **kwargs: Arguments.kwargs) -> AbstractContextManager[Value]:
        return _AtomicContext(make(*args, **kwargs))

    return context


class uninterrupted(AbstractContextManager[None]):  # noqa: N801  (read as a statement: with uninterrupted())
    """A short block that Ctrl-C does not cut: ``KeyboardInterrupt`` is raised behind it.

    What it cannot promise is that what follows the block is reached: undo in an ``atomic_context``.
    """

    def __enter__(self) -> None:
        self._stands = _sentry.stand()
        _sentry.blocks += self._stands

    def __exit__(self, *exception: object) -> None:
        _sentry.blocks -= self._stands
        _sentry.leave(self._stands)
        _sentry.deliver()


def interrupt_waits() -> bool:
    """Whether Ctrl-C was pressed inside a section that puts it off; what waits there for another thread asks this."""
    return _on_main_thread() and _sentry.pending


class _AtomicContext(AbstractContextManager[Value], Generic[Value]):
    _opened: _Opened  # from entering to leaving

    def __init__(self, generator: AbstractContextManager[Value]) -> None:
        self._generator = generator

    def __enter__(self) -> Value:
        stands = _sentry.stand()
        try:
            value = self._generator.__enter__()
        except BaseException:
            _sentry.leave(stands)
            _sentry.deliver()
            raise
        self._opened = _Opened(self._generator, stands)
        try:
            _sentry.deliver()
        except BaseException as interrupt:
            self._taken().__exit__(type(interrupt), interrupt, interrupt.__traceback__)
            _sentry.leave(stands)
            raise
        return value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        stands = self._opened.stands
        try:
            return self._taken().__exit__(kind, error, traceback)
        finally:
            _sentry.leave(stands)
            _sentry.deliver()

    def _taken(self) -> AbstractContextManager[Value]:
        """The generator, which is the caller's to leave; its guard ends here, since in a destructor Ctrl-C is lost."""
        self._opened.generator = None
        del self._opened
        return self._generator


@dataclass
class _Opened:
    """Leaves a generator that has been entered where its context is forgotten instead of left.

    Python 3.10 may interrupt a ``with`` between the end of its body and the call of ``__exit__``.
    """

    generator: AbstractContextManager[Any] | None
    stands: bool

    def __del__(self) -> None:
        if self.generator:
            try:
                self.generator.__exit__(GeneratorExit, GeneratorExit(), None)
            finally:
                _sentry.leave(self.stands)
                _sentry.deliver()


class _Sentry:
    """The handler of SIGINT that stands while a context is open. Its state is the main thread's alone."""

    def __init__(self) -> None:
        self.blocks = 0  # uninterrupted blocks that are open
        self.pending = False
        self._contexts = 0
        self._relieved: Callable[[int, FrameType | None], Any] | None = None  # whose place it took

    def stand(self) -> bool:
        """Take the place of the handler; ``False`` off the main thread, where there is none to take."""
        if not _on_main_thread():
            return False
        if not self._contexts:
            self.pending = False
        current = signal.getsignal(signal.SIGINT)
        if callable(current) and current != self._handle:
            self._relieved = current
            signal.signal(signal.SIGINT, self._handle)
        self._contexts += 1  # only now: an interrupt before its handler stood would have left the count wrong
        return True

    def leave(self, stands: bool) -> None:
        self._contexts -= stands
        if not _on_main_thread() or self._contexts:
            return
        if self._relieved and signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, self._relieved)

    def deliver(self) -> None:
        """Hand on an interrupt that was put off, unless a wider section is still being entered or left."""
        if not _on_main_thread() or not self.pending:
            return
        frame = sys._getframe(1)  # the section that calls this
        if not self.blocks and not _changes_state(frame.f_back):
            self.pending = False
            if self._relieved:
                self._relieved(signal.SIGINT, frame)

    def _handle(self, _number: int, frame: FrameType | None) -> None:
        if self.blocks or _changes_state(frame):
            self.pending = True
        elif self._relieved:
            self._relieved(signal.SIGINT, frame)


_sentry = _Sentry()
_SECTIONS = {
    section.__code__
    for section in (
        *(_AtomicContext.__enter__, _AtomicContext.__exit__, _Opened.__del__),
        *(uninterrupted.__enter__, uninterrupted.__exit__),
    )
}


def _changes_state(frame: FrameType | None) -> bool:
    """Whether this code runs inside entering or leaving."""
    while frame is not None:
        if frame.f_code in _SECTIONS:
            return True
        frame = frame.f_back
    return False


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
