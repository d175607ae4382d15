"""Whole lives of direct volumes: the driver's calls on one side, a guest with the device on the other."""

from __future__ import annotations

import pytest

from katacsi.host import holders, superblock
from katacsi.testing import leaks
from support.kata_node import MIB, digest, write

pytestmark = pytest.mark.timeout(180)

#: The numbers of the device that is mounted here, in the guest's shell.
NUMBER = "$(awk -v here=$PWD '$5 == here { print $3 }' /proc/self/mountinfo)"

both_filesystems = pytest.mark.parametrize("fs_type", ["ext4", "xfs"])


@both_filesystems
async def test_bytes_are_there_when_the_pod_comes_back(node, volume, runtime, fs_type):
    """Written in a guest, off the node and back, read in another guest; nothing is formatted twice."""
    pvc = volume(fs_type=fs_type)
    await pvc.up()
    with node.sandbox(runtime) as sandbox:
        written = write(sandbox.create(pvc.mount()), "data", 4 * MIB)
    uuid, made = superblock.read(pvc.device()).uuid, node.mkfs_runs
    await pvc.down()
    assert not leaks.loops_below(node.pool)
    await pvc.stage()
    await pvc.publish()
    with node.sandbox(runtime) as sandbox:
        assert digest(sandbox.create(pvc.mount()), "data") == written
    assert superblock.read(pvc.device()).uuid == uuid
    assert node.mkfs_runs == made
    await pvc.down()
    await pvc.delete()


async def test_nothing_reaches_the_host(node, volume, runtime):
    """What a container writes is on the volume only: the target shows the empty guard all the time."""
    pvc = volume()
    await pvc.up()
    with node.sandbox(runtime) as sandbox:
        write(sandbox.create(pvc.mount()), "data", MIB)
        assert list(pvc.target.iterdir()) == []
        assert sandbox.log == []
    await pvc.down()


async def test_a_container_that_restarts_finds_its_volume(node, volume, runtime):
    """The record stays while the pod does: the same sandbox gets the device anew."""
    pvc = volume()
    await pvc.up()
    with node.sandbox(runtime) as sandbox:
        first = sandbox.create(pvc.mount())
        written = write(first, "data", MIB)
        sandbox.stop_container(first)
        assert holders.lasting(pvc.device()) == []
        assert digest(sandbox.create(pvc.mount()), "data") == written
    await pvc.down()


async def test_two_containers_share_a_volume(node, volume, runtime):
    """Both see the same files; one that ends takes nothing from the other, and the device comes back."""
    pvc = volume()
    await pvc.up()
    with node.sandbox(runtime) as sandbox:
        first, second = sandbox.create(pvc.mount()), sandbox.create(pvc.mount("/var/lib/other"))
        written = write(first, "data", MIB)
        assert digest(second, "data", at="/var/lib/other") == written
        sandbox.stop_container(first)
        answer = write(second, "more", MIB, at="/var/lib/other")
        assert digest(second, "more", at="/var/lib/other") == answer
        assert holders.now(pvc.device())
        sandbox.stop_container(second)
        # runtime-rs forgets a disk of several users with the first that goes; it stays with the guest.
        assert bool(holders.lasting(pvc.device())) is (runtime == "runtime-rs")
    assert holders.lasting(pvc.device()) == []
    await pvc.down()


async def test_an_init_container_prepares_what_the_others_use(node, volume, runtime):
    """The init container ends before the next one starts; in between the guest does not have the device."""
    pvc = volume()
    await pvc.up()
    with node.sandbox(runtime) as sandbox:
        init = sandbox.create(pvc.mount("/prepared"))
        written = write(init, "data", MIB, at="/prepared")
        sandbox.stop_container(init)
        assert holders.lasting(pvc.device()) == []
        main = sandbox.create(pvc.mount())
        assert digest(main, "data") == written
        write(main, "more", MIB)
    await pvc.down()


@both_filesystems
async def test_a_read_only_volume_cannot_be_written(node, volume, runtime, fs_type):
    """The mount refuses with EROFS, the device beneath it too; the bytes from before can be read."""
    pvc = volume(fs_type=fs_type)
    await pvc.up()
    with node.sandbox(runtime) as sandbox:
        written = write(sandbox.create(pvc.mount()), "data", MIB)
    await pvc.unpublish()
    pvc.read_only = True
    await pvc.publish()
    with node.sandbox(runtime) as sandbox:
        container = sandbox.create(pvc.mount())
        assert digest(container, "data") == written
        answer = container.run("echo more >> data")
        assert answer.code != 0
        assert "Read-only file system" in answer.output
        assert container.must(f"cat /sys/dev/block/{NUMBER}/ro") == "1"
    await pvc.down()


async def test_a_node_that_reboots_gives_its_pods_their_bytes(node, volume, runtime):
    """Records, guards, facts and devices go with the boot; the kubelet comes again for the same pod."""
    pvc = volume()
    await pvc.up()
    with node.sandbox(runtime) as sandbox:
        written = write(sandbox.create(pvc.mount()), "data", MIB)
    uuid, made = superblock.read(pvc.device()).uuid, node.mkfs_runs
    await node.reboot()
    assert not node.entry_of(pvc.target).exists()
    assert not leaks.loops_below(node.pool)
    assert not pvc.target.is_mount()
    await pvc.stage()
    await pvc.publish()
    with node.sandbox(runtime) as sandbox:
        assert digest(sandbox.create(pvc.mount()), "data") == written
    assert superblock.read(pvc.device()).uuid == uuid
    assert node.mkfs_runs == made
    await pvc.down()
    await pvc.delete()
