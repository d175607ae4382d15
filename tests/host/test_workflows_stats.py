"""NodeGetVolumeStats: true numbers, and a true condition."""

import os

import pytest

from katacsi.directvolume.shim import GuestStats
from katacsi.errors import NotFound
from katacsi.host import mount
from katacsi.model import AccessType
from katacsi.volumes.requests import Unit, Usage
from support import blockdevices


async def test_a_host_volume_s_numbers_are_its_filesystem_s(volume):
    """Bytes and inodes as df shows them, at the target and at the staging path."""
    pvc = volume()
    await pvc.up()
    pvc.write("data", bytes(1 << 20))
    shown = os.statvfs(pvc.target)
    for path in (pvc.target, pvc.staging):
        stats = await pvc.stats(path)
        by_unit = {usage.unit: usage for usage in stats.usage}
        room, inodes = by_unit[Unit.BYTES], by_unit[Unit.INODES]
        assert room.total == shown.f_blocks * shown.f_frsize
        assert room.available == shown.f_bavail * shown.f_frsize
        assert 1 << 20 <= room.used <= room.total
        assert (inodes.total, inodes.available) == (shown.f_files, shown.f_ffree)
        assert inodes.used == shown.f_files - shown.f_ffree
        assert not stats.condition.abnormal
    await pvc.down()


@pytest.mark.gate("stats-of-direct-are-not-the-host-s")
async def test_a_direct_volume_s_size_is_all_that_is_known(volume):
    """Without a guest to ask there is the device's size; the host folder's numbers are never given."""
    pvc = volume(direct=True)
    await pvc.up()
    for path in (pvc.target, pvc.staging):
        stats = await pvc.stats(path)
        assert stats.usage == (Usage(Unit.BYTES, pvc.size),)
        assert stats.usage[0].available is None
        assert stats.usage[0].used is None
        assert not stats.condition.abnormal
    await pvc.down()


async def test_a_direct_volume_s_guest_is_asked(volume, monkeypatch):
    """When a shim answers, its guest's numbers are the volume's."""
    pvc = volume(direct=True)
    await pvc.up()

    async def answers(target):
        assert target == str(pvc.target)
        return GuestStats(
            total_bytes=100,
            available_bytes=60,
            used_bytes=40,
            total_inodes=10,
            available_inodes=7,
            used_inodes=3,
        )

    monkeypatch.setattr(type(pvc.node.driver.context.writer), "stats", staticmethod(answers))
    stats = await pvc.stats()
    assert stats.usage == (Usage(Unit.BYTES, 100, 60, 40), Usage(Unit.INODES, 10, 7, 3))
    await pvc.down()


async def test_a_raw_volume_s_size(volume):
    """Nobody but its workload knows how full a raw device is."""
    pvc = volume(access=AccessType.BLOCK)
    await pvc.up()
    for path in (pvc.target, pvc.staging):
        assert (await pvc.stats(path)).usage == (Usage(Unit.BYTES, pvc.size),)
    await pvc.down()


async def test_a_staged_volume_that_is_not_mounted_yet(volume):
    """Between stage and publish there is the size, and nothing is wrong."""
    pvc = volume()
    await pvc.create()
    await pvc.stage()
    stats = await pvc.stats(pvc.staging)
    assert stats.usage == (Usage(Unit.BYTES, pvc.size),)
    assert not stats.condition.abnormal
    await pvc.unstage()


@pytest.mark.parametrize("direct", [False, True], ids=["host", "direct"])
async def test_a_path_that_is_not_the_volume_s(node, volume, direct):
    """Paths of others, of nobody, relative ones and those of a gone publish are not found."""
    pvc, other = volume(direct=direct), volume("other")
    await pvc.up()
    await other.up()
    for path in (
        node.pods,
        other.target,
        other.staging,
        pvc.target.parent,
        "relative",
        "/",
        str(pvc.target) + "/",
    ):
        with pytest.raises(NotFound):
            await pvc.stats(path)
    pvc.id, mine = "nothing", pvc.id
    with pytest.raises(NotFound):
        await pvc.stats()
    pvc.id = mine
    await pvc.unpublish()
    with pytest.raises(NotFound):
        await pvc.stats()
    await pvc.unstage()
    await other.down()


async def test_a_disk_that_is_gone_is_abnormal(node, volume):
    """A volume whose bytes vanished under its pod is reported so, by stats and by ControllerGetVolume."""
    pvc = volume(direct=True)
    await pvc.up()
    hidden = pvc.disk.rename(node.scratch / "hidden.img")
    stats = await pvc.stats()
    assert stats.condition.abnormal
    assert "disk.img" in stats.condition.message
    assert stats.usage == (Usage(Unit.BYTES, pvc.size),)
    assert (await node.driver.provisioning.get(pvc.id)).condition.abnormal
    hidden.rename(pvc.disk)
    assert not (await pvc.stats()).condition.abnormal
    await pvc.down()


async def test_a_disk_that_lost_its_end_is_abnormal(volume):
    """A file that is shorter than its volume has lost bytes."""
    pvc = volume(direct=True)
    await pvc.up()
    os.truncate(pvc.disk, pvc.size - 4096)
    stats = await pvc.stats()
    assert stats.condition.abnormal
    os.truncate(pvc.disk, pvc.size)
    await pvc.down()


async def test_a_filesystem_that_the_kernel_made_read_only_is_abnormal(volume):
    """After an error the kernel remounts read-only: the pod's writes fail, and the condition says why."""
    pvc = volume()
    await pvc.up()
    blockdevices.run("mount", "-o", "remount,ro", pvc.staging)
    stats = await pvc.stats()
    assert stats.condition.abnormal
    assert "read-only" in stats.condition.message
    await pvc.down()


async def test_a_read_only_publish_is_not_abnormal(volume):
    """What was asked for is no illness."""
    pvc = volume()
    await pvc.up(read_only=True)
    assert not (await pvc.stats()).condition.abnormal
    await pvc.down()


async def test_a_mount_that_vanished_is_abnormal(volume):
    """A target that shows the node's own disk is never given as the volume's numbers."""
    pvc = volume()
    await pvc.up()
    mount.unmount(pvc.target)
    stats = await pvc.stats()
    assert stats.condition.abnormal
    assert "not mounted" in stats.condition.message
    assert stats.usage == (Usage(Unit.BYTES, pvc.size),)
    await pvc.down()
