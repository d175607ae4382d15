"""What a call changes runs to its end."""

import asyncio

import pytest

from katacsi.rpc.changes import Changes


async def test_the_result_is_the_change_s():
    """Shielding changes nothing for a caller that stays."""

    async def change():
        return 7

    async def failing():
        raise ValueError("inside")

    changes = Changes()
    assert await changes.run(change()) == 7
    with pytest.raises(ValueError, match="inside"):
        await changes.run(failing())
    assert len(changes) == 0


async def test_a_cancelled_caller_does_not_cut_a_change():
    """However often the caller is cancelled, the change comes to its end."""
    changes = Changes()
    go, done = asyncio.Event(), []

    async def change():
        await go.wait()
        done.append("done")

    callers = [asyncio.create_task(changes.run(change())) for _ in range(2)]
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    for caller in callers:
        with pytest.raises(asyncio.CancelledError):
            await caller
    assert len(changes) == 2
    assert done == []
    go.set()
    await changes.drained()
    assert done == ["done", "done"]
    assert len(changes) == 0


async def test_an_error_that_nobody_awaits_is_no_noise():
    """A change that fails after its caller left neither warns nor stops the drain."""
    changes = Changes()
    go = asyncio.Event()

    async def change():
        await go.wait()
        raise ValueError("nobody hears this")

    caller = asyncio.create_task(changes.run(change()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    heard = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))
    go.set()
    await changes.drained()
    del caller
    await asyncio.sleep(0)
    assert heard == []


async def test_drained_waits_for_what_starts_meanwhile():
    """A change that begins while another ends is waited for, too."""
    changes = Changes()
    done = []

    async def second():
        await asyncio.sleep(0.01)
        done.append("second")

    async def first():
        await asyncio.sleep(0.01)
        later.append(asyncio.create_task(changes.run(second())))
        await asyncio.sleep(0)
        done.append("first")

    later = []
    caller = asyncio.create_task(changes.run(first()))
    await asyncio.sleep(0)
    await changes.drained()
    assert done == ["first", "second"]
    await asyncio.gather(caller, *later)


async def test_nothing_to_drain_is_drained():
    """An idle driver stops at once."""
    await asyncio.wait_for(Changes().drained(), 1)
