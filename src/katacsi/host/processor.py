"""Keeps the threads of host steps on the processor that the event loop runs on.

One thread at a time runs Python, so a second processor gains such threads nothing; yet every hand-over of
the interpreter's lock from one processor to another wakes one that sleeps. With eight calls at once that
took a third of all processor time. What works without the lock for long is free to run anywhere: tools that
are started, and copying.

The kernel chooses the processor: once a second, while host steps are asked for, the event loop may run where
it likes, and stays where it is found then. So one that others keep busy is left within a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

#: Seconds for which a choice stands, and for which at least the kernel then has it again.
_STAY_S: Final = 1.0
_CHOOSE_S: Final = 0.005

#: A mask of more processors than any kernel has; of these it takes the cgroup's. As a set for
#: os.sched_setaffinity it would cost 0.2 ms each time, and 0.8 MiB.
_EVERY: Final = ctypes.create_string_buffer(b"\xff" * 1024, 1024)
_libc = ctypes.PyDLL(None)  # keeps the interpreter's lock, for calls that take less than a microsecond

#: Of each thread of host steps: the processor that it is bound to.
_thread = threading.local()


class _Seat:
    """Where the event loop runs; only its thread moves it."""

    def __init__(self, allowed: Collection[int] | None, whereabouts: Callable[[], int]) -> None:
        #: What tools and long work may use; None: all that the cgroup has at the time.
        self.allowed = allowed
        self._whereabouts = whereabouts
        self._processor = -1
        self._bound = False
        self._until = 0.0

    def take(self) -> int:
        """Bind the calling thread, the event loop's, and give the processor."""
        if (now := time.monotonic()) >= self._until:
            if self._bound:
                _bind(self.allowed)
            else:
                self._processor = self._whereabouts()
                _bind({self._processor})
            self._bound = not self._bound
            self._until = now + (_STAY_S if self._bound else _CHOOSE_S)
        return self._processor


_seat: _Seat | None = None


def follow_this_thread() -> None:
    """Have the threads of host steps follow the calling one, the event loop's, from now on.

    Without effect where there is one processor, or where the kernel does not tell which one a thread is on.
    """
    global _seat  # noqa: PLW0603 -- a process serves with one event loop
    whereabouts = getattr(_libc, "sched_getcpu", None)
    given = os.sched_getaffinity(0)
    if whereabouts is None or whereabouts() < 0 or len(given) == 1:
        return
    _bind(None)
    if os.sched_getaffinity(0) == given:
        # Only the cgroup limits us, and it may be given others while we run (kubelet's CPU manager).
        _seat = _Seat(None, whereabouts)
    else:
        _bind(given)
        _seat = _Seat(given, whereabouts)


def go_anywhere() -> None:
    """Let the calling thread run on any processor for good; a new thread is where its starter was."""
    if _seat is not None:
        _bind(_seat.allowed)


def of_loop() -> int | None:
    """Say where a host step is to run; asked by the event loop. None: anywhere."""
    return None if _seat is None else _seat.take()


def stay_at(processor: int | None) -> None:
    """Bind the calling thread to what `of_loop` said."""
    if processor is not None and getattr(_thread, "processor", None) != processor:
        _bind({processor})
        _thread.processor = processor


@contextlib.contextmanager
def anywhere() -> Iterator[None]:
    """Let the calling thread, and what it starts, run on any processor meanwhile."""
    bound = getattr(_thread, "processor", None)
    if _seat is None or bound is None:
        yield
        return
    go_anywhere()
    try:
        yield
    finally:
        _bind({bound})


def _bind(processors: Collection[int] | None) -> None:
    if processors is not None:
        try:
            os.sched_setaffinity(0, processors)
        except OSError:
            pass  # none of them is ours any more; then it is as without all this
        else:
            return
    _libc.sched_setaffinity(0, len(_EVERY), _EVERY)
