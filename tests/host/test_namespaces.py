"""Mounts of a volume in the namespaces of others."""

import contextlib
import subprocess
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
