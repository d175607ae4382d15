"""Threads that take one step after another; private to `katacsi.host.offloop`.

A step of a volume's way is shorter than what it costs to wake the wrong thread: of those that rest, the
queue of concurrent.futures wakes one for the step and another one in vain, and each contends for Python's
lock. Here the one that rested last is woken, alone.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    #: What a thread runs; it deals with its own errors.
    Step = Callable[[], object]


class Threads:
    """At most so many threads, started as they are needed.

    Steps that find none free wait in turn. The process does not end while a step runs.

    Args:
        limit: how many threads.
        name: what they are called, with a number each.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._lock = threading.Lock()
        self._resting: list[_Thread] = []
        self._waiting: deque[Step] = deque()
        self._started = 0
        self._idle = threading.Condition(self._lock)
        atexit.register(self.finish)

    def run(self, step: Step) -> None:
        """Have a thread take a step, as soon as one is free.

        Raises:
            RuntimeError: the system gives no thread, and there is none yet.
        """
        with self._lock:
            if self._resting:
                self._resting.pop().take(step)
                return
            if self._started == self._limit:
                self._waiting.append(step)
                return
            self._started += 1
            number = self._started
        thread = _Thread(self, f"{self._name}_{number}")
        thread.take(step)
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._started -= 1
                if self._resting:  # since a moment ago
                    self._resting.pop().take(step)
                elif self._started:
                    self._waiting.append(step)
                else:
                    raise

    def next_for(self, thread: _Thread) -> Step | None:
        """Give the next step to a thread that has done one; None: it rests."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._resting.append(thread)
            if len(self._resting) == self._started:
                self._idle.notify_all()
            return None

    def finish(self) -> None:
        """Wait until no step runs and none waits."""
        with self._idle:
            self._idle.wait_for(lambda: len(self._resting) == self._started)


class _Thread(threading.Thread):
    def __init__(self, home: Threads, name: str) -> None:
        # A daemon, as one that rests would keep the process from ending; `finish` waits for those that work.
        super().__init__(name=name, daemon=True)
        self._home = home
        self._step: Step | None = None
        self._bell = threading.Lock()
        self._bell.acquire()

    def take(self, step: Step) -> None:
        """Have it take a step; it rests, or was not started."""
        self._step = step
        self._bell.release()

    def run(self) -> None:
        _let_others_finish()
        while True:
            self._bell.acquire()
            step, self._step = self._step, None
            while step is not None:
                try:
                    step()
                except BaseException:  # noqa: BLE001  # told as any thread's end is; this one goes on
                    threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self)))
                step = self._home.next_for(self)


def _let_others_finish() -> None:
    """Have the calling thread, once woken, wait for the one that runs on its processor.

    Who woke it holds Python's lock and is about to let go of it; to interrupt it gains nothing. Tools that
    are started from here inherit that, and are as little urgent. Another policy than the usual one is the
    operator's choice, and stays.
    """
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
