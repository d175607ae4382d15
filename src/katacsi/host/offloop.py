"""The threads in which the host's blocking calls run, so that the event loop never waits for a disk.

A workflow is a coroutine, and what it does to the host is a plain function: `await off_loop(function, …)`
runs one in a thread. A hop to a thread and back costs 0.1 ms, more than most kernel calls, so a step is as
large as a phase of a workflow (look, decide, change), not a system call.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from katacsi.host import processor

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

#: A device that hangs, and a tool that runs for hours, holds one thread; with this many, others still get
#: through. Threads are started as they are needed.
THREADS = 32

# Not asyncio's default pool: that one also resolves names, and stuck I/O in it would stop even those.
_threads = ThreadPoolExecutor(THREADS, "katacsi-host")


def _renew() -> None:
    """Give a process that was forked threads of its own: its parent's did not come along."""
    global _threads  # noqa: PLW0603 -- the pool is the process's
    _threads = ThreadPoolExecutor(THREADS, "katacsi-host")


os.register_at_fork(after_in_child=_renew)


def stay_beside_loop() -> None:
    """Keep the host's threads on the processor of the running event loop from now on.

    The threads of `asyncio.to_thread`, which backends of others may use for anything, run where they like.
    """
    processor.follow_this_thread()
    default = ThreadPoolExecutor(thread_name_prefix="katacsi-default", initializer=processor.go_anywhere)
    asyncio.get_running_loop().set_default_executor(default)


async def off_loop(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking function in a host thread and give its result.

    A caller that is cancelled leaves at once; a step that began runs to its end, one that still waited for a
    thread is dropped. Context variables (the log context) are those of the caller.
    """
    step = functools.partial(contextvars.copy_context().run, fn, *args, **kwargs)
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[T] = loop.create_future()
    # Not run_in_executor, which chains a second future to this one: a third of what a hop costs.
    try:
        _threads.submit(_run, processor.of_loop(), step, loop, ended)
    except RuntimeError:
        # The system refused a thread, and the step waits in the queue all the same: it must not run once its
        # caller was told that it did not.
        ended.cancel()
        raise
    return await ended


def _run(
    place: int | None, step: Callable[[], T], loop: asyncio.AbstractEventLoop, ended: asyncio.Future[T]
) -> None:
    if ended.cancelled():
        return
    processor.stay_at(place)
    settle: Callable[[], None]
    try:
        settle = functools.partial(ended.set_result, step())
    except StopIteration as error:
        # No future takes this one, and who waits would wait for ever.
        failure = RuntimeError("a step raised StopIteration")
        failure.__cause__ = error
        settle = functools.partial(ended.set_exception, failure)
    except BaseException as error:  # noqa: BLE001 -- whatever it is, the caller has to meet it
        settle = functools.partial(ended.set_exception, error)
    try:  # noqa: SIM105 -- at every step, and contextlib.suppress is three calls
        loop.call_soon_threadsafe(_settle, ended, settle)
    except RuntimeError:
        pass  # the loop was closed; nobody waits any more


def _settle(ended: asyncio.Future[T], settle: Callable[[], None]) -> None:
    if not ended.cancelled():
        settle()
