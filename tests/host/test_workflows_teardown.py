"""Taking a volume down while its storage is away: by marks and the kernel's tables, never by guess."""

from __future__ import annotations

from dataclasses import replace

import pytest

from katacsi.errors import KatacsiError, VolumeInUse
from katacsi.host import mount
from support import blockdevices
from support.node import Volume, held


@pytest.fixture(params=["host", "direct"])
def pvc(request, reflink_node):
    """A volume of a pool on a disk of its own."""
    return Volume(reflink_node, direct=request.param == "direct")


@pytest.mark.gate("teardown-without-the-pool")
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_pool_whose_disk_was_shut_down(reflink_node, pvc, restarted):
    """Every access to the pool is an I/O error; the pod's volume goes all the same."""
    await pvc.up()
    device = pvc.device
    blockdevices.run("xfs_io", "-x", "-c", "shutdown", reflink_node.pool)
    if restarted:
        await reflink_node.restart()
    await pvc.unpublish()
    await pvc.unstage()
    await pvc.unstage()
    assert not blockdevices.backing(device)
    assert reflink_node.driver.context.marks.all_staged() == []


@pytest.mark.gate("teardown-without-the-pool")
@pytest.mark.parametrize("restarted", [False, True])
async def test_an_image_that_was_removed_by_hand(reflink_node, pvc, restarted):
    """The device is found by what the kernel knows of it, and is not left behind."""
    await pvc.up()
    device = pvc.device
    pvc.disk.unlink()
    if restarted:
        await reflink_node.restart()
    await pvc.unpublish()
    with held(device), pytest.raises(VolumeInUse):
        await pvc.unstage()
    await pvc.unstage()
    assert not blockdevices.backing(device)


async def test_a_device_that_another_volume_has_by_now(reflink_node):
    """A crash left the mark of a detached device behind, and the next volume was given its name."""
    pvc, other = Volume(reflink_node), Volume(reflink_node, "pvc-2")
    await pvc.up()
    await pvc.unpublish()
    marks = reflink_node.driver.context.marks
    mark = marks.staged(str(pvc.staging))
    await pvc.unstage()
    await other.up()
    marks.add(replace(mark, devices=(str(other.device),)))
    await pvc.unstage()
    assert marks.staged(str(pvc.staging)) is None
    assert mount.at(other.target)
    assert blockdevices.backing(other.device)
    await other.unpublish()
    await other.unstage()


async def test_a_mount_that_nobody_remembers_is_not_taken_down(reflink_node):
    """Without marks and without the pool nothing proves whose it is."""
    pvc = Volume(reflink_node)
    await pvc.up()
    await pvc.unpublish()
    device = pvc.device
    blockdevices.run("xfs_io", "-x", "-c", "shutdown", reflink_node.pool)
    await reflink_node.restart_without_facts()
    with pytest.raises(KatacsiError):
        await pvc.unstage()
    assert blockdevices.backing(device)
    blockdevices.run("umount", pvc.staging)
    blockdevices.run("losetup", "--detach", device)
