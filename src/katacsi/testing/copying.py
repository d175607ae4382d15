"""Conformance: snapshots and clones hold the bytes and the facts of their source."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from katacsi.backends.api import ContentSource, Facts, FormatState
from katacsi.errors import AlreadyExists, KatacsiError, NotFound, Precondition, SizeOutOfRange
from katacsi.testing import blockio
from katacsi.testing.kit import ConformanceKit

if TYPE_CHECKING:
    from katacsi.backends.api import Snapshot, Volume
    from katacsi.testing.pools import PoolUnderTest

UUID = "6b1f2a52-0e5c-4c8e-9a53-000000000002"

INHERITED = {
    "unformatted": Facts(),
    "formatting": Facts(FormatState.FORMATTING, "ext4", UUID),
    "formatted": Facts(FormatState.FORMATTED, "ext4", UUID),
    "guest-written": Facts(FormatState.FORMATTED, "xfs", UUID, guest_written=True),
    "raw-written": Facts(raw_written=True),
    "half-grown": Facts(FormatState.FORMATTED, "ext4", UUID, growing=1 << 40),
    "pending-growth": Facts(FormatState.FORMATTED, "ext4", UUID, guest_written=True, pending_size=1 << 40),
}

BOTH = pytest.mark.parametrize("feature", ["snapshots", "clones"])


async def source(pool: PoolUnderTest, feature: str, volume: Volume) -> ContentSource:
    """Give what a copy of a volume starts from: a snapshot of it, or itself."""
    pool.need(feature)
    if feature == "clones":
        return ContentSource(volume.id)
    return ContentSource((await ready_snapshot(pool, f"cut-of-{volume.csi_name}", volume)).id)


async def ready_snapshot(pool: PoolUnderTest, name: str, volume: Volume) -> Snapshot:
    """Cut a snapshot, and wait until its bytes are there."""
    snapshot = await pool.snapshotting.create_snapshot(name, volume.id)
    while not snapshot.ready:
        await asyncio.sleep(0.1)
        snapshot = await pool.snapshotting.create_snapshot(name, volume.id)
    return snapshot


@pytest.mark.asyncio
class CopyingTests(ConformanceKit):
    """Snapshots, restores and clones."""

    @BOTH
    async def test_a_copy_holds_the_bytes_of_its_source(self, pool: PoolUnderTest, feature: str) -> None:
        """A copy begins as its source was at the cut, and neither changes with the other afterwards."""
        original = await pool.create("a")
        end = original.size_bytes - 4
        await pool.write(original.id, b"head")
        await pool.write(original.id, b"tail", end)
        origin = await source(pool, feature, original)
        copy = await pool.create("b", source=origin)
        assert copy.source == origin
        await pool.write(original.id, b"new!")
        assert await pool.read(copy.id, 4) == b"head"
        assert await pool.read(copy.id, 4, end) == b"tail"
        assert await pool.is_blank(copy.id) is not True
        await pool.write(copy.id, b"mine")
        assert await pool.read(original.id, 4) == b"new!"
        await pool.restart()
        assert await pool.read(copy.id, 4) == b"mine"

    @BOTH
    async def test_what_was_written_is_in_the_copy(self, pool: PoolUnderTest, feature: str) -> None:
        """Bytes that were synced to a device that is still attached are in a copy of it."""
        pool.need(feature)
        original = await pool.create("a")
        device = await pool.attach(original.id)
        await asyncio.to_thread(blockio.write, device, b"synced")
        copy = await pool.create("b", source=await source(pool, feature, original))
        assert await pool.read(copy.id, 6) == b"synced"

    @BOTH
    @pytest.mark.parametrize("facts", INHERITED.values(), ids=INHERITED.keys())
    async def test_a_copy_inherits_facts(self, pool: PoolUnderTest, feature: str, facts: Facts) -> None:
        """A copy is formatted as its source was at the cut, and knows that its filesystem is a copy."""
        original = await pool.create("a")
        await pool.backend.compare_and_set_facts(original.id, original.facts, facts)
        origin = await source(pool, feature, original)
        copy = await pool.create("b", source=origin)
        assert copy.facts == facts.of_copy()
        assert copy.facts.inherited_uuid is (facts.format is not FormatState.UNFORMATTED)
        assert (await pool.existing(original.id)).facts == facts

    @BOTH
    async def test_a_copy_may_be_larger_and_not_smaller(self, pool: PoolUnderTest, feature: str) -> None:
        """A larger copy ends in zeros; a smaller one is out of range; without a wish it is as large."""
        original = await pool.create("a", required=self.volume_size // 2)
        await pool.write(original.id, b"tail", original.size_bytes - 4)
        origin = await source(pool, feature, original)
        larger = await pool.create("b", required=self.volume_size, source=origin)
        assert larger.size_bytes >= self.volume_size
        rest = larger.size_bytes - original.size_bytes
        assert await pool.read(larger.id, 4 + rest, original.size_bytes - 4) == b"tail" + bytes(rest)
        with pytest.raises(SizeOutOfRange):
            await pool.create("c", required=original.size_bytes // 2, source=origin)
        assert (await pool.create("d", required=0, source=origin)).size_bytes >= original.size_bytes

    @BOTH
    async def test_a_copy_is_made_once(self, pool: PoolUnderTest, feature: str) -> None:
        """A repeated request gives the copy; the name with another source, or with none, is refused."""
        original, other = await pool.create("a"), await pool.create("o")
        origin = await source(pool, feature, original)
        copy = await pool.create("b", source=origin)
        await pool.write(original.id, b"later")
        assert await pool.create("b", source=origin) == copy
        with pytest.raises(AlreadyExists):
            await pool.create("b")
        with pytest.raises(AlreadyExists):
            await pool.create("b", source=await source(pool, feature, other))
        with pytest.raises(AlreadyExists):
            await pool.create("a", source=origin)

    @BOTH
    async def test_an_absent_source_is_not_found(self, pool: PoolUnderTest, feature: str) -> None:
        """A copy of what is absent, or of another pool's, is refused; nothing is made."""
        original = await pool.create("a")
        origin = await source(pool, feature, original)
        with pytest.raises(NotFound):
            await pool.create("b", source=ContentSource(replace(origin.id, name="absent")))
        with pytest.raises(KatacsiError):
            await pool.create("b", source=ContentSource(replace(origin.id, pool_uid="ffffffff")))
        assert await pool.backend.find("b") is None

    @BOTH
    async def test_a_copy_outlives_its_source(self, pool: PoolUnderTest, feature: str) -> None:
        """Deleting the source leaves the copy whole, or is refused while there is one."""
        original = await pool.create("a")
        await pool.write(original.id, b"kept")
        origin = await source(pool, feature, original)
        copy = await pool.create("b", source=origin)
        try:
            await pool.delete(original.id)
        except Precondition:
            assert await pool.read(original.id, 4) == b"kept"
        else:
            assert await pool.backend.get(original.id) is None
        assert await pool.read(copy.id, 4) == b"kept"

    async def test_a_snapshot_is_one_moment(self, pool: PoolUnderTest) -> None:
        """A snapshot keeps size, facts and moment of its cut, however often it is asked for."""
        pool.need("snapshots")
        volume = await pool.create("a")
        facts = INHERITED["formatted"]
        await pool.backend.compare_and_set_facts(volume.id, volume.facts, facts)
        snapshot = await ready_snapshot(pool, "cut", volume)
        assert snapshot.csi_name == "cut"
        assert snapshot.source == volume.id
        assert snapshot.facts == facts
        assert snapshot.size_bytes == volume.size_bytes
        await pool.backend.compare_and_set_facts(volume.id, facts, facts.with_(guest_written=True))
        await pool.restart()
        assert await pool.snapshotting.create_snapshot("cut", volume.id) == snapshot
        assert await pool.snapshotting.get_snapshot(snapshot.id) == snapshot
        assert await pool.snapshotting.find_snapshot("cut") == snapshot
        other = await pool.create("b")
        with pytest.raises(AlreadyExists):
            await pool.snapshotting.create_snapshot("cut", other.id)

    async def test_snapshots_are_deleted_for_good(self, pool: PoolUnderTest) -> None:
        """A deleted snapshot is absent, deleting it again is success, and its volume is unharmed."""
        pool.need("snapshots")
        volume = await pool.create("a")
        await pool.write(volume.id, b"kept")
        snapshot = await ready_snapshot(pool, "cut", volume)
        await pool.snapshotting.delete_snapshot(snapshot.id)
        assert await pool.snapshotting.get_snapshot(snapshot.id) is None
        assert await pool.snapshotting.find_snapshot("cut") is None
        await pool.snapshotting.delete_snapshot(snapshot.id)
        assert await pool.read(volume.id, 4) == b"kept"
        with pytest.raises(NotFound):
            await pool.snapshotting.create_snapshot("cut", replace(volume.id, name="absent"))
        with pytest.raises(KatacsiError):
            await pool.snapshotting.delete_snapshot(replace(snapshot.id, pool_uid="ffffffff"))

    async def test_snapshots_are_listed_page_by_page(self, pool: PoolUnderTest) -> None:
        """Pages together hold each snapshot once, of all volumes or of one."""
        pool.need("snapshots")
        first, second = await pool.create("a"), await pool.create("b")
        for number in range(3):
            await ready_snapshot(pool, f"of-a-{number}", first)
        await ready_snapshot(pool, "of-b", second)
        whole = (await pool.snapshotting.list_snapshots("", 0)).items
        assert {snapshot.csi_name for snapshot in whole} == {"of-a-0", "of-a-1", "of-a-2", "of-b"}
        page = await pool.snapshotting.list_snapshots("", 3)
        rest = await pool.snapshotting.list_snapshots(page.next_cursor, 3)
        assert page.items + rest.items == whole
        assert rest.next_cursor == ""
        one = await pool.snapshotting.list_snapshots("", 0, first.id)
        assert one.items == tuple(snapshot for snapshot in whole if snapshot.source == first.id)
        absent = await pool.snapshotting.list_snapshots("", 0, replace(first.id, name="absent"))
        assert absent.items == ()
