"""Room for so many at once."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from katacsi.volumes.room import Room


async def settled():
    """Let all run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


class Guest:
    """Somebody who stays until told to go."""

    def __init__(self, room):
        self.inside = False
        self._room = room
        self._go = asyncio.Event()
        self.task = asyncio.create_task(self._stay())

    async def _stay(self):
        async with self._room.in_turn():
            self.inside = True
            try:
                await self._go.wait()
            finally:
                self.inside = False

    async def leave(self):
        """Have it end."""
        self._go.set()
        await self.task


async def arrived(room, number):
    """Have so many ask for a place, one after another."""
    guests = []
    for _ in range(number):
        guests.append(Guest(room))
        await settled()
    return guests


async def test_no_more_than_there_are_places():
    """The rest waits, and is let in in turn."""
    guests = await arrived(Room(2), 4)
    assert [guest.inside for guest in guests] == [True, True, False, False]
    await guests[1].leave()
    await settled()
    assert [guest.inside for guest in guests] == [True, False, True, False]
    await guests[0].leave()
    await settled()
    assert guests[3].inside
    await guests[2].leave()
    await guests[3].leave()


async def test_a_thread_is_told_at_once():
    """It gets a free place, or is refused; its place goes to who waits."""
    room = Room(1)

    def ask():
        with room.at_once() as taken:
            return taken

    assert await asyncio.to_thread(ask)
    assert await asyncio.to_thread(ask)
    (guest,) = await arrived(room, 1)
    assert not await asyncio.to_thread(ask)
    await guest.leave()
    with room.at_once() as taken:
        assert taken
        (guest,) = await arrived(room, 1)
        assert not guest.inside
    await settled()
    assert guest.inside
    await guest.leave()


async def test_a_place_left_in_a_thread_goes_to_who_waits():
    """The event loop is woken for it."""
    room = Room(1)
    taken = contextlib.ExitStack()
    assert taken.enter_context(room.at_once())
    (guest,) = await arrived(room, 1)
    await asyncio.to_thread(taken.close)
    await asyncio.wait_for(guest.leave(), 5)


async def test_nobody_overtakes_who_is_about_to_enter():
    """A place that is on its way to somebody is not free meanwhile."""
    room = Room(1)
    first, second = await arrived(room, 2)
    with contextlib.ExitStack() as stack:
        await first.leave()
        assert not stack.enter_context(room.at_once()) or not second.inside
    await settled()
    assert second.inside
    await second.leave()


@pytest.mark.parametrize("when", ["while it waits", "as it is let in"])
async def test_who_is_cancelled_takes_no_place_along(when):
    """Whenever that is, the next one gets the place."""
    room = Room(1)
    taken = contextlib.ExitStack()
    assert taken.enter_context(room.at_once())
    first, second = await arrived(room, 2)
    if when == "as it is let in":
        taken.close()
        await asyncio.sleep(0)  # now its future has a result, and its task is about to run
    first.task.cancel()
    taken.close()
    with pytest.raises(asyncio.CancelledError):
        await first.task
    await settled()
    assert second.inside
    await second.leave()
    with room.at_once() as free:
        assert free


async def test_an_error_gives_the_place_back():
    """In both ways to enter."""
    room = Room(1)
    with pytest.raises(ValueError, match="x"):
        async with room.in_turn():
            raise ValueError("x")
    with pytest.raises(ValueError, match="x"), room.at_once():
        raise ValueError("x")
    with room.at_once() as free:
        assert free
