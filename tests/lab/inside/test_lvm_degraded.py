"""A disk is pulled out from under RAID volumes of the lvm backend."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from katacsi.backends.api import Attachment, CreateRequest, Facts, PoolContext, SizeRange
from katacsi.backends.lvm import LvmBackend, LvmSettings
from katacsi.errors import HostError, OutOfSpace, PoolUnavailable
from katacsi.host import dmrelease
from katacsi.model import MIB
from katacsi.testing import blockio
from support.real_lvm import DEVICES, VG, lvs, pull, pullable, run, wait_for

SECONDS = 55
SIZE = 48 * MIB


def request(name, **parameters):
    return CreateRequest(name, SizeRange(40 * MIB), parameters)


@contextlib.asynccontextmanager
async def started(*disks):
    """A pool on a group of disks, both gone afterwards."""
    run("vgcreate", "--yes", VG, *disks)
    settings = LvmSettings(volume_group=VG, devices=(*DEVICES, "/dev/mapper/pullable"))
    pool = LvmBackend(settings, PoolContext("pool", "test.katacsi.io", "node-1"))
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()
        run("vgreduce", "--removemissing", "--force", VG)
        run("vgremove", "--force", "--yes", VG)


def is_synced(lv):
    return lambda: lvs(lv, "sync_percent")["sync_percent"] == "100.00"


@pytest.mark.parametrize(("kind", "count"), [("raid5", 3), ("raid6", 5), ("raid10", 4)])
async def test_a_volume_with_parity_or_copies_survives_a_lost_disk(disks, kind, count):
    """It goes on, keeps what is written, says that it is degraded, and can be attached again."""
    with pullable(disks[0]) as disk:
        async with started(disk, *disks[1:count]) as pool:
            volume = await pool.create(CreateRequest("a", SizeRange(SIZE), {"type": kind}))
            device = await pool.attach(volume.id, {}, {})
            await asyncio.to_thread(blockio.fill, device, b"k")
            await asyncio.to_thread(wait_for, is_synced("kv-a"))
            assert not (await pool.condition(volume.id)).abnormal
            pull(disk)
            await asyncio.to_thread(blockio.write, device, b"still")
            pool._group._known = None
            condition = await pool.condition(volume.id)
            assert condition.abnormal
            assert "still whole" in condition.message
            await pool.detach(volume.id)
            device = await pool.attach(volume.id, {}, {})
            data = await asyncio.to_thread(blockio.read, device, volume.size_bytes)
            assert data == b"still" + b"k" * (volume.size_bytes - 5)
            await pool.detach(volume.id)
            await pool.delete(volume.id)
            assert await pool.get(volume.id) is None


async def test_a_volume_without_copies_is_lost_with_a_disk_and_says_so(disks):
    """A striped volume is abnormal and is not activated with holes; it is neither absent nor called whole."""
    with pullable(disks[0]) as disk:
        async with started(disk, disks[1]) as pool:
            volume = await pool.create(CreateRequest("a", SizeRange(SIZE), {"type": "striped"}))
            device = await pool.attach(volume.id, {}, {})
            await asyncio.to_thread(blockio.fill, device, b"k")
            pull(disk)
            with pytest.raises(OSError, match="Input/output error"):
                await asyncio.to_thread(blockio.read, device, volume.size_bytes)
            pool._group._known = None
            condition = await pool.condition(volume.id)
            assert condition.abnormal
            assert "bring the disk back" in condition.message
            (listed,) = (await pool.list("", 0)).items
            assert listed.condition.abnormal
            await pool.detach(volume.id)
            with pytest.raises(HostError):
                await pool.attach(volume.id, {}, {})
            assert await pool.get(volume.id) is not None


async def test_a_group_that_lacks_a_disk_gives_no_room(disks):
    """LVM makes nothing in it, so nothing is offered, and the error says what to do. The rest goes on."""
    with pullable(disks[0]) as disk:
        async with started(disks[1], disks[2], disk) as pool:
            kept = await pool.create(request("kept"))
            pull(disk)
            pool._group._known = None
            assert (await pool.capacity({})).available_bytes == 0
            with pytest.raises(OutOfSpace, match="vgreduce --removemissing"):
                await pool.create(request("b"))
            with pytest.raises(OutOfSpace, match="vgreduce --removemissing"):
                await pool.expand(kept.id, 80 * MIB)
            facts = Facts(guest_written=True)
            await pool.compare_and_set_facts(kept.id, kept.facts, facts)
            await pool.attach(kept.id, {}, {})
            await pool.detach(kept.id)
            assert [item.csi_name for item in (await pool.list("", 0)).items] == ["kept"]


@pytest.mark.gate("teardown-needs-no-storage")
async def test_a_volume_is_released_when_its_group_is_gone_with_its_disk(disks):
    """LVM finds the group no more, in a driver that goes on; the kernel's own door takes the device away."""
    with pullable(disks[0]) as disk:
        run("vgcreate", "--yes", VG, disk)
        settings = LvmSettings(volume_group=VG, devices=(*DEVICES, "/dev/mapper/pullable"))
        pool = LvmBackend(settings, PoolContext("pool", "test.katacsi.io", "node-1"))
        await pool.start()
        volume = await pool.create(request("a"))
        device = await pool.attach(volume.id, {}, {})
        pull(disk)
        pool._group._known = None
        with pytest.raises((PoolUnavailable, HostError)):
            await pool.detach(volume.id)
        await pool.release(volume.id, Attachment(device.path))
        assert not device.path.exists()
        assert not [found for found in dmrelease.every() if "-kv--a" in found.name]
        await pool.close()


async def test_a_lost_disk_is_reported(disks):
    """A volume with a copy goes on and says what it lost, in lists too; without the disk none is made."""
    with pullable(disks[0]) as disk:
        run("vgcreate", "--yes", VG, disk, disks[1])
        settings = LvmSettings(volume_group=VG, devices=(*DEVICES, "/dev/mapper/pullable"))
        pool = LvmBackend(settings, PoolContext("pool", "test.katacsi.io", "node-1"))
        await pool.start()
        try:
            volume = await pool.create(request("a", type="raid1"))
            linear = await pool.create(request("b"))
            device = await pool.attach(volume.id, {}, {})
            await asyncio.to_thread(blockio.write, device, b"kept")
            await asyncio.to_thread(wait_for, lambda: lvs("kv-a", "sync_percent")["sync_percent"] == "100.00")
            assert not (await pool.condition(volume.id)).abnormal
            pull(disk)
            await asyncio.to_thread(blockio.write, device, b"still")
            condition = await pool.condition(volume.id)
            assert condition.abnormal
            assert "lvconvert --repair" in condition.message
            pool._group._known = None
            listed = {item.csi_name: item.condition for item in (await pool.list("", 0)).items}
            assert listed["a"].abnormal
            assert "still whole" in listed["a"].message
            assert (await pool.capacity({"type": "raid1"})).available_bytes == 0
            with pytest.raises(OutOfSpace, match="lacks 1 of its disks"):
                await pool.create(request("c", type="raid1"))
            assert await asyncio.to_thread(blockio.read, device, 5) == b"still"
            # It can be used again without the disk: what is left is activated.
            await pool.detach(volume.id)
            device = await pool.attach(volume.id, {}, {})
            assert await asyncio.to_thread(blockio.read, device, 5) == b"still"
            await pool.detach(volume.id)
            await pool.delete(volume.id)
            assert {item.csi_name for item in (await pool.list("", 0)).items} == {linear.csi_name}
        finally:
            await pool.close()
            run("vgreduce", "--removemissing", "--force", VG)
            run("vgremove", "--force", "--yes", VG)
