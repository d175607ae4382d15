"""NodeGetVolumeStats: true numbers, and a true condition."""

import asyncio
import os

import pytest

from katacsi.errors import NotFound
from katacsi.host import mount
from katacsi.model import AccessType
from katacsi.volumes.requests import Unit, Usage
from support import blockdevices
from support.shims import Agent, Numbers


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


def guest_of(pvc):
    """An agent whose guest has the volume mounted, and counts."""

    def stats(_):
        with pvc.guest() as mounted:
            status = os.statvfs(mounted)
        unit = status.f_frsize
        return Numbers(status.f_blocks * unit, status.f_bfree * unit, status.f_files, status.f_ffree)

    return Agent(stats=stats)


@pytest.mark.gate("stats-of-direct-are-not-the-host-s")
@pytest.mark.parametrize("runtime", ["go", "rust"])
@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
async def test_a_direct_volume_s_guest_is_asked(kata, volume, runtime, fs_type):
    """The guest's numbers are the volume's, in both dialects; free is f_bfree, as the agent counts."""
    pvc = volume(direct=True, fs_type=fs_type)
    await pvc.up()
    pvc.guest_writes(data=bytes(1 << 20))
    with pvc.guest() as mounted:
        status = os.statvfs(mounted)
    total, free = status.f_blocks * status.f_frsize, status.f_bfree * status.f_frsize
    agent = guest_of(pvc)
    async with kata.pod(runtime, pvc.node.records, str(pvc.target), agent):
        stats = await pvc.stats()
    assert stats.usage == (
        Usage(Unit.BYTES, total, free, total - free),
        Usage(Unit.INODES, status.f_files, status.f_ffree, status.f_files - status.f_ffree),
    )
    assert not stats.condition.abnormal
    assert agent.asked
    await pvc.down()


async def hang(_):
    await asyncio.sleep(60)


def the_node_s_disk(_):
    return Numbers(1 << 23, 1 << 22, 12345, 12000)


@pytest.mark.gate("stats-of-direct-are-not-the-host-s")
@pytest.mark.parametrize("runtime", ["go", "rust"])
@pytest.mark.parametrize("stats", [hang, the_node_s_disk, Agent().stats], ids=["hangs", "another", "error"])
async def test_a_guest_that_cannot_tell_leaves_the_size(kata, volume, runtime, stats):
    """A shim that hangs, refuses, or tells of something else: the size, within seconds, and no illness."""
    pvc = volume(direct=True)
    await pvc.up()
    agent = Agent(stats=stats)
    async with kata.pod(runtime, pvc.node.records, str(pvc.target), agent), asyncio.timeout(10):
        found = await pvc.stats()
    assert agent.asked
    assert found.usage == (Usage(Unit.BYTES, pvc.size),)
    assert not found.condition.abnormal
    await pvc.down()


async def test_the_questions_are_counted(kata, volume):
    """The metrics have how long shims took, by runtime and outcome."""
    pvc = volume(direct=True)
    await pvc.up()
    async with kata.pod("go", pvc.node.records, str(pvc.target), guest_of(pvc)):
        await pvc.stats()
    registry = pvc.node.driver.context.metrics.registry
    labels = {"runtime": "go", "outcome": "ok"}
    assert registry.get_sample_value("katacsi_shim_request_duration_seconds_count", labels) == 1
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


@pytest.fixture
def device_nodes(node):
    """Bind device nodes below a folder like the kubelet's volumeDevices/<pv>/dev/, one a pod."""
    folder = node.scratch / "volumeDevices" / "pvc-1" / "dev"
    folder.mkdir(parents=True)

    def bound(device, uid="3d1d0b46-4a46-4b5c-a2a8-6a1c7d3a0001"):
        (place := folder / uid).touch()
        blockdevices.run("mount", "--bind", device, place)
        return place

    yield bound
    for place in folder.iterdir():
        if mount.at(place):
            blockdevices.run("umount", place)


async def test_a_raw_volume_at_the_kubelet_s_own_node(volume, device_nodes):
    """The kubelet asks for statistics of a raw volume at a path that no other call has named."""
    pvc, other, formatted = (
        volume(access=AccessType.BLOCK),
        volume("raw", access=AccessType.BLOCK),
        volume("formatted"),
    )
    for each in (pvc, other, formatted):
        await each.up()
    place = device_nodes(pvc.device)
    stats = await pvc.stats(place)
    assert stats.usage == (Usage(Unit.BYTES, pvc.size),)
    assert not stats.condition.abnormal
    (link := place.with_name("link")).symlink_to(pvc.device)
    assert (await pvc.stats(link)).usage == stats.usage
    for strange in (device_nodes(other.device, "other"), place.parent, place / "below", "/" + "x" * 300):
        with pytest.raises(NotFound):
            await pvc.stats(strange)
    # Of a filesystem a path is wanted where it is mounted: its device's node shows nothing of it.
    with pytest.raises(NotFound):
        await formatted.stats(device_nodes(formatted.device, "formatted"))
    assert await pvc.expand(2 * pvc.size, path=place) == 2 * pvc.size
    for unbound in place.parent.iterdir():
        if mount.at(unbound):
            blockdevices.run("umount", unbound)
    await pvc.unpublish()
    with pytest.raises(NotFound):
        await pvc.stats(link)
    await pvc.unstage()
    for each in (other, formatted):
        await each.down()


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
