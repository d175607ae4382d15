"""Conformance: devices are blank at first, one for each volume, true to their bytes, provably gone."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING

import pytest

from katacsi.errors import OutOfSpace, SizeOutOfRange
from katacsi.testing import blockio
from katacsi.testing.kit import ConformanceKit

if TYPE_CHECKING:
    from katacsi.backends.api import Volume
    from katacsi.testing.pools import PoolUnderTest

_FORMATS = "a volume with data is called blank, and would be formatted without a probe"


@pytest.mark.asyncio
class DeviceTests(ConformanceKit):
    """Attach, detach, refresh, is_blank, expand, condition."""

    async def test_a_new_device_is_blank(self, pool: PoolUnderTest) -> None:
        """Every byte of a new volume reads as zero, and nothing is claimed to the contrary."""
        volume = await pool.create("a")
        assert await pool.is_blank(volume.id) is not False, "a new volume is said to hold data"
        found = await pool.first_data(volume.id)
        assert found is None, f"a new volume reads as other than zero at byte {found}"
        assert await pool.is_blank(volume.id) is not False

    async def test_reused_space_is_blank(self, pool: PoolUnderTest) -> None:
        """No byte of a deleted volume shows in the next ones: the next one may be another tenant's."""
        names = [f"pvc-{number}" for number in range(self.volumes_at_once)]
        for name in names:
            volume = await pool.create(name)
            device = await pool.attach(volume.id)
            await asyncio.to_thread(blockio.fill, device, b"\xa5")
            await pool.detach(volume.id)
        for name in names:
            found = await pool.backend.find(name)
            assert found is not None
            await pool.delete(found.id)
        for name in names:
            volume = await pool.create(f"next-{name}")
            where = await pool.first_data(volume.id)
            assert where is None, f"at byte {where} a new volume shows what a former tenant wrote"

    async def test_attach_tells_the_truth(self, pool: PoolUnderTest) -> None:
        """What `attach` says besides is so: the volume as `get` gives it, and no data called blank."""
        volume = await pool.create("a")
        other = "attach gives a volume that is not as it is stored, and facts would be decided by it"
        for guest_written in (False, True):
            facts = (await pool.existing(volume.id)).facts
            new = facts.with_(guest_written=guest_written)
            await pool.backend.compare_and_set_facts(volume.id, facts, new)
            device = await pool.attach(volume.id)
            assert device.volume in (None, await pool.existing(volume.id)), other
            assert not device.blank or not guest_written, _FORMATS
            await asyncio.to_thread(blockio.fill, device, b"\xa5")
            await pool.detach(volume.id)

    async def test_written_bytes_are_never_called_blank(self, pool: PoolUnderTest) -> None:
        """Bytes that were written but not yet synced keep a volume from being called blank."""
        volume = await pool.create("a")
        device = await pool.attach(volume.id)
        with blockio.held(device) as fd:
            os.pwrite(fd, b"x" * 4096, volume.size_bytes - 4096)
            assert await pool.is_blank(volume.id) is not True, _FORMATS
        await pool.detach(volume.id)
        assert await pool.is_blank(volume.id) is not True, _FORMATS

    async def test_two_volumes_live_at_once(self, pool: PoolUnderTest) -> None:
        """The workflows call a pool for several volumes at the same time; neither disturbs the other."""
        volume, other = await pool.create("a"), await pool.create("b")

        async def life(volume: Volume) -> None:
            backend = pool.backend
            assert await backend.get(volume.id) == volume
            device = await pool.attach(volume.id)
            assert await pool.attached(volume.id) == device
            await pool.is_blank(volume.id)
            facts = volume.facts.with_(guest_written=True)
            await backend.compare_and_set_facts(volume.id, volume.facts, facts)
            found = await backend.get(volume.id)
            assert found is not None
            assert found.facts == facts
            await pool.detach(volume.id)
            await backend.delete(volume.id)
            assert await backend.get(volume.id) is None

        await asyncio.gather(life(volume), life(other))

    async def test_attaching_twice_gives_the_same_device(self, pool: PoolUnderTest) -> None:
        """A volume has one device, a block device of its size, until it is detached; then it has none."""
        volume = await pool.create("a")
        assert await pool.attached(volume.id) is None
        device = await pool.attach(volume.id)
        assert stat.S_ISBLK(device.path.stat().st_mode)
        assert device.size_bytes == volume.size_bytes
        assert await pool.attach(volume.id) == device
        assert await pool.attached(volume.id) == device
        await pool.detach(volume.id)
        assert await pool.attached(volume.id) is None
        await pool.detach(volume.id)

    async def test_volumes_have_devices_of_their_own(self, pool: PoolUnderTest) -> None:
        """Two volumes that were made at the same time do not share a device, nor a byte."""
        first, second = await asyncio.gather(pool.create("a"), pool.create("b"))
        devices = await asyncio.gather(pool.attach(first.id), pool.attach(second.id))
        assert devices[0].path != devices[1].path, "two volumes have one device"
        await asyncio.to_thread(blockio.fill, devices[0], b"\xa5")
        assert await asyncio.to_thread(blockio.first_data, devices[1]) is None

    async def test_bytes_survive_detaching_and_restarts(self, pool: PoolUnderTest) -> None:
        """Start, middle and end of a volume are the same after a detach, and after a restart in between."""
        volume = await pool.create("a")
        spots = (0, volume.size_bytes // 2, volume.size_bytes - 512)
        for spot in spots:
            await pool.write(volume.id, f"at {spot}".encode().ljust(512), spot)
        await pool.restart()
        for spot in spots:
            assert await pool.read(volume.id, 512, spot) == f"at {spot}".encode().ljust(512)

    async def test_an_attached_device_outlives_a_restart(self, pool: PoolUnderTest) -> None:
        """A driver that is replaced finds the device that its predecessor attached."""
        volume = await pool.create("a")
        device = await pool.attach(volume.id)
        await pool.restart()
        assert await pool.attached(volume.id) == device
        assert await pool.attach(volume.id) == device

    async def test_a_healthy_volume_is_not_abnormal(self, pool: PoolUnderTest) -> None:
        """Attached or not, a volume without trouble is said to have none."""
        volume = await pool.create("a")
        assert not (await pool.condition(volume.id)).abnormal
        await pool.attach(volume.id)
        assert not (await pool.condition(volume.id)).abnormal

    async def test_a_volume_grows_and_never_shrinks(self, pool: PoolUnderTest) -> None:
        """A larger size is reached and kept; an equal or smaller one changes nothing; what is new is zero."""
        pool.need("expand")
        volume = await pool.create("a", required=self.volume_size // 2)
        await pool.write(volume.id, b"end", volume.size_bytes - 3)
        size = await pool.growing.expand(volume.id, self.volume_size)
        assert size >= self.volume_size
        assert await pool.growing.expand(volume.id, self.volume_size) == size
        assert await pool.growing.expand(volume.id, 1) == size
        await pool.restart()
        assert (await pool.existing(volume.id)).size_bytes == size
        device = await pool.attach(volume.id)
        assert device.size_bytes == size
        rest = await asyncio.to_thread(
            blockio.read, device, size - volume.size_bytes + 3, volume.size_bytes - 3
        )
        assert rest == b"end" + bytes(size - volume.size_bytes)

    async def test_an_attached_device_grows_by_refresh(self, pool: PoolUnderTest) -> None:
        """A device that is in use shows a volume's new size after a refresh."""
        pool.need("expand")
        volume = await pool.create("a", required=self.volume_size // 2)
        device = await pool.attach(volume.id)
        assert await pool.refresh(volume.id) == volume.size_bytes
        with blockio.held(device) as fd:
            size = await pool.growing.expand(volume.id, self.volume_size)
            assert await pool.refresh(volume.id) == size
            assert os.lseek(fd, 0, os.SEEK_END) == size
        grown = await pool.attached(volume.id)
        assert grown is not None
        assert grown.size_bytes == size

    async def test_more_than_there_is_leaves_the_size(self, pool: PoolUnderTest) -> None:
        """A growth that the pool cannot give changes nothing."""
        pool.need("expand")
        volume = await pool.create("a")
        with pytest.raises((OutOfSpace, SizeOutOfRange)):
            await pool.growing.expand(volume.id, 1 << 60)
        assert await pool.existing(volume.id) == volume
