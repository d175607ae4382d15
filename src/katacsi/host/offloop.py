"""The threads in which the host's blocking calls run, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

#: A device that hangs holds one thread; with this many, others still get through.
THREADS = 16

# Not asyncio's default pool: that one also resolves names, and stuck I/O in it would stop even those.
_executor = ThreadPoolExecutor(THREADS, thread_name_prefix="katacsi-host")


async def off_loop(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run one compound step in a host thread and give its result.

    A hop costs about 0.1 ms, so callers bundle what belongs together into one function. A caller that is
    cancelled leaves at once; a step that began runs to its end, one that still waited for a thread is
    dropped. Context variables (the log context) are those of the caller.
    """
    step = functools.partial(contextvars.copy_context().run, fn, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_executor, step)
