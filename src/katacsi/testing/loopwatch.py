"""Finds what keeps the event loop's thread waiting, or busy, however loaded the machine is.

Time alone proves nothing on a machine that does something else. So it is looked at what the thread does: it
calls what has to wait, or it sleeps in the kernel at one and the same place, or it uses up processor time.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

from katacsi.testing import steps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from katacsi.testing.steps import Step

#: So long the thread may sleep at one place, or compute, in seconds.
LONGEST_S: Final = 0.1

#: Calls that wait for a disk, a program or a clock, however short it is this time.
_WAITING: Final = steps.SYNCS | {"sleep", "start of a tool"}

_PAUSE_S: Final = 0.01

#: The clock's own, whoever watches `time.sleep`.
_sleep = time.sleep


class LoopWatch:
    """Watches the running event loop of the thread that made it."""

    def __init__(self) -> None:
        #: What blocked the loop, each with the place in the code.
        self.blocked: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._turns = 0
        self._thread = threading.get_ident()
        self._stat = Path(f"/proc/self/task/{threading.get_native_id()}/stat")
        self._clock = time.pthread_getcpuclockid(self._thread)
        self._over = threading.Event()

    def before(self, step: Step) -> None:
        """Note a call that has to wait, if it is the loop's thread that makes it."""
        if step.name in _WAITING and threading.get_ident() == self._thread:
            self.blocked.append(f"{step.name}, called at {_place(sys._getframe(2))}")  # noqa: SLF001 -- CPython's only way

    def after(self, step: Step, result: object) -> None:
        """Have no opinion: it is over."""

    def look(self) -> None:
        """Look at the thread again and again until `end`."""
        # Looks, not seconds: who looks needs Python's lock, as the thread does, and runs when that could run.
        looks, turns, computed = 0, -1, 0.0
        while not self._over.is_set():
            _sleep(_PAUSE_S)
            frame = sys._current_frames().get(self._thread)  # noqa: SLF001 -- CPython's only way
            if frame is None:
                return
            used = time.clock_gettime(self._clock)
            if self._turns != turns or _waits_for_events(frame):
                looks, turns, computed = 0, self._turns, used
                continue
            asleep = self._stat.read_text().rpartition(")")[2].split()[0] in {"S", "D"}
            looks = looks + 1 if asleep else 0
            if looks * _PAUSE_S > LONGEST_S or used - computed > LONGEST_S:
                self.blocked.append(f"it stood still at {_place(frame)}")
                looks, computed = 0, used

    def turn(self) -> None:
        """Note that the loop goes round, and ask it to say so again."""
        self._turns += 1
        if not self._over.is_set():
            self._loop.call_later(_PAUSE_S / 2, self.turn)

    def end(self) -> None:
        """Stop to look."""
        self._over.set()


@contextlib.contextmanager
def watching_loop() -> Iterator[LoopWatch]:
    """Watch the event loop of this thread in the `with` block."""
    watch = LoopWatch()
    looking = threading.Thread(target=watch.look, name="katacsi-loop-watch", daemon=True)
    looking.start()
    watch.turn()
    try:
        with steps.watched(watch):
            yield watch
    finally:
        watch.end()
        looking.join()


def _waits_for_events(frame: FrameType) -> bool:
    return frame.f_code.co_name == "select" and "selectors" in frame.f_code.co_filename


def _place(frame: FrameType) -> str:
    return " < ".join(
        f"{Path(at.filename).name}:{at.lineno} {at.name}"
        for at in reversed(traceback.extract_stack(frame, limit=4))
    )
