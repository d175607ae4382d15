"""Conformance: a device that somebody has stays, and one that a pod had read-only is as good as another."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from katacsi.backends.api import Attachment
from katacsi.errors import HostError, VolumeInUse
from katacsi.host import block
from katacsi.testing import blockio
from katacsi.testing.kit import ConformanceKit
from katacsi.testing.refusing import refused

if TYPE_CHECKING:
    from katacsi.backends.api import Device, Volume
    from katacsi.testing.pools import PoolUnderTest


@pytest.mark.asyncio
class HoldingTests(ConformanceKit):
    """detach, delete and release, while a device is used or after it was."""

    async def test_a_held_device_stays(self, pool: PoolUnderTest) -> None:
        """A device that somebody uses is neither taken away nor deleted, and goes on working."""
        volume = await pool.create("a")
        device = await pool.attach(volume.id)
        with blockio.held(device) as fd:
            await _stays(pool, volume, device)
            os.pwrite(fd, b"still here", 0)
            os.fsync(fd)
        assert await pool.existing(volume.id) == volume
        assert await pool.read(volume.id, 10) == b"still here"
        await pool.detach(volume.id)
        assert await pool.attached(volume.id) is None

    async def test_a_device_is_released_without_the_pool(self, pool: PoolUnderTest) -> None:
        """Teardown works where the pool could not be started: held is refused, no device is success."""
        volume, other = await pool.create("a"), await pool.create("b")
        await pool.write(volume.id, b"kept")
        device, others = await pool.attach(volume.id), await pool.attach(other.id)
        attachment = Attachment(device.path)
        with blockio.held(device), pytest.raises(VolumeInUse):
            await pool.unstarted().release(volume.id, attachment)
        assert await pool.attached(volume.id) == device
        for _ in range(2):
            await pool.unstarted().release(volume.id, attachment)
            assert await pool.attached(volume.id) is None
        assert await pool.attached(other.id) == others
        foreign = replace(other.id, pool_uid="ffffffff")
        await pool.unstarted().release(foreign, Attachment(Path("/dev/no-such-device")))
        assert await pool.attached(other.id) == others
        assert await pool.read(volume.id, 4) == b"kept"
        await pool.detach(other.id)

    async def test_a_device_that_a_guest_has_stays(self, pool: PoolUnderTest) -> None:
        """A device that a virtual machine has open, though not exclusively, is not taken from it."""
        volume = await pool.create("a")
        device = await pool.attach(volume.id)
        with blockio.held_by_guest(device):
            await _stays(pool, volume, device)
            with refused("release took away a device that somebody has open", by=VolumeInUse):
                await pool.unstarted().release(volume.id, Attachment(device.path))
        assert await pool.existing(volume.id) == volume
        await pool.detach(volume.id)
        assert await pool.attached(volume.id) is None

    async def test_a_device_left_read_only_is_made_writable(self, pool: PoolUnderTest) -> None:
        """The flag that a read-only publish sets on a device hinders no later attach, delete or create."""
        volume = await pool.create("a")
        marked = set()
        try:
            for _ in range(2):
                device = await pool.attach(volume.id)
                await asyncio.to_thread(blockio.write, device, b"data")
                marked.add(device.path)
                await asyncio.to_thread(block.set_read_only, device.path, True)
                await pool.detach(volume.id)
            await pool.backend.delete(volume.id)
            for number in range(self.volumes_at_once):
                other = await pool.create(f"next-{number}")
                assert await pool.first_data(other.id) is None
                await pool.write(other.id, b"data")
        except OSError as error:
            pytest.fail(f"a device that a pod had read-only was given out, and cannot be written: {error}")
        finally:
            for path in marked:  # of a loop device the flag stays when its file goes
                with contextlib.suppress(HostError):
                    block.set_read_only(path, False)


async def _stays(pool: PoolUnderTest, volume: Volume, device: Device) -> None:
    with refused("detach took away a device that somebody has open", by=VolumeInUse):
        await pool.backend.detach(volume.id, pool.attachment(volume.id))
    with refused("delete gave a device to the next tenant that somebody has open", by=VolumeInUse):
        await pool.backend.delete(volume.id)
    assert await pool.attached(volume.id) == device
