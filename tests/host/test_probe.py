"""What blkid finds, and what it must not be believed."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import uuid

import pytest

from katacsi.errors import HostError
from katacsi.host import mkfs, probe, superblock
from support import blockdevices
from support.blockdevices import MIB

UUID = str(uuid.uuid4())  # mkfs.btrfs refuses one that any device of the host has
# fs/ext4/ext4.h: EXT4_IOC_SHUTDOWN; the flag leaves the log as it is
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
# Linux's swap header: version 1, last page 99. A DOS table with one partition of 2048 sectors.
SWAP_HEADER = bytes(1024) + struct.pack("<II", 1, 99)
DOS_TABLE = bytes(446) + struct.pack("<B3sB3sII", 0, b"", 0x83, b"", 2048, 2048) + bytes(48) + b"\x55\xaa"


def blkid(path) -> int:
    """The exit code alone, as others read it."""
    return subprocess.run(["blkid", "-p", path], capture_output=True, check=False).returncode


@pytest.fixture
def file(scratch):
    return blockdevices.sparse_file(scratch / "image", 400 * MIB)


@pytest.fixture
def device(file):
    with blockdevices.loop_device(file) as device:
        yield device


async def test_nothing_on_a_blank_device(device):
    """A blank device that can be read is proven to hold no signature."""
    assert probe.signature(device) is None


async def test_nothing_on_a_tiny_device(scratch):
    """The ends of a device shorter than they usually are can be read, too."""
    with blockdevices.loop_device(blockdevices.sparse_file(scratch / "image", 8192)) as device:
        assert probe.signature(device) is None


@pytest.mark.parametrize("fs_type", mkfs.SUPPORTED)
async def test_finds_filesystems(device, fs_type):
    """A filesystem is told with its type and UUID, as our own reader tells it."""
    blockdevices.need(f"mkfs.{fs_type}")
    mkfs.make(device, fs_type, UUID)
    found = probe.signature(device)
    assert (found.type, found.usage, found.uuid, found.pttype) == (fs_type, "filesystem", UUID, "")
    assert superblock.read(device).uuid == UUID


@pytest.mark.gate("mismatched-filesystem-is-an-error")
@pytest.mark.parametrize(
    ("offset", "content", "expected"),
    [
        (4086, b"SWAPSPACE2", probe.Signature(type="swap", usage="other")),
        (0, b"LUKS\xba\xbe\0\1", probe.Signature(type="crypto_LUKS", usage="crypto")),
        (0, DOS_TABLE, probe.Signature(pttype="dos")),
    ],
    ids=["swap", "luks", "partitions"],
)
async def test_finds_what_is_no_filesystem_of_ours(device, offset, content, expected):
    """Swap, an encrypted volume or a partition table is content: a device with one is not blank."""
    with device.open("r+b") as raw:
        raw.write(SWAP_HEADER if expected.type == "swap" else b"")
        raw.seek(offset)
        raw.write(content)
    found = probe.signature(device)
    assert found is not None
    assert (found.type, found.usage, found.pttype) == (expected.type, expected.usage, expected.pttype)


@pytest.mark.gate("probe-error-is-not-blank")
async def test_contradicting_signatures_are_an_error(device, file):
    """A device that two filesystems claim is left to a person."""
    blockdevices.need("mkfs.xfs")
    mkfs.make(device, "ext4", UUID)
    with file.open("rb") as raw:
        raw.seek(1024)
        ext = raw.read(1024)
    mkfs.make(device, "xfs", UUID)
    with device.open("r+b") as raw:
        raw.seek(1024)
        raw.write(ext)
    assert blkid(device) == 8
    with pytest.raises(HostError, match="contradict"):
        probe.signature(device)


@pytest.mark.gate("probe-error-is-not-blank")
@pytest.mark.parametrize("what", ["missing", "directory", "detached", "empty"])
async def test_what_cannot_be_probed_is_an_error(scratch, what):
    """Where blkid says "nothing" because it could not look, there is an error and no None."""
    path = scratch / "node"
    if what == "directory":
        path.mkdir()
    elif what == "empty":
        path.touch()
    elif what == "detached":
        with blockdevices.loop_device(blockdevices.sparse_file(scratch / "image", MIB)) as path:
            pass
    assert blkid(path) == 2
    with pytest.raises(HostError, match=r"cannot be|gives less"):
        probe.signature(path)


@pytest.mark.gate("probe-error-is-not-blank")
async def test_a_device_with_read_errors_is_not_blank(device, scratch):
    """A filesystem on a device that fails to read is not taken for nothing, as blkid alone would."""
    # An ext4 that was shut down answers every read with EIO, and so does a loop device over a file in it.
    mkfs.make(device, "ext4", UUID)
    with blockdevices.mounted(device, scratch / "outer") as outer:
        inner_file = blockdevices.sparse_file(outer / "inner", 64 * MIB)
        with blockdevices.loop_device(inner_file) as inner:
            mkfs.make(inner, "ext4", UUID)
            assert (probe.signature(inner)).uuid == UUID
            descriptor = os.open(outer, os.O_RDONLY)
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("=I", NO_LOG_FLUSH))
            os.close(descriptor)
            assert blkid(inner) == 2
            with pytest.raises(HostError, match="Input/output error"):
                probe.signature(inner)
            with pytest.raises(HostError, match="Input/output error"):
                superblock.read(inner)
