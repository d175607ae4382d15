"""What must never happen to a volume, on logical volumes: the workflows on real device-mapper."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from katacsi.errors import InvalidRequest, Precondition, VolumeInUse
from katacsi.host import block, superblock
from katacsi.model import AccessType
from katacsi.volumes.requests import ListSnapshots
from support import lvm_pools
from support import node as nodes
from support.lvm_pools import THIN_POOL
from support.node import MIB, held
from support.real_lvm import DEVICES, VG

UDEV = False
SECONDS = 50

volume_group = pytest.fixture(lvm_pools.volume_group, scope="module", name="volume_group")


class Volume(nodes.Volume):
    """A volume whose device is a logical volume's, as the driver has noted it at stage."""

    @property
    def device(self) -> Path:
        """The topmost device of its staging."""
        (staged,) = self.node.driver.context.marks.stagings_of(self.id)
        return Path(staged.devices[-1])


@pytest.fixture(params=["thin", "linear"])
async def node(request, scratch, volume_group):
    """A node with one pool in the volume group."""
    pool = {"backend": "lvm", "volume_group": VG, "devices": list(DEVICES)}
    pool |= {"lock_directory": str(scratch / "locks")}
    if request.param == "thin":
        pool |= {"thin_pool": THIN_POOL, "overprovision_ratio": 8}
    served = nodes.Node(scratch)
    await served.start(pools={"default": pool})
    yield served
    page = await served.driver.provisioning.list("", 0)
    for snapshot in (await served.driver.snapshots.list(ListSnapshots())).snapshots:
        await served.driver.snapshots.delete(str(snapshot.id))
    for view in page.volumes:
        await served.driver.provisioning.delete(str(view.volume.id))
    await served.stop()


@pytest.fixture
def volume(node):
    """Make volumes of the node."""
    return partial(Volume, node)


async def test_a_held_volume_is_given_to_nobody_else(node, volume):
    """A guest that outlived its pod keeps the device; stage, publish, unstage and delete name it."""
    pvc = volume(direct=True)
    await pvc.up()
    with held(pvc.device):
        await pvc.unpublish()
        await node.restart()
        for call in (pvc.stage, pvc.publish, pvc.unstage):
            with pytest.raises(VolumeInUse, match="sleep"):
                await call()
    await pvc.publish()
    await pvc.down()


async def test_what_a_workload_wrote_raw_is_never_formatted(volume):
    """Neither the volume nor a copy of it, whatever a probe finds."""
    pvc = volume(access=AccessType.BLOCK)
    await pvc.up()
    with pvc.target.open("r+b", buffering=0) as device:
        device.seek(4 * MIB)
        device.write(b"precious" * 512)
    await pvc.down()
    assert (await pvc.facts()).raw_written
    pvc.access, pvc.fs_type = AccessType.MOUNT, "ext4"
    with pytest.raises(Precondition, match="volumeMode Block"):
        await pvc.stage()
    with pytest.raises(InvalidRequest, match="volumeMode Block"):
        await volume("copy").create(await pvc.snapshot())


@pytest.mark.parametrize("direct", [True, False])
async def test_a_read_only_publish_leaves_a_writable_device(volume, direct):
    """The flag that a publish sets is taken off again, so that a wipe or the next pod can write."""
    pvc = volume(direct=True) if direct else volume(access=AccessType.BLOCK)
    await pvc.create()
    await pvc.stage()
    await pvc.publish(read_only=True)
    assert block.is_read_only(pvc.device)
    await pvc.unpublish()
    assert not block.is_read_only(pvc.device)
    await pvc.unstage()


async def test_a_filesystem_that_takes_no_writes_is_not_given_to_a_second_pod(node, volume):
    """As an old kernel shows it; the next stage checks what the kernel has marked."""
    pvc = volume(mount_flags=("errors=remount-ro",))
    await pvc.up()
    major, minor = block.device_number(pvc.device)
    name = Path(f"/sys/dev/block/{major}:{minor}").resolve().name
    Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("a test")
    with pytest.raises(OSError, match="Read-only"):
        pvc.write()
    assert (await pvc.stats()).condition.abnormal
    with pytest.raises(Precondition, match="stop all its pods"):
        await pvc.publish(node.pods / "second" / "mount")
    await pvc.down()
    await pvc.stage()
    assert superblock.read(pvc.device).clean
    await pvc.publish()
    pvc.write()
    await pvc.down()
