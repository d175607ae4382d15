"""Block devices, with loop devices for disks."""

import subprocess
from pathlib import Path

import pytest

from katacsi.errors import HostError, VolumeInUse
from katacsi.host import block, holders, loop, mount, sizedfiles, targets

MIB = 1 << 20
SIZE = 16 * MIB


@pytest.fixture
def disk(scratch):
    """A blank disk of 16 MiB."""
    return from_file(scratch / "disk.img", SIZE)


@pytest.fixture(autouse=True)
def _detach(scratch):
    yield
    for file in scratch.glob("*.img"):
        loop.ensure_detached(file)


def from_file(file, size):
    """Make a disk of this size out of a new file."""
    sizedfiles.create_sized(file, size, thick=False)
    return loop.attach(file).path


def write_at(disk, offset, data):
    """Write to a disk and have it on the medium."""
    with disk.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


def test_size_and_number_are_those_of_the_device(disk):
    """Size in bytes and (major, minor), also by another node of the same device."""
    assert block.size_bytes(disk) == SIZE
    assert block.device_number(disk) == (7, int(disk.name.removeprefix("loop")))


@pytest.mark.parametrize(
    "ask",
    [
        block.size_bytes,
        block.is_read_only,
        block.device_number,
        block.ends_are_zero,
        holders.now,
        block.drop_caches,
    ],
    ids=lambda ask: ask.__name__,
)
@pytest.mark.timeout(20)
def test_what_is_no_block_device_is_an_error(scratch, ask):
    """A file, a character device, a FIFO, an absent path: none of them is a device of size 0, or blank."""
    (scratch / "file").write_bytes(bytes(2 * MIB))
    subprocess.run(["mkfifo", scratch / "fifo"], check=True)
    for path in (scratch / "file", scratch / "fifo", Path("/dev/zero"), scratch / "absent", scratch):
        with pytest.raises(HostError, match=str(path)):
            ask(path)


def test_a_read_only_device_refuses_writes(disk):
    """The flag makes the kernel refuse, can be read back, and goes again."""
    block.set_read_only(disk, True)
    assert block.is_read_only(disk)
    with pytest.raises(PermissionError), disk.open("r+b", buffering=0) as stream:
        stream.write(b"x")
    block.set_read_only(disk, False)
    assert not block.is_read_only(disk)
    write_at(disk, 0, b"x")


@pytest.mark.parametrize(
    ("offset", "blank"),
    [
        (0, False),
        (MIB - 1, False),
        (MIB, True),
        (SIZE - MIB - 1, True),
        (SIZE - MIB, False),
        (SIZE - 1, False),
    ],
)
def test_one_byte_at_either_end_is_seen(disk, offset, blank):
    """The first and the last MiB are looked at to their last byte, what lies between is not."""
    assert block.ends_are_zero(disk)
    write_at(disk, offset, b"\x01")
    assert block.ends_are_zero(disk) is blank


def test_a_disk_smaller_than_both_ends_is_read_whole(scratch):
    """Of a disk under 2 MiB every byte counts, and none is read beyond its end."""
    disk = from_file(scratch / "small.img", MIB + 8192)
    assert block.ends_are_zero(disk)
    write_at(disk, MIB // 2 + 4096, b"\x01")
    assert not block.ends_are_zero(disk)


@pytest.mark.gate("probe-error-is-not-blank")
def test_a_disk_that_cannot_be_read_is_not_blank(scratch):
    """Where the medium answers with an error, so do we: the file behind the disk lost its last MiB."""
    disk = from_file(scratch / "torn.img", SIZE)
    with (scratch / "torn.img").open("r+b") as stream:
        stream.truncate(SIZE - MIB)
    with pytest.raises(HostError, match=str(disk)):
        block.ends_are_zero(disk)


def test_a_disk_in_use_is_not_judged_and_not_zeroed(disk, scratch):
    """What is mounted is neither called blank nor written to."""
    mounted = mounted_at(disk, scratch)
    try:
        with pytest.raises(VolumeInUse, match=str(disk)):
            block.ends_are_zero(disk)
        with pytest.raises(VolumeInUse, match=str(disk)):
            block.zero_out(disk, 0, MIB)
    finally:
        mount.unmount(mounted)
    assert not block.ends_are_zero(disk)


def mounted_at(disk, scratch):
    """Make an ext4 and mount it; give where."""
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    targets.ensure_target_directory(scratch / "mounted")
    mount.mount_filesystem(disk, scratch / "mounted", "ext4", [])
    return scratch / "mounted"


def test_zeroing_zeroes_what_was_asked_for(disk):
    """Bytes in the range read as zero afterwards, those around it as before."""
    write_at(disk, 0, b"\xff" * SIZE)
    block.zero_out(disk, 4 * MIB, 8 * MIB)
    content = disk.read_bytes()
    assert content[: 4 * MIB] == b"\xff" * (4 * MIB)
    assert content[4 * MIB : 12 * MIB] == bytes(8 * MIB)
    assert content[12 * MIB :] == b"\xff" * (4 * MIB)


def test_zeroing_beyond_the_end_is_an_error(disk):
    """A wrong range is not cut to fit."""
    with pytest.raises(HostError):
        block.zero_out(disk, SIZE - MIB, 2 * MIB)


def test_dropped_caches_are_written_first(disk, scratch):
    """What a process wrote and did not sync is in the file afterwards, while the device stays open."""
    with disk.open("r+b") as stream:
        stream.write(b"not synced")
        stream.flush()
        block.drop_caches(disk)
        assert (scratch / "disk.img").read_bytes()[:10] == b"not synced"
        assert sizedfiles.has_data(scratch / "disk.img")
