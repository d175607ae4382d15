"""Taking back what a failed call has done."""

import asyncio

import pytest

from katacsi.errors import HostError
from katacsi.volumes.undo import Undo


def noting(done, name, error=None):
    """Make a step that notes its name, and may fail."""

    def step():
        done.append(name)
        if error:
            raise error

    return step


async def failing(*steps):
    """Do these steps, and fail."""
    async with Undo() as undo:
        for number, step in enumerate(steps):
            undo.add(f"step {number}", step)
        raise HostError("the cause")


async def test_success_takes_nothing_back():
    """What succeeded stays."""
    done = []
    async with Undo() as undo:
        undo.add("first", noting(done, "first"))
    assert done == []


async def test_steps_are_taken_back_in_reverse():
    """The last step is undone first, since it may stand on the former ones."""
    done = []
    with pytest.raises(HostError, match="the cause"):
        await failing(noting(done, "first"), noting(done, "second"))
    assert done == ["second", "first"]


async def test_a_step_that_resists_does_not_hide_the_cause():
    """The caller sees what went wrong first, and the other steps are still taken back."""
    done = []
    with pytest.raises(HostError, match="the cause"):
        await failing(noting(done, "first"), noting(done, "second", HostError("busy")))
    assert done == ["second", "first"]


async def test_a_cancelled_call_is_taken_back_too():
    """An end from outside is no success."""
    done = []

    async def call():
        async with Undo() as undo:
            undo.add("first", noting(done, "first"))
            await asyncio.sleep(60)

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["first"]
