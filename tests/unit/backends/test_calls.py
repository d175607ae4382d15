"""What a backend may ask of the call that it works for, and how it learns that the process is to end."""

from __future__ import annotations

import asyncio
import time

import pytest

from katacsi.backends.api import BackendCall, StopSignal, begin_call, present_call
from katacsi.errors import OperationPending, StillWorking
from katacsi.host.offloop import off_loop


@pytest.mark.asyncio
async def test_a_call_is_that_of_its_own_task():
    """Secrets reach the steps of a call, and no other call at the same time."""

    async def asked(number: int) -> str:
        begin_call(BackendCall({"password": str(number)}))
        await asyncio.sleep(0)
        return await off_loop(lambda: present_call().secrets["password"])

    assert await asyncio.gather(*map(asked, range(4))) == ["0", "1", "2", "3"]
    assert not present_call().secrets


def test_secrets_are_not_shown():
    """What is printed or logged of a call by mistake holds no secret."""
    assert "hunter2" not in repr(BackendCall({"password": "hunter2"}))


def test_the_time_that_is_left_ends_at_nothing():
    """A caller that has given up waits 0 s, not fewer; one that says nothing waits as long as it takes."""
    assert BackendCall(deadline=time.monotonic() - 5).remaining_s() == 0.0
    assert BackendCall(deadline=time.monotonic() + 100).remaining_s() == pytest.approx(100, abs=10)
    assert BackendCall().remaining_s() is None


@pytest.mark.asyncio
async def test_the_end_is_told_to_coroutines_and_threads():
    """Whoever waits for the end is woken, and long work is left with an error that says to come again."""
    stopping = StopSignal()
    stopping.check("volume x: wiping")
    waiting = [
        asyncio.create_task(stopping.wait()),
        asyncio.create_task(asyncio.to_thread(stopping.sleep, 60)),
    ]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in waiting)
    stopping.set()
    assert await asyncio.wait_for(asyncio.gather(*waiting), 10) == [None, True]
    await asyncio.wait_for(stopping.wait(), 10)
    with pytest.raises(StillWorking, match="volume x: wiping: stopped, because katacsi ends") as left:
        stopping.check("volume x: wiping")
    assert isinstance(left.value, OperationPending)
