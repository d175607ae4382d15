"""Conformance of storage in the network: one node at a time has a volume, and the storage sees to it.

Two pools in this process stand for two nodes. That a node is fenced off is asked of the storage, never of the
backend's good manners: a node that is believed dead may live on, with a guest that still writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from katacsi.errors import (
    AlreadyExists,
    KatacsiError,
    NotFound,
    OperationPending,
    PoolUnavailable,
    VolumeInUse,
)
from katacsi.testing import blockio
from katacsi.testing.crashes import at_every_step
from katacsi.testing.facts import STEPS
from katacsi.testing.kit import ConformanceKit
from katacsi.testing.processes import in_processes
from katacsi.testing.refusing import refused

if TYPE_CHECKING:
    from katacsi.testing.hooks import Breaking
    from katacsi.testing.pools import PoolUnderTest

_PROCESSES = 3
_ROUNDS = 5


@pytest.mark.asyncio
class FencingTests(ConformanceKit):
    """publish, unpublish, and what attach makes of them."""

    async def test_a_volume_is_published_to_one_node(self, pool: PoolUnderTest) -> None:
        """While a node has a volume, no other gets it, and the one that has it keeps it."""
        pool.need_network()
        volume = await pool.create("a")
        async with pool.on(self.other_node_id) as other:
            await pool.publish(volume.id)
            both = "a volume was published to two nodes: both would write to one filesystem"
            with refused(both, by=VolumeInUse):
                await other.publish(volume.id)
            device = await pool.attach(volume.id)
            await asyncio.to_thread(blockio.write, device, b"mine")
            await pool.detach(volume.id)
            await other.publish(volume.id)
            assert await other.read(volume.id, 4) == b"mine"

    async def test_a_repeated_publish_gives_the_same(self, pool: PoolUnderTest) -> None:
        """Publishing again gives what `attach` was given before, also by another process."""
        pool.need_network()
        volume = await pool.create("a")
        first = await pool.publish(volume.id)
        assert await pool.publish(volume.id) == first
        await pool.restart()
        assert await pool.publish(volume.id) == first

    async def test_a_repeated_publish_with_other_access_is_refused(self, pool: PoolUnderTest) -> None:
        """A volume that a node may only read does not become writable there unnoticed, nor the other way."""
        pool.need_network()
        volume = await pool.create("a")
        for read_only in (False, True):
            await pool.publish(volume.id, read_only=read_only)
            with refused("a publish was repeated with another read_only, and answered OK", by=AlreadyExists):
                await pool.publish(volume.id, read_only=not read_only)
            await pool.unpublish(volume.id)

    async def test_an_unknown_node_is_refused(self, pool: PoolUnderTest) -> None:
        """A node that the storage cannot tell from others is let to nothing."""
        if not self.unknown_node_id:
            pytest.skip("no unknown_node_id is given: the storage takes any node")
        pool.need_network()
        volume = await pool.create("a")
        with refused("a volume was published to a node that the storage does not know", by=NotFound):
            await pool.publish(volume.id, self.unknown_node_id)

    async def test_a_fenced_node_does_not_attach(self, pool: PoolUnderTest) -> None:
        """What a publish gave is worth nothing once it was taken back."""
        pool.need_network()
        volume = await pool.create("a")
        context = await pool.publish(volume.id)
        await pool.unpublish(volume.id)
        with refused("a node attached a volume from which it had been fenced off"):
            await pool.attach_with(volume.id, context)

    async def test_what_a_fenced_node_writes_reaches_no_volume(self, pool: PoolUnderTest) -> None:
        """A guest that lives on, on a node that was fenced off, writes to nothing that the next node sees."""
        pool.need_network()
        volume = await pool.create("a")
        device = await pool.attach(volume.id)
        await asyncio.to_thread(blockio.write, device, b"before")
        with device.path.open("r+b", buffering=0) as guest:
            await pool.unpublish(volume.id)
            async with pool.on(self.other_node_id) as other:
                theirs = await other.attach(volume.id)
                with contextlib.suppress(OSError):  # refused is as good as lost
                    os.pwrite(guest.fileno(), b"after!", 0)
                    os.fsync(guest.fileno())
                found = await asyncio.to_thread(blockio.read, theirs, 6)
                assert found == b"before", (
                    f"the next node reads {found!r}: a guest on the node that was fenced off still writes to "
                    "the volume"
                )
                await other.detach(volume.id)
        await pool.detach(volume.id)

    @pytest.mark.parametrize("everybody", [False, True], ids=["that-node", "every-node"])
    async def test_unpublish_frees_the_volume(self, pool: PoolUnderTest, *, everybody: bool) -> None:
        """After unpublish of the node, or of every node, the next one gets the volume, with its bytes."""
        pool.need_network()
        volume = await pool.create("a")
        await pool.write(volume.id, b"kept")
        stale = await pool.publish(volume.id)
        await pool.unpublish(volume.id, "" if everybody else None)
        async with pool.on(self.other_node_id) as other:
            await other.publish(volume.id)
            with refused("a node attached what is another's by now"):
                await pool.attach_with(volume.id, stale)
            assert await other.read(volume.id, 4) == b"kept"

    async def test_unpublish_of_another_node_changes_nothing(self, pool: PoolUnderTest) -> None:
        """A late unpublish of a node that has nothing leaves the one that has the volume alone."""
        pool.need_network()
        volume = await pool.create("a")
        await pool.publish(volume.id)
        await pool.unpublish(volume.id, self.other_node_id)
        async with pool.on(self.other_node_id) as other:
            with refused("unpublish of one node took the volume from another", by=VolumeInUse):
                await other.publish(volume.id)
        device = await pool.attach(volume.id)
        await asyncio.to_thread(blockio.write, device, b"mine")

    async def test_unpublish_is_repeated(self, pool: PoolUnderTest) -> None:
        """Unpublish of what is not published, or not there any more, is success."""
        pool.need_network()
        volume = await pool.create("a")
        for node in (None, "", self.other_node_id):
            await pool.unpublish(volume.id, node)
        await pool.delete(volume.id)
        await pool.unpublish(volume.id)

    async def test_a_published_volume_is_not_deleted(self, pool: PoolUnderTest) -> None:
        """A volume to which a node has access is not deleted under it, whether it attached it or not."""
        pool.need_network()
        volume = await pool.create("a")
        await pool.publish(volume.id)
        with refused("a volume was deleted to which a node has access", by=VolumeInUse):
            await pool.backend.delete(volume.id)
        await pool.unpublish(volume.id)

    async def test_publishing_without_the_storage_is_an_error(
        self, pool: PoolUnderTest, break_storage: Breaking
    ) -> None:
        """While nobody can ask the storage, nobody is let in, and nobody is said to be fenced off."""
        pool.need_network()
        volume = await pool.create("a")
        await pool.publish(volume.id)
        with break_storage():
            with refused("publish answered OK, and the storage was not asked", by=PoolUnavailable):
                await pool.publish(volume.id)
            unasked = "a node was said to be fenced off, and the storage was not asked"
            with refused(unasked, by=PoolUnavailable):
                await pool.unpublish(volume.id)
        await pool.unpublish(volume.id)

    async def test_a_killed_publish_or_unpublish_is_repeated(self, pool: PoolUnderTest) -> None:
        """A publish or unpublish that was killed at any step can be repeated, and the volume comes free."""
        pool.need_network()
        volume = await pool.create("a")

        async def publish_and_unpublish(mine: PoolUnderTest) -> None:
            await mine.publish(volume.id)
            await mine.unpublish(volume.id)

        async def check(mine: PoolUnderTest) -> None:
            context = await mine.publish(volume.id)
            await mine.attach_with(volume.id, context)
            await mine.backend.detach(volume.id, mine.attachment(volume.id))
            await mine.unpublish(volume.id)
            async with mine.on(self.other_node_id) as other:
                await other.publish(volume.id)
                await other.unpublish(volume.id)

        await at_every_step(pool.again, act=publish_and_unpublish, check=check, every=self.kill_every)

    async def test_facts_are_compared_across_processes(self, pool: PoolUnderTest) -> None:
        """Of several nodes that change a volume's facts at the same time, one does."""
        pool.need_network()
        volume = await pool.create("a")

        async def change(mine: PoolUnderTest) -> None:
            with contextlib.suppress(OperationPending):
                await mine.backend.compare_and_set_facts(volume.id, before, after)
                return
            raise Lost

        before, after = volume.facts, STEPS[0]
        for _ in range(_ROUNDS):
            won = await in_processes(_PROCESSES, pool.again, change, expected=Lost)
            assert won == 1, (
                f"{won} of {_PROCESSES} processes changed the same facts: one overwrote what another had "
                "just recorded"
            )
            before, after = after, before


class Lost(KatacsiError):
    """Another process was faster."""

    def __init__(self) -> None:
        super().__init__("another process was faster")
