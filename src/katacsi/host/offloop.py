"""The threads in which the host's blocking calls run, so that the event loop never waits for a disk.

A hop to a thread and back costs 0.1 ms, more than most kernel calls, and each hop makes thread and event loop
take the interpreter's lock from each other. So a coroutine whose waits are such hops can be run as a whole
in one thread, by `in_one_thread`: what hops elsewhere is then called in place.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from katacsi.host import processor
from katacsi.host.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

P = ParamSpec("P")
T = TypeVar("T")

#: A device that hangs holds one thread; with this many, others still get through.
THREADS = 16

# Not asyncio's default pool: that one also resolves names, and stuck I/O in it would stop even those.
_short = Threads(THREADS, "katacsi-host")
# Tools may run for minutes, so they do not share the threads of the short kernel calls; nor does a whole
# coroutine, which may run one.
_long = Threads(THREADS, "katacsi-work")

#: Of each thread: whether it runs a whole coroutine just now.
_here = threading.local()


def stay_beside_loop() -> None:
    """Keep the host's threads on the processor of the running event loop from now on.

    The threads of `asyncio.to_thread`, which backends of others may use for anything, run where they like.
    """
    processor.follow_this_thread()
    default = ThreadPoolExecutor(thread_name_prefix="katacsi-default", initializer=processor.go_anywhere)
    asyncio.get_running_loop().set_default_executor(default)


async def off_loop(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run one compound step in a host thread and give its result; in such a thread already, run it in place.

    A caller that is cancelled leaves at once; a step that began runs to its end, one that still waited for a
    thread is dropped. Context variables (the log context) are those of the caller.
    """
    if getattr(_here, "whole", False):
        return fn(*args, **kwargs)
    return await _hop(_short, fn, *args, **kwargs)


async def run_tool(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Do as `off_loop`, in the threads of what may take long."""
    if getattr(_here, "whole", False):
        return fn(*args, **kwargs)
    return await _hop(_long, fn, *args, **kwargs)


async def in_one_thread(steps: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in one host thread, from its start to its end or to its first `on_loop`.

    It may wait for nothing but `off_loop`, `command.run` and coroutines of which the same is true. What needs
    the event loop (a lock or a timeout of asyncio's, a connection) is preceded by `on_loop`. Other calls run
    meanwhile: what it shares with them has to be safe among threads, or held by a lock such as a volume's.
    """
    if getattr(_here, "whole", False):
        return await steps
    ended = await _hop(_long, _advanced, steps)
    if ended is not None:
        return ended[0]
    return await _rest_of(steps)


@types.coroutine
def on_loop() -> Generator[None, None, None]:
    """Have what follows run on the event loop, where an `in_one_thread` around it runs it in a thread."""
    if getattr(_here, "whole", False):
        yield


async def _hop(threads: Threads, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()
    step = functools.partial(contextvars.copy_context().run, fn, *args, **kwargs)
    # Not `run_in_executor`: of its two futures one tells the other, a turn of the loop later.
    threads.run(functools.partial(_beside_loop, processor.of_loop(), step, outcome))
    return await outcome


def _beside_loop(place: int | None, step: Callable[[], T], outcome: asyncio.Future[T]) -> None:
    """Run a step in this thread, and tell the event loop how it ended, if its caller has not left."""
    if outcome.cancelled():
        return
    processor.stay_at(place)
    try:
        result = step()
    except BaseException as error:  # noqa: BLE001  # every kind: who waits would wait for ever
        # A coroutine must not raise this one; asyncio would not even store it.
        told = RuntimeError("a step raised StopIteration") if isinstance(error, StopIteration) else error
        tell = functools.partial(_unless_done, outcome, outcome.set_exception, told)
    else:
        tell = functools.partial(_unless_done, outcome, outcome.set_result, result)
    with contextlib.suppress(RuntimeError):  # the loop is closed
        outcome.get_loop().call_soon_threadsafe(tell)


def _unless_done(outcome: asyncio.Future[Any], settle: Callable[[Any], None], value: object) -> None:
    if not outcome.done():  # its caller may have left
        settle(value)


def _advanced(steps: Coroutine[Any, Any, T]) -> tuple[T] | None:
    """Run a coroutine in this thread; give its result, or None where it goes on on the event loop."""
    _here.whole = True
    try:
        wanted = steps.send(None)
    except StopIteration as end:
        return (end.value,)
    finally:
        _here.whole = False
    if wanted is not None:
        steps.close()
        raise RuntimeError(f"{steps!r} waits for {wanted!r} in a thread; it has to call on_loop() before")
    return None


@types.coroutine
def _rest_of(steps: Coroutine[Any, Any, T]) -> Generator[Any, None, T]:
    # A plain `await` refuses a coroutine that has begun; delegating to it does not.
    result: T = yield from steps
    return result
