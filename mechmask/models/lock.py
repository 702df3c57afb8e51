"""One thread at a time looks at a module or changes it, so that no reading meets a change that another thread put on.

Passes of one module exclude each other too: a reading registers hooks, and those would see the other thread's pass.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import nn

from mechmask.errors import ModelError
from mechmask.interrupts import atomic_context, interrupt_waits

_POLL_SECONDS = 0.05  # how long Ctrl-C is not looked for while another thread has the module


@dataclass
class _Holder:
    thread: threading.Thread
    times: int


_turn = threading.Condition()
_holders: WeakKeyDictionary[nn.Module, _Holder] = WeakKeyDictionary()
_wanted: dict[threading.Thread, nn.Module] = {}  # the module that a thread waits for, in order of coming


@atomic_context
def exclusive(module: nn.Module) -> Iterator[None]:
    """This thread alone works with the module; it may enter again as often as it wants.

    Another thread that asks for the module waits until it is free. Where that could never be, it is refused instead:
    when the threads would wait for each other (one has the module that the other wants), or when the thread that
    holds the module has ended without leaving.

    Raises:
        ModelError: if waiting would never end.
    """
    _acquire(module)
    try:
        yield
    finally:
        with _turn:
            holder = _holders[module]
            holder.times -= 1
            if not holder.times:
                del _holders[module]
                _turn.notify_all()


def _acquire(module: nn.Module) -> None:
    this = threading.current_thread()
    with _turn:
        holder = _holders.get(module)
        if holder and holder.thread is this:
            holder.times += 1
            return
        _wanted[this] = module
        try:
            while not _may_take(this, module):
                _refuse_endless_wait(this)
                _turn.wait(_POLL_SECONDS)
                if interrupt_waits():
                    raise KeyboardInterrupt
            _holders[module] = _Holder(this, 1)
        finally:
            del _wanted[this]


def _may_take(this: threading.Thread, module: nn.Module) -> bool:
    """Whether the module is free and nobody came before: a thread in a loop would take it again and again."""
    first = next(thread for thread, wanted in _wanted.items() if wanted is module)
    return module not in _holders and first is this


def _refuse_endless_wait(this: threading.Thread) -> None:
    thread = this
    while holder := _holders.get(_wanted[thread]):
        thread = holder.thread
        if not thread.is_alive():
            raise ModelError(
                "A thread that has ended left this model locked, perhaps with a change on it. Load the model again."
            )
        if thread is this:
            raise ModelError(
                "Two threads wait for each other's models. Take the models in the same order in every thread, or read "
                "them in one."
            )
        if thread not in _wanted:
            return
