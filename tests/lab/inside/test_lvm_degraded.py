"""A disk is pulled out from under RAID volumes of the lvm backend."""

from __future__ import annotations

import asyncio

import pytest

from katacsi.backends.api import CreateRequest, PoolContext, SizeRange
from katacsi.backends.lvm import LvmBackend, LvmSettings
from katacsi.errors import OutOfSpace
from katacsi.model import MIB
from katacsi.testing import blockio
from support.real_lvm import VG, lvs, pull, pullable, run, wait_for

DEVICES = ("/dev/ubd*", "/dev/mapper/pullable")


def request(name, **parameters):
    return CreateRequest(name, SizeRange(40 * MIB), parameters)


async def test_a_lost_disk_is_reported(disks):
    """A volume with a copy goes on and says what it lost, in lists too; without the disk none is made."""
    with pullable(disks[0]) as disk:
        run("vgcreate", "--yes", VG, disk, disks[1])
        settings = LvmSettings(volume_group=VG, devices=DEVICES)
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
            with pytest.raises(OutOfSpace, match="has 1 that can be used"):
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
