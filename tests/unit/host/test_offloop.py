"""The threads for blocking calls."""

import asyncio
import contextvars
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from katacsi.errors import HostError
from katacsi.host import offloop
from katacsi.host.offloop import off_loop

context = contextvars.ContextVar("context", default="unset")


async def test_a_step_runs_in_a_host_thread_with_its_arguments():
    """Result, arguments and thread name are as promised."""

    def step(number, *, more):
        return number + more, threading.current_thread().name

    total, name = await off_loop(step, 1, more=2)
    assert total == 3
    assert name.startswith("katacsi-host")


async def test_an_error_arrives_as_it_was_raised():
    """The class of an error is the caller's only way to tell what happened."""

    def fail():
        raise HostError("the disk is gone")

    with pytest.raises(HostError, match="the disk is gone"):
        await off_loop(fail)


async def test_a_step_whose_thread_was_refused_never_runs(monkeypatch):
    """The pool queues a step before it starts a thread for it; the next step finds both in the queue."""
    ran, pool = [], ThreadPoolExecutor(1)

    def refuse(self):
        raise RuntimeError("can't start new thread")

    with pool:
        monkeypatch.setattr(offloop, "_threads", pool)
        with monkeypatch.context() as refused:
            refused.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="new thread"):
                await off_loop(ran.append, "refused")
        await off_loop(ran.append, "next")
    assert ran == ["next"]


async def test_the_log_context_goes_along():
    """A step sees the context variables of the call that it works for, and changes none of them."""
    context.set("volume 1")

    def step():
        seen = context.get()
        context.set("changed")
        return seen

    assert await off_loop(step) == "volume 1"
    assert context.get() == "volume 1"


async def test_the_loop_goes_on_while_a_step_blocks():
    """Other work on the event loop is not held up by a call that hangs."""
    blocked = asyncio.create_task(off_loop(time.sleep, 0.5))
    started = time.monotonic()
    assert await off_loop(int) == 0
    assert time.monotonic() - started < 0.4
    await blocked


async def test_a_step_that_began_runs_to_its_end(caplog):
    """Cancelling the caller frees the caller; the step is not left half done, and its end is no surprise."""
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def step():
        began.set()
        may_end.wait(10)
        ended.set()

    task = asyncio.create_task(off_loop(step))
    assert await asyncio.to_thread(began.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not ended.is_set()
    may_end.set()
    assert await asyncio.to_thread(ended.wait, 10)
    assert await off_loop(int) == 0  # by now its end has been told, too
    assert not caplog.records


async def test_hanging_devices_leave_threads_for_others():
    """With all threads but one stuck, a step still gets through."""
    may_end = threading.Event()
    stuck = [asyncio.create_task(off_loop(may_end.wait, 10)) for _ in range(offloop.THREADS - 1)]
    async with asyncio.timeout(5):
        assert await off_loop(int) == 0
    may_end.set()
    assert all(await asyncio.gather(*stuck))


# -- how a step's end reaches its caller ----------------------------------------------------------------


async def test_a_step_that_has_no_thread_yet_is_dropped_with_its_caller():
    """Nobody waits for it any more, and it has changed nothing."""
    may_end, ran = threading.Event(), threading.Event()
    stuck = [asyncio.create_task(off_loop(may_end.wait, 10)) for _ in range(offloop.THREADS)]
    await asyncio.sleep(0)
    waiting = asyncio.create_task(off_loop(ran.set))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    may_end.set()
    assert all(await asyncio.gather(*stuck))
    assert await off_loop(int) == 0
    assert not ran.is_set()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_an_end_of_any_kind_is_told(error):
    """What is no ordinary error ends the waiting, too."""

    def step():
        raise error("x")

    with pytest.raises(error):
        await off_loop(step)


async def test_a_step_that_stops_an_iteration_is_an_error():
    """StopIteration cannot pass a coroutine; its caller is told all the same."""
    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await off_loop(next, iter(()))


def test_a_step_may_outlive_its_loop(caplog):
    """Its end then is nobody's; the thread is there for the next loop."""
    began, may_end = threading.Event(), threading.Event()

    def step():
        began.set()
        may_end.wait(10)

    async def leave():
        task = asyncio.create_task(off_loop(step))
        await asyncio.to_thread(began.wait, 10)
        task.cancel()

    asyncio.run(leave())
    may_end.set()
    assert asyncio.run(off_loop(int)) == 0
    assert not caplog.records
