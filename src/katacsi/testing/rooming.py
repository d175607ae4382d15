"""Conformance: the room that a pool says it has is there, and comes back when a volume goes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from katacsi.backends.api import Overcommitting, Reserving
from katacsi.errors import OutOfSpace, SizeOutOfRange
from katacsi.testing import blockio
from katacsi.testing.kit import ConformanceKit

if TYPE_CHECKING:
    from katacsi.backends.api import Volume
    from katacsi.testing.pools import PoolUnderTest

#: So many volumes use up any pool that is made for tests.
_MOST_VOLUMES = 64


@pytest.mark.asyncio
class RoomTests(ConformanceKit):
    """capacity, and what create and delete make of it."""

    async def test_a_volume_takes_its_room(self, pool: PoolUnderTest) -> None:
        """What a volume has that was written full is not offered to another."""
        before = (await pool.backend.capacity(self.parameters)).available_bytes
        await _full_volume(pool)
        during = (await pool.backend.capacity(self.parameters)).available_bytes
        assert during <= before - self.volume_size + self.lost_capacity, (
            f"{before} bytes were available, and with a volume of {self.volume_size} it is {during}: pods "
            "are placed where nothing fits"
        )

    async def test_all_room_that_is_offered_can_be_used(self, pool: PoolUnderTest) -> None:
        """As much as is available, and no more, becomes volumes, each of the largest size that is left."""
        if isinstance(pool.backend, Overcommitting):
            pytest.skip("the pool promises more than it has: what is offered may be given twice")
        offered = (await pool.backend.capacity(self.parameters)).available_bytes
        made = 0
        for number in range(_MOST_VOLUMES):
            largest = (await pool.backend.capacity(self.parameters)).maximum_volume_bytes
            if largest < self.volume_size:
                break
            made += (await pool.create(f"pvc-{number}", required=largest)).size_bytes
        assert abs(made - offered) <= self.volume_size, (
            f"{offered} bytes were offered, and {made} became volumes"
        )

    async def test_deleting_frees_the_bytes(self, pool: PoolUnderTest) -> None:
        """A volume that was written full gives all of it back."""
        before = await pool.backend.capacity(self.parameters)
        volume = await _full_volume(pool)
        await pool.delete(volume.id)
        wanted = before.available_bytes - self.lost_capacity
        deadline = time.monotonic() + self.patience_s
        while (after := await pool.backend.capacity(self.parameters)).available_bytes < wanted:
            assert time.monotonic() < deadline, f"{after} after {before}"
            await asyncio.sleep(0.05)

    async def test_the_room_of_a_volume_is_reserved_once(self, pool: PoolUnderTest) -> None:
        """A backend that says whose room it has taken says so from the volume's making to its removal."""
        if not isinstance(pool.backend, Reserving):
            pytest.skip("no such feature: Reserving")
        assert not await pool.backend.reserved("a")
        volume = await pool.create("a")
        assert await pool.backend.reserved("a")
        assert not await pool.backend.reserved("b")
        await pool.delete(volume.id)
        assert not await pool.backend.reserved("a")

    async def test_more_than_there_is_is_refused(self, pool: PoolUnderTest) -> None:
        """What the pool cannot give is refused before anything is made."""
        capacity = await pool.backend.capacity(self.parameters)
        assert capacity.minimum_volume_bytes <= capacity.maximum_volume_bytes <= capacity.available_bytes
        for name, size in (("b", capacity.maximum_volume_bytes * 2), ("c", 1 << 60)):
            with pytest.raises((OutOfSpace, SizeOutOfRange)):
                await pool.create(name, required=size)
            assert await pool.backend.find(name) is None
        after = await pool.backend.capacity(self.parameters)
        assert after.available_bytes >= capacity.available_bytes - self.lost_capacity

    async def test_the_largest_volume_that_is_offered_is_made(self, pool: PoolUnderTest) -> None:
        """A volume of the maximum that capacity names can be made: pods are placed by that number."""
        capacity = await pool.backend.capacity(self.parameters)
        try:
            volume = await pool.create("a", required=capacity.maximum_volume_bytes)
        except (OutOfSpace, SizeOutOfRange) as error:
            pytest.fail(f"the pool offers a volume of {capacity.maximum_volume_bytes} bytes: {error}")
        assert volume.size_bytes >= capacity.maximum_volume_bytes
        assert (await pool.attach(volume.id)).size_bytes == volume.size_bytes
        await pool.delete(volume.id)


async def _full_volume(pool: PoolUnderTest) -> Volume:
    volume = await pool.create("a")
    device = await pool.attach(volume.id)
    await asyncio.to_thread(blockio.fill, device, b"\xa5")
    return volume
