"""Format once: mkfs only on what is proven blank, and never again."""

import asyncio
import contextlib
import os
import random
import time
import uuid

import pytest

from katacsi.backends.api import Device, Facts, FormatState
from katacsi.errors import AlreadyExists, DataLossAlarm, ForeignContent, HostError, KatacsiError, Precondition
from katacsi.host import mkfs, mounttable, superblock
from katacsi.model import AccessType, VolumeId
from support import blockdevices
from support.node import MIB, Volume, mounts_at, tools_run

MKFS = {"mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "mke2fs"}


def content(file):
    """Read a whole small disk."""
    return file.read_bytes()


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
async def test_the_first_stage_formats_and_no_other(volume, fs_type):
    """The first stage makes the filesystem, with the UUID that the facts name; later ones run no mkfs."""
    pvc = volume(fs_type=fs_type)
    await pvc.create()
    await pvc.stage()
    facts = await pvc.facts()
    assert (facts.format, facts.fs_type, facts.inherited_uuid) == (FormatState.FORMATTED, fs_type, False)
    assert (pvc.filesystem.fs_type, pvc.filesystem.uuid) == (fs_type, facts.fs_uuid)
    await pvc.publish()
    pvc.write()
    await pvc.down()
    with tools_run() as tools:
        await pvc.stage()
        await pvc.publish()
    assert not MKFS & set(tools)
    assert (pvc.target / "data").read_bytes() == b"the workload's bytes"
    assert await pvc.facts() == facts
    await pvc.down()


@pytest.mark.gate("restage-keeps-bytes")
@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
async def test_unstage_and_restage_keep_a_guest_s_bytes(node, volume, fs_type):
    """Data is freed by DeleteVolume only: a direct volume has its bytes after any number of pod stops."""
    pvc = volume(direct=True, fs_type=fs_type)
    await pvc.up()
    pvc.guest_writes()
    for _ in range(2):
        await pvc.down()
        assert not pvc.attached
        await node.restart()
        with tools_run() as tools:
            await pvc.stage()
        assert not MKFS & set(tools)
        await pvc.publish()
        assert pvc.guest_reads() == b"the guest's bytes"
    await pvc.down()


async def test_a_block_volume_is_not_formatted(volume):
    """A raw volume is handed out as it is, and its bytes stay."""
    pvc = volume(access=AccessType.BLOCK)
    await pvc.up()
    assert (await pvc.facts()).format is FormatState.UNFORMATTED
    assert pvc.filesystem is None
    pvc.target.write_bytes(b"raw")
    await pvc.down()
    await pvc.stage()
    await pvc.publish()
    with pvc.target.open("rb") as device:
        assert device.read(3) == b"raw"
    await pvc.down()


# -- what somebody else put there ----------------------------------------------------------------------


def _partitions(disk):
    # An MBR with one Linux partition of 8 MiB, and the signature at its end.
    entry = bytes([0, 0, 2, 0, 0x83, 0, 2, 0]) + (2048).to_bytes(4, "little") + (16384).to_bytes(4, "little")
    _write(disk, 446, entry)
    _write(disk, 510, b"\x55\xaa")


def _write(disk, offset, data):
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _lvm2_member(disk):
    # The label of an LVM2 physical volume in sector 1: LABELONE, its sector, a checksum, the header's offset,
    # "LVM2 001" and the volume's UUID. The checksum is LVM's CRC-32 over what follows it.
    size = disk.stat().st_size
    body = (32).to_bytes(4, "little") + b"LVM2 001" + b"a" * 32 + size.to_bytes(8, "little")
    body += (MIB).to_bytes(8, "little") + bytes(8)  # the data area; its list ends with zeroes
    body = body.ljust(512 - 20, b"\0")
    crc = 0xF597A6CF
    for byte in body:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    label = b"LABELONE" + (1).to_bytes(8, "little") + crc.to_bytes(4, "little") + body
    _write(disk, 512, label)


FOREIGN = {
    "partition-table": _partitions,
    "lvm-label": _lvm2_member,
    "swap": lambda disk: blockdevices.run("mkswap", str(disk)),
    "ext4": lambda disk: blockdevices.run("mkfs.ext4", "-q", "-F", str(disk)),
    "luks": lambda disk: _write(disk, 0, b"LUKS\xba\xbe\x00\x02" + bytes(4088)),
    "first-byte": lambda disk: _write(disk, 0, b"x"),
    "last-byte": lambda disk: _write(disk, disk.stat().st_size - 1, b"x"),
    "end-of-first-mib": lambda disk: _write(disk, MIB - 1, b"x"),
    "database": lambda disk: _write(disk, 8192, b"a raw database"),
}


@pytest.mark.gate("foreign-content-is-never-formatted")
@pytest.mark.parametrize("what", FOREIGN)
async def test_foreign_content_is_refused_with_nothing_written(volume, what):
    """A volume that katacsi never formatted and that is not blank stays as it is, bit for bit."""
    pvc = volume()
    await pvc.create()
    FOREIGN[what](pvc.disk)
    before = content(pvc.disk)
    for _ in range(2):
        with tools_run() as tools, pytest.raises(ForeignContent, match="nothing was written"):
            await pvc.stage()
        assert not MKFS & set(tools)
    assert content(pvc.disk) == before
    assert (await pvc.facts()) == Facts()
    await pvc.unstage()
    await pvc.delete()


async def test_the_refusal_says_what_is_there(volume):
    """The person who has to decide reads what was found, and where."""
    pvc = volume()
    await pvc.create()
    blockdevices.run("mkswap", str(pvc.disk))
    with pytest.raises(ForeignContent, match="holds swap") as refusal:
        await pvc.stage()
    assert pvc.id in refusal.value.message
    assert str(pvc.device) in refusal.value.message
    await pvc.unstage()


async def test_a_raw_volume_s_data_is_not_formatted_over(volume):
    """A volume that a pod used raw is not formatted when somebody then wants a filesystem on it."""
    raw = volume(access=AccessType.BLOCK)
    await raw.up()
    raw.target.write_bytes(b"raw")
    await raw.down()
    mounting = volume(fs_type="ext4")
    mounting.id = raw.id
    with pytest.raises(Precondition, match="volumeMode Block"):
        await mounting.stage()
    with raw.disk.open("rb") as disk:
        assert disk.read(3) == b"raw"
    await mounting.unstage()


@pytest.mark.gate("probe-error-is-not-blank")
@pytest.mark.parametrize("where", ["start", "end"])
async def test_a_device_that_cannot_be_read_is_not_blank(node, volume, where, scratch, monkeypatch):
    """An I/O error in the probe is an error; the device is not formatted, and the facts say so."""
    pvc = volume(size=8 * MIB)
    await pvc.create()
    # The volume's device is one whose backing file has lost a piece: reads there are EIO.
    broken = blockdevices.sparse_file(scratch / "broken", 8 * MIB)
    _write(broken, 4 * MIB, b"x")
    with blockdevices.loop_device(broken) as device:
        os.truncate(broken, 7 * MIB if where == "end" else 0)
        backend = await node.driver.context.pools.holding(VolumeId.parse(pvc.id))

        async def attach(*_):
            return Device(device, 8 * MIB)

        async def is_blank(*_):
            return None

        monkeypatch.setattr(backend, "attach", attach)
        monkeypatch.setattr(backend, "is_blank", is_blank)
        with tools_run() as tools, pytest.raises(HostError):
            await pvc.stage()
        assert not MKFS & set(tools)
        assert await pvc.facts() == Facts()


async def test_a_device_of_another_size_is_not_touched(node, volume, scratch, monkeypatch):
    """A device that is not as large as its volume may be something else; nothing is written to it."""
    pvc = volume(size=16 * MIB)
    await pvc.create()
    other = blockdevices.sparse_file(scratch / "other", 8 * MIB)
    with blockdevices.loop_device(other) as device:
        backend = await node.driver.context.pools.holding(VolumeId.parse(pvc.id))

        async def attach(*_):
            return Device(device, 8 * MIB)

        monkeypatch.setattr(backend, "attach", attach)
        with pytest.raises(HostError, match="something else"):
            await pvc.stage()
        assert other.stat().st_blocks == 0


# -- crashes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("left", ["nothing", "all", "torn", "first-block"])
async def test_a_torn_mkfs_is_redone_with_the_same_uuid(node, volume, fs_type, left):
    """Whatever a crash inside mkfs left, the retry makes the filesystem that the facts name, once."""
    pvc = volume(fs_type=fs_type)
    await pvc.create()
    named = str(uuid.uuid4())
    await pvc.set_facts(format=FormatState.FORMATTING, fs_type=fs_type, fs_uuid=named)
    if left != "nothing":
        flags = {
            "ext4": ["-F", "-U", named],
            "xfs": ["-f", "-m", f"uuid={named}"],
            "btrfs": ["-f", "-U", named],
        }
        blockdevices.run(f"mkfs.{fs_type}", "-q", *flags[fs_type], str(pvc.disk))
    if left == "torn":
        # What mkfs writes last is not there yet; the superblock is.
        _write(pvc.disk, 128 << 10, bytes(MIB))
    elif left == "first-block":
        kept = pvc.disk.read_bytes()[: 68 << 10]
        pvc.disk.write_bytes(b"")
        os.truncate(pvc.disk, pvc.size)
        _write(pvc.disk, 0, kept)
    await pvc.stage()
    facts = await pvc.facts()
    assert (facts.format, facts.fs_uuid) == (FormatState.FORMATTED, named)
    assert pvc.filesystem.uuid == named
    await pvc.publish()
    pvc.write()
    await pvc.down()


@pytest.mark.gate("foreign-content-is-never-formatted")
@pytest.mark.parametrize("what", ["partition-table", "swap", "ext4"])
async def test_a_torn_mkfs_is_no_licence(node, volume, what):
    """While the facts say "formatting", something else on the device is still not overwritten."""
    pvc = volume()
    await pvc.create()
    await pvc.set_facts(format=FormatState.FORMATTING, fs_type="ext4", fs_uuid=str(uuid.uuid4()))
    FOREIGN[what](pvc.disk)
    before = content(pvc.disk)
    with pytest.raises(ForeignContent):
        await pvc.stage()
    assert content(pvc.disk) == before
    await pvc.unstage()


async def test_a_torn_mkfs_of_another_filesystem(node, volume):
    """The facts decide which filesystem is made; a call that asks for another is refused."""
    pvc = volume()
    await pvc.create()
    await pvc.set_facts(format=FormatState.FORMATTING, fs_type="xfs", fs_uuid=str(uuid.uuid4()))
    with tools_run() as tools, pytest.raises(Precondition, match="xfs"):
        await pvc.stage()
    assert not MKFS & set(tools)
    await pvc.unstage()


async def test_a_failed_mkfs_is_an_error_and_can_be_repeated(node, volume, monkeypatch):
    """When mkfs fails the volume is "formatting", not "formatted"; the next stage makes it, same UUID."""
    pvc = volume()
    await pvc.create()

    def fails(*_, **__):
        raise HostError("mkfs.ext4: killed")

    with monkeypatch.context() as patch:
        patch.setattr(mkfs, "make", fails)
        with pytest.raises(HostError, match="killed"):
            await pvc.stage()
    facts = await pvc.facts()
    assert facts.format is FormatState.FORMATTING
    await pvc.stage()
    assert (await pvc.facts()).fs_uuid == facts.fs_uuid == pvc.filesystem.uuid
    await pvc.unstage()


@pytest.mark.gate("formatted-but-blank-is-an-alarm")
@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
async def test_a_formatted_volume_that_is_blank_is_an_alarm(volume, fs_type):
    """Lost data is reported as lost; it is never covered by a fresh filesystem."""
    pvc = volume(fs_type=fs_type)
    await pvc.create()
    await pvc.stage()
    await pvc.unstage()
    os.truncate(pvc.disk, 0)
    os.truncate(pvc.disk, pvc.size)
    for _ in range(2):
        with tools_run() as tools, pytest.raises(DataLossAlarm, match="snapshot or a backup"):
            await pvc.stage()
        assert not MKFS & set(tools)
    assert pvc.disk.stat().st_blocks == 0
    assert (await pvc.facts()).format is FormatState.FORMATTED
    await pvc.unstage()


# -- another filesystem than the one that is there -----------------------------------------------------


@pytest.mark.gate("mismatched-filesystem-is-an-error")
async def test_another_filesystem_is_an_error(volume):
    """A volume keeps its filesystem: asking for another is refused, and nothing is written."""
    pvc = volume(size=304 * MIB)
    await pvc.create()
    await pvc.stage()
    await pvc.unstage()
    before = pvc.filesystem
    with tools_run() as tools, pytest.raises(Precondition, match="holds ext4, and xfs was asked for"):
        await pvc.stage(capability=pvc.capability(fs_type="xfs"))
    assert not MKFS & set(tools)
    assert pvc.filesystem == before
    await pvc.stage(capability=pvc.capability(fs_type=""))
    await pvc.unstage()


@pytest.mark.gate("mismatched-filesystem-is-an-error")
@pytest.mark.parametrize("made", ["mkfs.ext2", "mkswap"])
async def test_what_a_workload_made_of_its_volume_is_left(volume, made):
    """A guest that made another filesystem on its device keeps it; the stage says what is there."""
    pvc = volume(direct=True)
    await pvc.up()
    await pvc.down()
    blockdevices.run("wipefs", "--all", str(pvc.disk))
    blockdevices.run(made, str(pvc.disk))
    before = content(pvc.disk)
    with tools_run() as tools, pytest.raises(Precondition, match="instead of ext4") as refusal:
        await pvc.stage()
    assert ("ext2" if made == "mkfs.ext2" else "swap") in refusal.value.message
    assert not MKFS & set(tools)
    await pvc.unstage()
    assert content(pvc.disk) == before


# -- copies --------------------------------------------------------------------------------------------


async def test_a_copy_of_a_never_formatted_volume_is_unformatted(volume):
    """A snapshot of an empty volume restores to an empty volume that is formatted at first use, not lost."""
    pvc = volume()
    await pvc.create()
    snapshot = await pvc.snapshot()
    copy = volume("copy")
    view = await copy.create(snapshot)
    assert view.volume.facts == Facts()
    await copy.stage()
    assert (await copy.facts()).format is FormatState.FORMATTED
    await copy.unstage()


async def test_a_copy_of_a_torn_mkfs_is_redone(node, volume):
    """A copy inherits that its mkfs may be torn, and is made anew with the same UUID."""
    pvc = volume()
    await pvc.create()
    named = str(uuid.uuid4())
    await pvc.set_facts(format=FormatState.FORMATTING, fs_type="ext4", fs_uuid=named)
    copy = volume("copy")
    await copy.create(await pvc.snapshot())
    await copy.stage()
    assert (await copy.facts()).format is FormatState.FORMATTED
    await copy.publish()
    copy.write()
    await copy.down()


@pytest.mark.gate("copies-get-a-uuid-of-their-own")
@pytest.mark.parametrize("fs_type", ["ext4", "btrfs"])
async def test_a_copy_gets_a_uuid_of_its_own(volume, fs_type):
    """A restored volume can be mounted beside its source, with its bytes; a restage keeps the new UUID."""
    pvc = volume(fs_type=fs_type)
    await pvc.up()
    pvc.write()
    await pvc.unpublish()
    await pvc.unstage()
    copy = volume("copy", fs_type=fs_type)
    await copy.create(await pvc.snapshot())
    await pvc.stage()
    await pvc.publish()
    await copy.stage()
    facts = await copy.facts()
    assert facts.fs_uuid not in ("", (await pvc.facts()).fs_uuid)
    assert not facts.inherited_uuid
    assert copy.filesystem.uuid == facts.fs_uuid
    await copy.publish()
    assert (copy.target / "data").read_bytes() == b"the workload's bytes"
    await copy.down()
    await copy.stage()
    assert await copy.facts() == facts
    await copy.unstage()
    await pvc.down()


@pytest.mark.gate("host-never-mounts-what-a-guest-wrote")
async def test_a_copy_of_a_guest_s_ext4_gets_a_new_uuid_in_userspace(volume):
    """A dirty ext4 is replayed by e2fsck; no kernel of the host's ever mounts it."""
    pvc = volume(direct=True)
    await pvc.up()
    pvc.guest_writes()
    await pvc.down()
    copy = volume("copy", direct=True)
    await copy.create(await pvc.snapshot())
    assert (await copy.facts()).guest_written
    await copy.stage()
    assert (await copy.facts()).fs_uuid == copy.filesystem.uuid != (await pvc.facts()).fs_uuid
    await copy.publish()
    assert copy.guest_reads() == b"the guest's bytes"
    await copy.down()


async def _dirty_xfs_copy(node):
    """Make a volume from a snapshot that was cut while a guest had its xfs mounted and had written."""
    pvc = Volume(node, direct=True, fs_type="xfs")
    await pvc.up()
    with pvc.guest() as mounted:
        (mounted / "data").write_bytes(b"the guest's bytes")
        blockdevices.run("sync", "-f", mounted / "data")
        snapshot = await pvc.snapshot()
    copy = Volume(node, "copy", direct=True, fs_type="xfs")
    await copy.create(snapshot)
    return pvc, copy


@pytest.mark.gate("host-never-mounts-what-a-guest-wrote")
async def test_a_guest_s_dirty_xfs_keeps_its_uuid(reflink_node):
    """Only a mount could replay its log, so the copy keeps the UUID; its guest mounts it all the same."""
    pvc, copy = await _dirty_xfs_copy(reflink_node)
    await copy.stage()
    facts = await copy.facts()
    assert facts.inherited_uuid
    assert facts.guest_written
    assert copy.filesystem.uuid == (await pvc.facts()).fs_uuid
    await copy.publish()
    assert copy.guest_reads() == b"the guest's bytes"
    assert mounts_at(copy.staging) == 0
    await copy.down()
    await pvc.down()


async def test_an_xfs_copy_is_mounted_beside_its_source(volume):
    """xfs keeps its UUID, whose change no crash may interrupt; the copy is mounted `nouuid`."""
    pvc = volume(fs_type="xfs")
    await pvc.up()
    pvc.write()
    await pvc.unpublish()
    await pvc.unstage()
    copy = volume("copy", fs_type="xfs")
    await copy.create(await pvc.snapshot())
    await pvc.stage()
    await pvc.publish()
    await copy.stage()
    await copy.publish()
    (found,) = mounttable.at(copy.staging)
    assert "nouuid" in found.super_options
    assert (copy.target / "data").read_bytes() == b"the workload's bytes"
    await copy.down()
    await pvc.down()


async def test_a_kept_uuid_is_mounted_beside_its_source(reflink_node):
    """When the operator comes to trust guests, a copy that still has its source's UUID is mounted nouuid."""
    pvc, copy = await _dirty_xfs_copy(reflink_node)
    await copy.stage()
    assert (await copy.facts()).inherited_uuid
    await reflink_node.restart(guest_filesystems="allow")
    copy.context = {"katacsi.io/direct": "false"}
    with pvc.guest():
        await copy.publish()
        (found,) = mounttable.at(copy.staging)
        assert "nouuid" in found.super_options
        assert (copy.target / "data").read_bytes() == b"the guest's bytes"
        await copy.down()
    await pvc.down()


async def test_a_stage_at_one_path_with_another_filesystem(volume):
    """The kubelet is told when it asks for the same path in another way."""
    pvc = volume()
    await pvc.create()
    await pvc.stage()
    await pvc.stage()
    with pytest.raises(AlreadyExists, match="staged there as mount ext4"):
        await pvc.stage(capability=pvc.capability(mount_flags=("noatime",)))
    await pvc.unstage()


async def test_random_bytes_anywhere_are_not_formatted_over(volume):
    """Whatever lies on a volume protects it, wherever it lies."""
    generator = random.Random(7)
    for number in range(8):
        pvc = volume(f"pvc-{number}")
        await pvc.create()
        offset = generator.randrange(pvc.size)
        _write(pvc.disk, offset, bytes([generator.randrange(1, 256)]))
        before = content(pvc.disk)
        with pytest.raises((ForeignContent, KatacsiError)):
            await pvc.stage()
        assert content(pvc.disk) == before
        with contextlib.suppress(KatacsiError):
            await pvc.unstage()


def test_the_superblock_reader_sees_what_mkfs_made(scratch):
    """The tests' own eye is the one of the product; it is checked here against blkid."""
    disk = blockdevices.sparse_file(scratch / "disk", 16 * MIB)
    blockdevices.run("mkfs.ext4", "-q", str(disk))
    assert (
        superblock.read(disk).uuid
        == blockdevices.run("blkid", "-o", "value", "-s", "UUID", str(disk)).strip()
    )


@pytest.mark.parametrize("places", [1, 2])
async def test_no_more_filesystems_are_made_at_once_than_there_is_room_for(node, volume, monkeypatch, places):
    """The rest waits, with the facts saying that a format has begun, and holds up nobody else's steps."""
    monkeypatch.setattr(node.driver.staging._formatter, "_at_once", asyncio.Semaphore(places))
    running, most = [], []
    make = mkfs.make

    def counted(*arguments, **options):
        running.append(1)
        most.append(len(running))
        try:
            time.sleep(0.1)
            make(*arguments, **options)
        finally:
            running.pop()

    monkeypatch.setattr(mkfs, "make", counted)
    claims = [volume(f"pvc-{number}", direct=True) for number in range(4)]
    for pvc in claims:
        await pvc.create()
    await asyncio.gather(*(pvc.stage() for pvc in claims))
    assert max(most) == places
    for pvc in claims:
        assert (await pvc.facts()).format is FormatState.FORMATTED
