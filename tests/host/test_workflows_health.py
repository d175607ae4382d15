"""Filesystems that have met errors: what a person is told, and what the next pod gets."""

import time
from pathlib import Path

import pytest

from katacsi.errors import Damaged, InvalidRequest, Precondition
from katacsi.host import superblock
from support import blockdevices


def break_ext4(pvc):
    """Have the kernel meet an error in a mounted ext4."""
    Path(f"/sys/fs/ext4/{pvc.device.name}/trigger_fs_error").write_text("a test")
    time.sleep(0.3)


@pytest.mark.gate("health-follows-the-kernel")
async def test_a_filesystem_that_takes_no_writes_is_not_given_to_a_second_pod(node, volume):
    """With errors=remount-ro the kernel stops writing; old kernels show "ro", new ones something else."""
    pvc = volume(mount_flags=("errors=remount-ro",))
    await pvc.up()
    assert not (await pvc.stats()).condition.abnormal
    break_ext4(pvc)
    with pytest.raises(OSError, match="Read-only"):
        pvc.write()
    condition = (await pvc.stats()).condition
    assert condition.abnormal
    assert "read-only after an error" in condition.message or "shut down" in condition.message
    second = node.pods / "second" / "mount"
    with pytest.raises(Precondition, match="stop all its pods"):
        await pvc.publish(second)
    assert not second.exists()
    await pvc.publish(second, read_only=True)
    await pvc.unpublish(second)
    await pvc.down()
    await pvc.stage()
    assert superblock.read(pvc.device).clean, "the stage checks what the kernel has marked"
    await pvc.publish()
    pvc.write()
    assert not (await pvc.stats()).condition.abnormal
    await pvc.down()


async def test_counted_errors_are_told(volume):
    """With errors=continue the pod goes on, and a person learns of it."""
    pvc = volume(mount_flags=("errors=continue",))
    await pvc.up()
    break_ext4(pvc)
    pvc.write()
    condition = (await pvc.stats()).condition
    assert condition.abnormal
    assert "counted 1 errors" in condition.message
    await pvc.down()


async def test_a_shut_down_xfs_is_abnormal(volume):
    """xfs shows nothing in the mount table when it stops."""
    pvc = volume(fs_type="xfs")
    await pvc.up()
    blockdevices.run("xfs_io", "-x", "-c", "shutdown", pvc.target)
    condition = (await pvc.stats()).condition
    assert condition.abnormal
    assert "shut down" in condition.message
    await pvc.down()


async def test_damage_that_needs_a_person_is_not_guessed_about(volume):
    """A marked ext4 that e2fsck would have to guess about is refused at stage, with what to do."""
    pvc = volume()
    await pvc.up()
    break_ext4(pvc)
    await pvc.down()
    with pvc.disk.open("r+b") as disk:
        disk.seek(4096)
        disk.write(b"\xff" * 4096 * 12)
    with pytest.raises(Damaged, match="a person must look at"):
        await pvc.stage()
    await pvc.unstage()


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
async def test_a_reader_after_a_writer_that_crashed(node, volume, fs_type):
    """A guest mounts read-only from a read-only device, so the journal is replayed before, or refused."""
    pvc = volume(direct=True, fs_type=fs_type)
    await pvc.up()
    with pvc.guest() as mounted:
        (mounted / "data").write_bytes(b"synced")
        blockdevices.run("sync", "-f", mounted)
        dirty = pvc.disk.read_bytes() if fs_type == "ext4" else None
        if fs_type == "xfs":
            blockdevices.run("xfs_io", "-x", "-c", "shutdown -f", mounted)
    await pvc.down()
    if dirty is not None:
        pvc.disk.write_bytes(dirty)
        assert superblock.read(pvc.disk).needs_replay
    await pvc.stage()
    if fs_type == "xfs":
        with pytest.raises(Precondition, match="publish it writable once"):
            await pvc.publish(read_only=True)
        await pvc.unstage()
        return
    await pvc.publish(read_only=True)
    with blockdevices.mounted(pvc.device, node.scratch / "guest", "ro") as mounted:
        assert (mounted / "data").read_bytes() == b"synced"
    await pvc.down()


@pytest.mark.parametrize("direct", [True, False])
async def test_an_option_that_cannot_work_is_refused_at_creation(node, volume, direct):
    """Not at the third call, nor only inside the guest."""
    pvc = volume(direct=direct, mount_flags=("noatime", "nouuid"))
    with pytest.raises(InvalidRequest, match="'nouuid' is no mount option of ext4"):
        await pvc.create()
    assert node.devices == []


async def test_a_host_s_selinux_context_stays_on_the_host(node, volume):
    """A guest's kernel without SELinux would refuse the mount."""
    flags = ('context="system_u:object_r:container_file_t:s0:c1,c2"', "noatime", "rootcontext=x:y:z:s0")
    pvc = volume(direct=True, mount_flags=flags)
    await pvc.up()
    assert node.record(pvc.target)["options"] == ["noatime"]
    await pvc.down()
