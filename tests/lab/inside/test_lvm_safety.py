"""What could cost data: a thin pool that is full, and a disk that is there twice."""

from __future__ import annotations

import asyncio

import pytest

from katacsi.backends.api import ContentSource, PoolContext
from katacsi.backends.lvm import LvmBackend, LvmSettings
from katacsi.errors import HostError, OutOfSpace
from katacsi.model import MIB
from katacsi.testing import blockio
from support.lvm_pools import request
from support.real_lvm import DEVICES, VG, run

UDEV = False
SECONDS = 15


async def started(**settings):
    chosen = LvmSettings(volume_group=VG, devices=DEVICES, **settings)
    pool = LvmBackend(chosen, PoolContext("pool", "test.katacsi.io", "node-1"))
    await pool.start()
    return pool


async def test_a_thin_pool_that_fills_up_under_its_volumes(group, disks):
    """Writes fail, nothing new is made, other volumes keep their bytes; room that is freed heals it."""
    group(*disks[:2])
    words = ("--type", "thin-pool", "--size", "64M", "--name", "small")
    run("lvcreate", "--yes", *words, VG)
    run("lvchange", "--errorwhenfull", "y", f"{VG}/small")
    pool = await started(thin_pool="small", overprovision_ratio=10)
    try:
        greedy, modest = [await pool.create(request(name, 96 * MIB)) for name in ("greedy", "modest")]
        device = await pool.attach(modest.id, {}, {})
        await asyncio.to_thread(blockio.write, device, b"kept")
        with pytest.raises(OSError, match=r"Input/output error|No space left"):
            await asyncio.to_thread(blockio.fill, await pool.attach(greedy.id, {}, {}), b"x")
        for volume in (greedy, modest):
            assert "thin pool lab/small" in (await pool.condition(volume.id)).message
        assert (await pool.capacity({})).available_bytes == 0
        assert "thin pool lab/small is full (100.0 % of its data" in await pool.full(modest.id)
        with pytest.raises(OutOfSpace):
            await pool.create(request("new"))
        with pytest.raises(OutOfSpace):
            await pool.create(request("copy", 0, ContentSource(modest.id)))
        with pytest.raises(OutOfSpace):
            await pool.create_snapshot("s", modest.id)
        with pytest.raises(OutOfSpace):
            await pool.expand(modest.id, 128 * MIB)
        assert {item.csi_name for item in (await pool.list("", 0)).items} == {"greedy", "modest"}
        assert await asyncio.to_thread(blockio.read, device, 4) == b"kept"
        await pool.detach(greedy.id)
        await pool.delete(greedy.id)
        assert not (await pool.condition(modest.id)).abnormal
        assert await pool.full(modest.id) == ""
        await asyncio.to_thread(blockio.write, device, b"more", 8 * MIB)
        await pool.create(request("new"))
    finally:
        for item in (await pool.list("", 0)).items:
            await pool.detach(item.id)
        await pool.close()


async def test_a_disk_that_is_there_twice(group, disks):
    """LVM changes and activates nothing then; that is an error, and no volume is absent."""
    group(*disks[:2])
    pool = await started()
    volume = await pool.create(request("a"))
    run("dd", f"if={disks[0]}", f"of={disks[2]}", "bs=1M", "count=4", "conv=fsync")
    try:
        pool._group._known = None
        for call in (
            pool.create(request("b")),
            pool.attach(volume.id, {}, {}),
            pool.delete(volume.id),
            pool.expand(volume.id, 64 * MIB),
        ):
            with pytest.raises(HostError, match="duplicate"):
                await call
        assert await pool.get(volume.id) is not None
    finally:
        run("wipefs", "--all", "--force", disks[2])
    pool._group._known = None
    await pool.attach(volume.id, {}, {})
    await pool.detach(volume.id)
    await pool.delete(volume.id)
    assert await pool.get(volume.id) is None
    await pool.close()
