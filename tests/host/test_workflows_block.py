"""Publishing a raw block device."""

import stat

import pytest

from katacsi.errors import AlreadyExists, InvalidRequest, VolumeInUse
from katacsi.host import block
from katacsi.model import AccessMode, AccessType
from support.node import MIB, mounts_at


@pytest.fixture
def raw(volume):
    """Make a raw volume."""
    return lambda name="pvc-1", **other: volume(name, access=AccessType.BLOCK, **other)


async def test_the_target_is_the_device(node, raw):
    """The pod's path is a block device node: the volume's, writable, with all its bytes."""
    pvc = raw()
    await pvc.up()
    assert stat.S_ISBLK(pvc.target.stat().st_mode)
    assert block.device_number(pvc.target) == block.device_number(pvc.device)
    assert block.size_bytes(pvc.target) == pvc.size
    pvc.target.write_bytes(b"raw bytes")
    await node.restart()
    await pvc.down()
    assert node.devices == []
    await pvc.stage()
    await pvc.publish()
    with pvc.target.open("rb") as device:
        assert device.read(9) == b"raw bytes"
    await pvc.down()


async def test_unpublish_removes_the_file_it_made(raw):
    """The node at the target goes with the publish, also when only an empty file is left."""
    pvc = raw()
    await pvc.up()
    await pvc.unpublish()
    assert not pvc.target.exists()
    assert pvc.target.parent.is_dir()
    pvc.target.touch()
    await pvc.unpublish()
    assert not pvc.target.exists()
    await pvc.unstage()


@pytest.mark.gate("retries-stack-no-mounts")
async def test_a_repeated_publish_binds_once(node, raw):
    """A retry finds the device at the target."""
    pvc = raw()
    await pvc.up()
    await pvc.publish()
    await node.restart()
    await pvc.publish()
    assert mounts_at(pvc.target) == 1
    await pvc.down()


async def test_read_only_is_the_device_s_own_flag(node, raw):
    """Kata looks at the device, not at the bind: it refuses writes itself, and takes them again later."""
    pvc = raw()
    await pvc.up(read_only=True)
    assert block.is_read_only(pvc.device)
    with pytest.raises(PermissionError):
        pvc.target.write_bytes(b"x")
    with pytest.raises(VolumeInUse, match="read-only"):
        await pvc.publish(node.pods / "writer" / "mount")
    await pvc.unpublish()
    await pvc.publish()
    assert not block.is_read_only(pvc.device)
    pvc.target.write_bytes(b"x")
    with pytest.raises(VolumeInUse, match="writable"):
        await pvc.publish(node.pods / "reader" / "mount", read_only=True)
    assert not block.is_read_only(pvc.device)
    await pvc.down()


async def test_two_pods_of_a_node_may_share_a_device(node, raw):
    """ReadWriteOnce allows it for raw devices, too; ReadWriteOncePod does not."""
    pvc = raw()
    await pvc.up()
    second = await pvc.publish(node.pods / "second" / "mount")
    assert block.device_number(second) == block.device_number(pvc.target)
    await pvc.unpublish(second)
    await pvc.unpublish()
    with pytest.raises(AlreadyExists):
        await pvc.stage(capability=pvc.capability(access_mode=AccessMode.SINGLE_NODE_SINGLE_WRITER))
    await pvc.unstage()
    alone = raw("pvc-2", mode=AccessMode.SINGLE_NODE_SINGLE_WRITER)
    await alone.up()
    with pytest.raises(VolumeInUse):
        await alone.publish(node.pods / "third" / "mount")
    await alone.down()


@pytest.mark.parametrize("kind", ["folder", "link"])
async def test_a_target_that_is_no_file(raw, scratch, kind):
    """A device is bound to a plain file; at anything else nothing is mounted, and a link stays a link."""
    pvc = raw()
    await pvc.create()
    await pvc.stage()
    pvc.target.parent.mkdir()
    if kind == "folder":
        pvc.target.mkdir()
    else:
        (scratch / "victim").touch()
        pvc.target.symlink_to(scratch / "victim")
    with pytest.raises(InvalidRequest):
        await pvc.publish()
    assert pvc.target.is_symlink() is (kind == "link")
    assert mounts_at(pvc.target) == mounts_at(scratch / "victim") == 0
    await pvc.unstage()


async def test_a_staged_device_is_not_published_as_a_filesystem(raw, volume):
    """What was staged raw is published raw."""
    pvc = raw()
    await pvc.create()
    await pvc.stage()
    with pytest.raises(InvalidRequest, match="block"):
        await pvc.publish(capability=volume("x").capability())
    await pvc.unstage()


async def test_another_device_at_the_target_is_not_taken_for_ours(raw):
    """A retry compares the device at the target with the volume's."""
    other, pvc = raw("other"), raw()
    await other.up()
    await pvc.create()
    await pvc.stage()
    with pytest.raises(AlreadyExists):
        await pvc.publish(other.target)
    await other.unpublish()
    await pvc.publish(other.target)
    await pvc.unpublish(other.target)
    await other.unstage()
    await pvc.unstage()


async def test_a_larger_device_is_seen_at_the_target(raw):
    """A grown raw volume has its new size at the pod's path at once."""
    pvc = raw()
    await pvc.up()
    assert await pvc.expand(pvc.size + 4 * MIB) == pvc.size + 4 * MIB
    assert block.size_bytes(pvc.target) == pvc.size + 4 * MIB
    await pvc.down()
