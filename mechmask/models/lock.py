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
_wanted: dict[threading.Thread, nn.Module] = {}  # the module that a thread waits for


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
        try:
            while (holder := _holders.get(module)) and holder.thread is not this:
                _refuse_endless_wait(this, holder.thread)
                _wanted[this] = module
                _turn.wait(_POLL_SECONDS)
                if interrupt_waits():
                    raise KeyboardInterrupt
        finally:
            _wanted.pop(this, None)
        if holder:
            holder.times += 1
        else:
            _holders[module] = _Holder(this, 1)


def _refuse_endless_wait(this: threading.Thread, thread: threading.Thread) -> None:
    if not thread.is_alive():
        raise ModelError(
            "A thread that has ended left this model locked, perhaps with a change on it. Load the model again."
        )
    while thread is not this:
        wanted = _wanted.get(thread)
        holder = _holders.get(wanted) if wanted is not None else None
        if holder is None:
            return
        thread = holder.thread
    raise ModelError(
        "Two threads wait for each other's models. Take the models in the same order in every thread, or read them "
        "in one."
    )
