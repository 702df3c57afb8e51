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
        self._post = _sentry.stand()
        _sentry.blocks += self._post is not None

    def __exit__(self, *exception: object) -> None:
        _sentry.blocks -= self._post is not None
        _sentry.leave(self._post)
        _sentry.deliver()


def interrupt_waits() -> bool:
    """Whether Ctrl-C was pressed inside a section that puts it off; what waits there for another thread asks this."""
    return _on_main_thread() and _sentry.pending


class _AtomicContext(AbstractContextManager[Value], Generic[Value]):
    _opened: _Opened  # from entering to leaving

    def __init__(self, generator: AbstractContextManager[Value]) -> None:
        self._generator = generator

    def __enter__(self) -> Value:
        post = _sentry.stand()
        try:
            value = self._generator.__enter__()
        except BaseException:
            _sentry.leave(post)
            _sentry.deliver()
            raise
        self._opened = _Opened(self._generator, post)
        try:
            _sentry.deliver()
        except BaseException as interrupt:
            self._taken().__exit__(type(interrupt), interrupt, interrupt.__traceback__)
            _sentry.leave(post)
            raise
        return value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        post = self._opened.post
        try:
            return self._taken().__exit__(kind, error, traceback)
        finally:
            _sentry.leave(post)
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
    post: _Post | None

    def __del__(self) -> None:
        if self.generator:
            try:
                self.generator.__exit__(GeneratorExit, GeneratorExit(), None)
            finally:
                _sentry.leave(self.post)
                _sentry.deliver()


@dataclass(eq=False)
class _Post:
    """A stretch for which the handler of this module stands in the place of another one.

    Attributes:
        relieved: whose place it took, if Ctrl-C is handled by a function.
        n_open: contexts and blocks of that stretch that are open.
    """

    relieved: Callable[[int, FrameType | None], Any] | None
    n_open: int = 0


class _Sentry:
    """The handler of SIGINT that stands while a context is open. Its state is the main thread's alone."""

    def __init__(self) -> None:
        self.blocks = 0  # uninterrupted blocks that are open
        self.pending = False
        self._posts: list[_Post] = []  # more than one where another handler was put in place while a context was open
        self._asked: int | None = None  # the post whose relieved handler is running

    def stand(self) -> _Post | None:
        """Take the place of the handler; none off the main thread, where there is none to take."""
        if not _on_main_thread():
            return None
        if not self._posts:
            self.pending = False
        current = signal.getsignal(signal.SIGINT)
        relieved = current if callable(current) and current != self._handle else None
        if relieved is not None:
            signal.signal(signal.SIGINT, self._handle)
        if relieved is not None or not self._posts:
            self._posts.append(_Post(relieved))  # only now: an interrupt before its handler stood would have left it
        post = self._posts[-1]
        post.n_open += 1
        return post

    def leave(self, post: _Post | None) -> None:
        """End what ``stand`` began."""
        if post is None:
            return
        post.n_open -= 1
        if not _on_main_thread():
            return
        while self._posts and not self._posts[-1].n_open:
            relieved = self._posts.pop().relieved
            if relieved is not None and signal.getsignal(signal.SIGINT) == self._handle:
                signal.signal(signal.SIGINT, relieved)

    def deliver(self) -> None:
        """Hand on an interrupt that was put off, unless a wider section is still being entered or left."""
        if not _on_main_thread() or not self.pending:
            return
        frame = sys._getframe(1).f_back  # where the section that calls this was called
        if not self.blocks and not _changes_state(frame):
            self.pending = False
            handler = signal.getsignal(signal.SIGINT)
            if handler == self._handle:
                self._pass_on(frame)
            elif callable(handler):
                handler(signal.SIGINT, frame)

    def _handle(self, _number: int, frame: FrameType | None) -> None:
        if self.blocks or _changes_state(frame):
            self.pending = True
            return
        by_signal = frame is sys._getframe(1)  # else a handler that was put in place later hands it on
        self._pass_on(frame, below=None if by_signal else self._asked)

    def _pass_on(self, frame: FrameType | None, below: int | None = None) -> None:
        """To the handler that was relieved last, or last before one that hands it on."""
        number = (len(self._posts) if below is None else below) - 1
        relieved = self._posts[number].relieved if number >= 0 else None
        if relieved is None:
            return
        before, self._asked = self._asked, number
        try:
            relieved(signal.SIGINT, frame)
        finally:
            self._asked = before


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
