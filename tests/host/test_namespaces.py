"""Mounts of a volume in the namespaces of others."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from katacsi.errors import VolumeInUse
from katacsi.host import block, namespaces
from support import blockdevices


@contextlib.contextmanager
def namespace_of_another():
    """Have a process that copied all mounts of now into a namespace of its own."""
    words = ["unshare", "--mount", "--propagation", "private", "sleep", "60"]
    with subprocess.Popen(words) as process:
        own = Path("/proc/self/ns/mnt").readlink()
        while Path(f"/proc/{process.pid}/ns/mnt").readlink() == own:
            time.sleep(0.01)
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def disk(scratch):
    """A disk with a filesystem, mounted at `scratch/point`; who uses it may unmount it."""

    @contextlib.contextmanager
    def made(fs_type):
        image = blockdevices.sparse_file(scratch / "disk.img", 320 << 20)
        with blockdevices.loop_device(image) as device:
            blockdevices.run(f"mkfs.{fs_type}", "-q", device)
            point = scratch / "point"
            point.mkdir()
            blockdevices.run("mount", device, point)
            try:
                yield device, point
            finally:
                if point.is_mount():
                    blockdevices.run("umount", point)

    return made


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
def test_each_filesystem_is_found(disk, fs_type):
    """A btrfs has a number of its own in the table, and is of its device all the same."""
    blockdevices.need(f"mkfs.{fs_type}")
    with disk(fs_type) as (device, point):
        number = block.device_number(device)
        with namespace_of_another() as pid:
            blockdevices.run("umount", point)
            (found,) = namespaces.mounted_elsewhere(number)
            assert (found.pid, found.mount_point) == (pid, str(point))
        assert namespaces.mounted_elsewhere(number) == []


def test_a_process_that_ends_meanwhile_hides_nobody(disk, monkeypatch):
    """The next process of its namespace is asked instead."""
    with disk("ext4") as (device, point), namespace_of_another() as pid:
        nsenter = ["nsenter", "-t", str(pid), "-m", "sleep", "60"]
        with subprocess.Popen(nsenter) as second:
            own = Path(f"/proc/{pid}/ns/mnt").readlink()
            while Path(f"/proc/{second.pid}/ns/mnt").readlink() != own:
                time.sleep(0.01)
            blockdevices.run("umount", point)
            gone = f"/proc/{min(pid, second.pid)}/mountinfo"

            class Ended(type(Path())):
                def read_bytes(self):
                    if str(self) == gone:
                        raise ProcessLookupError
                    return super().read_bytes()

            monkeypatch.setattr(namespaces, "Path", Ended)
            (found,) = namespaces.mounted_elsewhere(block.device_number(device))
            assert found.pid == max(pid, second.pid)
            second.kill()


def test_a_namespace_that_cannot_be_looked_into_is_an_error(disk):
    """Without the right to look, "nobody" is not said."""
    with disk("ext4") as (device, _), namespace_of_another():
        script = (
            "import os; from katacsi.host import namespaces; os.setuid(65534)\n"
            f"print(namespaces.mounted_elsewhere({block.device_number(device)}))"
        )
        asked = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert asked.stdout == ""
    assert "HostError: look into the mounts of process" in asked.stderr


@pytest.mark.gate("who-holds-a-volume-is-named")
async def test_a_copy_of_a_mount_in_another_namespace_is_found_and_named(node, volume):
    """Unmounted here it is still in use there: the device stays, and the process is named."""
    pvc = volume()
    await pvc.up()
    device = block.device_number(pvc.device)
    assert namespaces.mounted_elsewhere(device) == []
    with namespace_of_another() as pid:
        await pvc.unpublish()
        found = namespaces.mounted_elsewhere(device)
        assert [(one.pid, one.mount_point) for one in found] in (
            [(pid, str(pvc.staging))],
            [(pid, str(pvc.target))],
        )
        with pytest.raises(VolumeInUse, match=rf"process {pid}.*nsenter -t {pid} -m umount"):
            await pvc.unstage()
        assert pvc.attached
    await pvc.unstage()
    assert node.devices == []


async def test_a_device_that_is_mounted_elsewhere_is_not_given_to_a_guest(node, volume):
    """The host's kernel still writes there, whoever asked for the mount."""
    pvc = volume(direct=True)
    await pvc.create()
    await pvc.stage()
    await node.restart()
    point = node.scratch / "elsewhere"
    point.mkdir()
    blockdevices.run("mount", pvc.device, point)
    with namespace_of_another() as pid:
        blockdevices.run("umount", point)  # and no rmdir, which would unmount it in every namespace
        assert [one.pid for one in namespaces.mounted_elsewhere(block.device_number(pvc.device))] == [pid]
        with pytest.raises(VolumeInUse, match=f"process {pid}"):
            await pvc.publish()
        assert node.record(pvc.target) is None
        assert not pvc.target.exists()
    await pvc.publish()
    await pvc.down()
