"""The kubelet's folder at two paths of one peer group: each mount below it shows at both, and is one."""

from __future__ import annotations

import pytest

from katacsi.errors import VolumeInUse
from katacsi.host import block, mount, peers
from katacsi.model import AccessType
from support import blockdevices
from support.node import Volume, mounts_at


@pytest.fixture(params=["shared", "folder", "slave"])
def folder(request, scratch, node):
    """The kubelet's folder by the path that the kubelet uses; its disk has it, too, at `scratch/data`."""
    disk, kubelet = scratch / "data", scratch / "kubelet"
    for point in (disk, kubelet):
        point.mkdir()
    blockdevices.run("mount", "-t", "tmpfs", "kubelet", disk)
    blockdevices.run("mount", "--make-shared", disk)
    whole = disk
    if request.param == "folder":
        # As people do it: a folder of the disk, at the path where a kubelet looks.
        (disk := disk / "kubelet").mkdir()
    blockdevices.run("mount", "--bind", disk, kubelet)
    # As in a container with HostToContainer: what is mounted at the first path comes to the second alone.
    used, other = kubelet, disk
    if request.param == "slave":
        blockdevices.run("mount", "--make-slave", kubelet)
        used, other = disk, kubelet
    node.pods, node.staging, node.elsewhere = used / "pods", used / "plugins", other
    for below in (node.pods, node.staging):
        below.mkdir()
    yield used
    node.clear()
    for point in (kubelet, whole):
        blockdevices.run("umount", point)


@pytest.mark.parametrize("kind", ["host", "direct", "block"])
async def test_a_volume_s_whole_life_there(node, folder, kind):
    """Staged, published twice where it can be, taken down and deleted: nobody is taken for another user."""
    access = AccessType.BLOCK if kind == "block" else AccessType.MOUNT
    pvc = Volume(node, direct=kind == "direct", access=access)
    await pvc.up()
    elsewhere = node.elsewhere / pvc.target.relative_to(folder)
    assert (mounts_at(pvc.target), mounts_at(elsewhere)) == (1, 1)
    if kind == "host":
        assert mounts_at(node.elsewhere / pvc.staging.relative_to(folder)) == 1
        second = await pvc.publish(node.pods / "second" / "mount")
        await pvc.unpublish(second)
    await pvc.unpublish()
    await pvc.publish()
    await pvc.down()
    assert not pvc.attached
    await pvc.delete()
    assert (mounts_at(pvc.target), mounts_at(elsewhere)) == (0, 0)


async def test_a_host_mount_makes_way_for_a_guest(node, folder):
    """The staging mount that no target uses goes at both paths before the device is handed over."""
    pvc = Volume(node)
    await pvc.up()
    await pvc.unpublish()
    pvc.context = {"katacsi.io/direct": "true"}
    await pvc.publish()
    assert node.record(pvc.target) is not None
    await pvc.down()


async def test_marks_that_were_lost_make_no_user_of_the_second_path(node, folder):
    """A new driver that remembers nothing finds the staging mount at both, and publishes it."""
    pvc = Volume(node)
    await pvc.up()
    await pvc.unpublish()
    await node.restart_without_facts()
    await pvc.stage()
    await pvc.publish()
    await pvc.down()


async def test_a_bind_by_somebody_else_is_in_the_way_as_ever(node, folder, scratch):
    """It has the same peer group and shows the same folder, and it stays when the staging mount goes."""
    pvc = Volume(node)
    await pvc.up()
    await pvc.unpublish()
    (stranger := folder / "stranger").mkdir()
    blockdevices.run("mount", "--bind", pvc.staging, stranger)
    (staged,) = mount.at(pvc.staging)
    (bound,) = mount.at(stranger)
    assert (bound.propagation, bound.root) == (staged.propagation, staged.root)
    with pytest.raises(VolumeInUse, match=r"still mounted at .*stranger"):
        await pvc.unstage()
    assert pvc.staging.is_mount()
    blockdevices.run("umount", stranger)
    await pvc.unstage()


async def test_a_use_of_the_second_path_keeps_the_volume(node, folder):
    """A process that works in the copy works in the volume: nothing is unmounted, and it says so."""
    pvc = Volume(node)
    await pvc.up()
    await pvc.unpublish()
    copy = node.elsewhere / pvc.staging.relative_to(folder)
    with (copy / "in-use").open("w"), pytest.raises(VolumeInUse):
        await pvc.unstage()
    assert pvc.staging.is_mount()
    await pvc.unstage()


async def test_only_the_copies_go_with_a_mount(node, folder):
    """By the kernel's own word: what is told to go is what is gone after the unmount."""
    pvc = Volume(node)
    await pvc.up()
    number = block.device_number(pvc.device)
    before = {entry.id for entry in mount.of_device(number)}
    going = peers.going_with(mount.at(pvc.target))
    mount.unmount(pvc.target)
    left = {entry.id for entry in mount.of_device(number)}
    assert before - left == going
    assert left
    await pvc.down()
