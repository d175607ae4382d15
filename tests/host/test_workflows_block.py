"""Publishing a raw block device."""

import os
import stat

import pytest

from katacsi.errors import AlreadyExists, InvalidRequest, Precondition, VolumeInUse
from katacsi.host import block, superblock
from katacsi.model import AccessMode, AccessType, SizeRange
from katacsi.volumes.requests import SourceKind, SourceRef
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


@pytest.mark.gate("format-only-what-is-proven-blank")
async def test_what_a_workload_wrote_raw_is_never_formatted(node, raw, volume):
    """Zero ends and no signature prove nothing once a workload had the device: not here, nor in a copy."""
    pvc = raw()
    await pvc.up()
    with pvc.target.open("r+b", buffering=0) as device:
        device.seek(4 * MIB)
        device.write(b"precious" * 512)
        os.fsync(device.fileno())
    await pvc.down()
    copy = raw("copy")
    await copy.create(await pvc.snapshot())
    await node.restart()
    for one in (pvc, copy):
        assert (await one.facts()).raw_written
        one.access, one.fs_type = AccessType.MOUNT, "ext4"
        with pytest.raises(Precondition, match="volumeMode Block"):
            await one.stage()
        assert one.disk.read_bytes()[4 * MIB : 4 * MIB + 8] == b"precious"
        assert superblock.read(one.disk) is None
    source = SourceRef(SourceKind.VOLUME, pvc.id)
    for content in ({"source": await pvc.snapshot()}, {"source_ref": source}):
        with pytest.raises(InvalidRequest, match="volumeMode Block"):
            await volume("other").create(**content)
    assert not node.disk("other").exists()


async def test_a_volume_that_was_only_read_raw_is_still_blank(raw, volume):
    """A read-only publish writes nothing, so a copy may become a filesystem."""
    pvc = raw()
    await pvc.create()
    await pvc.stage()
    await pvc.publish(read_only=True)
    await pvc.down()
    assert not (await pvc.facts()).raw_written
    copy = volume("copy")
    await copy.create(await pvc.snapshot(), size=SizeRange(16 * MIB))
    await copy.stage()
    assert superblock.read(copy.device).fs_type == "ext4"
    await copy.unstage()


async def test_a_filesystem_is_not_restored_raw(raw, volume):
    """A copy holds what its source holds, and that is no raw device's content."""
    pvc = volume()
    await pvc.up()
    await pvc.down()
    for content in ({"source": await pvc.snapshot()}, {"source_ref": SourceRef(SourceKind.VOLUME, pvc.id)}):
        with pytest.raises(InvalidRequest, match="volumeMode Filesystem"):
            await raw("other", size=16 * MIB).create(**content)


@pytest.mark.parametrize("kind", ["raw", "direct"])
async def test_a_read_only_publish_leaves_a_writable_device(node, volume, kind):
    """The flag that a publish sets on a device is not left to who uses it next."""
    pvc = volume(access=AccessType.BLOCK) if kind == "raw" else volume(direct=True)
    await pvc.create()
    await pvc.stage()
    await pvc.publish(read_only=True)
    assert block.is_read_only(pvc.device)
    await node.restart()
    await pvc.unpublish()
    assert not block.is_read_only(pvc.device)
    block.set_read_only(pvc.device, True)  # as a driver leaves it that was killed before it took the flag off
    await node.restart()
    await pvc.stage()
    assert not block.is_read_only(pvc.device)
    await pvc.unstage()


@pytest.mark.parametrize("direct", [True, False])
async def test_ro_among_the_options_is_a_read_only_publish(node, volume, direct):
    """A PV's mountOptions say what its pods' `readOnly` says: the device, the record and the group follow."""
    pvc = volume(direct=direct, mount_flags=("noatime,ro",), mount_group="4711")
    await pvc.up()
    if direct:
        assert block.is_read_only(pvc.device)
        record = node.record(pvc.target)
        assert set(record["options"]) == {"noatime", "ro"}
        assert "fsGroup" not in record.get("metadata", {})
    else:
        with pytest.raises(OSError, match="Read-only"):
            pvc.write()
        assert pvc.target.stat().st_gid == 0
    assert not (await pvc.facts()).guest_written or direct
    await pvc.down()
