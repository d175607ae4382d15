"""A runner that kills a backend at every step of a call, starts it again, and has its storage looked at.

For each step of the call there is a process of its own, a fork of this one, which gets SIGKILL right before
the step, or right after it. See `steps` for what a step is. A power cut is another thing: what a process has
written stays when it is killed, synced or not.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
import traceback
from typing import TYPE_CHECKING, NoReturn

from katacsi.testing import steps
from katacsi.testing.processes import forked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from katacsi.testing.pools import PoolUnderTest
    from katacsi.testing.steps import Step

    #: What is done to a pool that was started.
    Action = Callable[[PoolUnderTest], Awaitable[object]]

#: The call itself, whoever watches it later.
_pwrite = os.pwrite

#: A call with more steps than this does not end, or goes byte by byte: that proves nothing more.
MOST_STEPS = 2000


class CallFailed(AssertionError):
    """The call failed by itself, without having been killed."""


async def at_every_step(
    make_pool: Callable[[], PoolUnderTest],
    *,
    act: Action,
    check: Action,
    prepare: Action | None = None,
    every: int = 1,
) -> int:
    """Kill a pool at each step of `act`, or at each n-th; give the number of the last one.

    Each time `prepare` comes before, undisturbed, and `check` after, on a pool that was started anew. `check`
    has to leave the storage so that all can begin again; what it raises names the step.

    Args:
        make_pool: gives a pool on the storage, not started.
        act: the call.
        check: looks at what the killed call left, repeats the call, and takes away what there is.
        prepare: what has to be there before the call.
        every: how far the steps are apart at which it is killed.
    """
    for killed in range(0, MOST_STEPS, every):
        if prepare is not None:
            await _with_pool(make_pool(), prepare)
        died, last = await _killed_at(killed, make_pool, act)
        try:
            await _with_pool(make_pool(), check)
        except Exception as error:
            if died:
                error.add_note(f"(after a process that was killed {last})")
            raise
        if not died:
            return killed
    raise AssertionError(f"the call had not come to its end after {MOST_STEPS} steps")


async def _with_pool(pool: PoolUnderTest, action: Action) -> None:
    await pool.start()
    try:
        await action(pool)
    finally:
        await pool.backend.close()


class _Killer:
    """Kills its process when it comes to a step."""

    def __init__(self, at: int, log: int) -> None:
        self._at = at
        self._log = log
        self._count = 0
        self._lock = threading.Lock()

    def before(self, step: Step) -> None:
        self._come_to("before", step)

    def after(self, step: Step, result: object) -> None:
        del result
        self._come_to("after", step)

    def _come_to(self, when: str, step: Step) -> None:
        if not step.changes:
            return
        with self._lock:
            self._count += 1
            if self._count <= self._at:
                return
            _told(self._log, f"{when} {step}")
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()


async def _killed_at(number: int, make_pool: Callable[[], PoolUnderTest], act: Action) -> tuple[bool, str]:
    """Let a process come to a step, and die; False: it came to the end. The text says where it died."""
    with tempfile.TemporaryFile() as log:
        pid = forked()
        if pid == 0:
            _live(number, make_pool, act, log.fileno())
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        log.seek(0)
        said = log.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    if code not in {0, -signal.SIGKILL}:
        raise CallFailed(f"the call failed by itself, with {code}:\n{said}")
    return code != 0, said


def _live(number: int, make_pool: Callable[[], PoolUnderTest], act: Action, log: int) -> NoReturn:
    async def life() -> None:
        pool = make_pool()
        await pool.start()
        with steps.watched(_Killer(number, log)):
            await act(pool)
        await pool.backend.close()

    code = 1
    try:
        asyncio.run(life())
        code = 0
    except BaseException:  # noqa: BLE001 -- a fork must never return into its parent's code
        _told(log, traceback.format_exc())
    finally:
        os._exit(code)


def _told(log: int, text: str) -> None:
    _pwrite(log, text.encode(errors="replace"), 0)
