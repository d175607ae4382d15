"""Conformance: a call that was killed at any step is finished or undone by a start and a repeated call."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from katacsi.backends.api import Facts, Growing, Snapshotting
from katacsi.testing import blockio
from katacsi.testing.crashes import at_every_step
from katacsi.testing.facts import STEPS
from katacsi.testing.kit import ConformanceKit
from katacsi.testing.pools import PoolUnderTest

if TYPE_CHECKING:
    from collections.abc import Callable

    from katacsi.backends.api import Backend, PoolContext, Volume
    from katacsi.testing.crashes import Action

#: What the tests call the volume of a call that is killed.
NAME = "killed"


@pytest.mark.asyncio
class KillingTests(ConformanceKit):
    """create, delete, compare_and_set_facts, attach, detach, expand, create_snapshot: killed at each step."""

    async def test_a_killed_create_leaves_a_whole_volume_or_none(
        self, make_backend: Callable[[PoolContext], Backend]
    ) -> None:
        """What there is after a create that was killed is a whole, blank volume, before it is repeated."""

        async def check(pool: PoolUnderTest) -> None:
            found = await pool.backend.find(NAME)
            assert (await pool.backend.list("", 0)).items == ((found,) if found else ())
            if found is not None:
                assert found.size_bytes >= self.volume_size
                assert found.facts == Facts()
                assert await pool.first_data(found.id) is None, "a volume that can be seen was not blank yet"
            await pool.clear()

        await _killed(self, make_backend, act=lambda pool: pool.create(NAME), check=check)

    async def test_a_killed_create_is_finished_by_a_repeated_one(
        self, make_backend: Callable[[PoolContext], Backend]
    ) -> None:
        """Create again gives one whole volume, and deleting it gives all room back."""
        room = await _room(make_backend, self)

        async def check(pool: PoolUnderTest) -> None:
            volume = await pool.create(NAME)
            assert await pool.create(NAME) == volume
            assert (await pool.backend.list("", 0)).items == (volume,)
            assert await pool.first_data(volume.id) is None
            await pool.delete(volume.id)
            await _has_again(pool, room, self)

        await _killed(self, make_backend, act=lambda pool: pool.create(NAME), check=check)

    async def test_a_killed_create_without_a_repeated_one_costs_no_room(
        self, make_backend: Callable[[PoolContext], Backend]
    ) -> None:
        """Delete after a create that was killed, as of a provisioner that gave up, leaves nothing in use."""
        room = await _room(make_backend, self)

        async def check(pool: PoolUnderTest) -> None:
            found = await pool.backend.find(NAME)
            if found is not None:
                await pool.delete(found.id)
            await _has_again(pool, room, self)

        await _killed(self, make_backend, act=lambda pool: pool.create(NAME), check=check)

    async def test_a_killed_delete_is_finished_by_the_next_start(
        self, make_backend: Callable[[PoolContext], Backend]
    ) -> None:
        """The volume is whole, or gone with all its room; a new one in its place is blank."""
        room = await _room(make_backend, self)

        async def prepare(pool: PoolUnderTest) -> None:
            volume = await pool.create(NAME)
            device = await pool.attach(volume.id)
            await asyncio.to_thread(blockio.write, device, b"tenant", volume.size_bytes - 512)
            await pool.detach(volume.id)

        async def delete(pool: PoolUnderTest) -> None:
            found = await pool.backend.find(NAME)
            assert found is not None
            await pool.backend.delete(found.id)

        async def check(pool: PoolUnderTest) -> None:
            found = await pool.backend.find(NAME)
            if found is not None:
                await pool.delete(found.id)
                assert await pool.backend.find(NAME) is None
            await _has_again(pool, room, self)
            volume = await pool.create(NAME)
            assert await pool.first_data(volume.id) is None, "bytes of a deleted volume show in a new one"
            await pool.clear()

        await _killed(self, make_backend, prepare=prepare, act=delete, check=check)

    async def test_killed_facts_are_the_old_or_the_new_ones(
        self, make_backend: Callable[[PoolContext], Backend]
    ) -> None:
        """Facts whose change was killed are readable, either as they were or as they should be."""

        async def prepare(pool: PoolUnderTest) -> None:
            volume = await pool.create(NAME)
            await pool.backend.compare_and_set_facts(volume.id, volume.facts, STEPS[0])

        async def change(pool: PoolUnderTest) -> None:
            volume = await _there(pool)
            await pool.backend.compare_and_set_facts(volume.id, STEPS[0], STEPS[1])

        async def check(pool: PoolUnderTest) -> None:
            volume = await _there(pool)
            assert volume.facts in {STEPS[0], STEPS[1]}
            await pool.backend.compare_and_set_facts(volume.id, volume.facts, STEPS[1])
            assert (await _there(pool)).facts == STEPS[1]
            await pool.clear()

        await _killed(self, make_backend, prepare=prepare, act=change, check=check)

    async def test_a_killed_attach_or_detach_is_repeated(
        self, make_backend: Callable[[PoolContext], Backend]
    ) -> None:
        """A volume whose attachment or detachment was killed can be attached again, with its bytes."""

        async def prepare(pool: PoolUnderTest) -> None:
            volume = await pool.create(NAME)
            await pool.write(volume.id, b"kept")

        async def attach_and_detach(pool: PoolUnderTest) -> None:
            volume = await _there(pool)
            await pool.attach(volume.id)
            await pool.detach(volume.id)

        async def check(pool: PoolUnderTest) -> None:
            volume = await _there(pool)
            device = await pool.attach(volume.id)
            assert await pool.attached(volume.id) == device
            assert await asyncio.to_thread(blockio.read, device, 4) == b"kept"
            await pool.detach(volume.id)
            assert await pool.attached(volume.id) is None
            await pool.clear()

        await _killed(self, make_backend, prepare=prepare, act=attach_and_detach, check=check)

    async def test_a_killed_growth_is_repeated(self, make_backend: Callable[[PoolContext], Backend]) -> None:
        """A volume whose growth was killed has its bytes, and grows when asked again."""

        async def prepare(pool: PoolUnderTest) -> None:
            if not isinstance(pool.backend, Growing):
                pytest.skip("the pool has no such feature: expand")
            volume = await pool.create(NAME, required=self.volume_size // 2)
            await pool.write(volume.id, b"kept")

        async def grow(pool: PoolUnderTest) -> None:
            await pool.growing.expand((await _there(pool)).id, self.volume_size)

        async def check(pool: PoolUnderTest) -> None:
            volume = await _there(pool)
            size = await pool.growing.expand(volume.id, self.volume_size)
            assert (await _there(pool)).size_bytes == size >= self.volume_size
            assert await pool.read(volume.id, 4) == b"kept"
            await pool.clear()

        await _killed(self, make_backend, prepare=prepare, act=grow, check=check)

    async def test_a_killed_snapshot_is_repeated(
        self, make_backend: Callable[[PoolContext], Backend]
    ) -> None:
        """A snapshot whose making was killed is whole, or absent, and is made when asked again."""

        async def prepare(pool: PoolUnderTest) -> None:
            if not isinstance(pool.backend, Snapshotting):
                pytest.skip("the pool has no such feature: snapshots")
            volume = await pool.create(NAME)
            await pool.write(volume.id, b"kept")

        async def cut(pool: PoolUnderTest) -> None:
            await pool.snapshotting.create_snapshot("cut", (await _there(pool)).id)

        async def check(pool: PoolUnderTest) -> None:
            volume = await _there(pool)
            found = await pool.snapshotting.find_snapshot("cut")
            snapshot = await pool.snapshotting.create_snapshot("cut", volume.id)
            assert found is None or (found.id, found.created_at) == (snapshot.id, snapshot.created_at)
            assert await pool.read(volume.id, 4) == b"kept"
            await pool.clear()

        await _killed(self, make_backend, prepare=prepare, act=cut, check=check)


async def _killed(
    kit: ConformanceKit,
    make_backend: Callable[[PoolContext], Backend],
    *,
    act: Action,
    check: Action,
    prepare: Action | None = None,
) -> None:
    await at_every_step(
        lambda: PoolUnderTest(make_backend, kit),
        prepare=prepare,
        act=act,
        check=check,
        every=kit.kill_every,
    )


async def _there(pool: PoolUnderTest) -> Volume:
    volume = await pool.backend.find(NAME)
    assert volume is not None, "a volume is gone that nobody deleted"
    return volume


async def _room(make_backend: Callable[[PoolContext], Backend], kit: ConformanceKit) -> int:
    pool = PoolUnderTest(make_backend, kit)
    await pool.start()
    try:
        return (await pool.backend.capacity(kit.parameters)).available_bytes
    finally:
        await pool.backend.close()


async def _has_again(pool: PoolUnderTest, room: int, kit: ConformanceKit) -> None:
    deadline = time.monotonic() + kit.patience_s
    while True:
        present = (await pool.backend.capacity(kit.parameters)).available_bytes
        if present >= room - kit.lost_capacity:
            return
        assert time.monotonic() < deadline, f"{present} bytes are free of {room}: the rest is lost"
        await asyncio.sleep(0.05)
