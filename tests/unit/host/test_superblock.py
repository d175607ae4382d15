"""Reading superblocks, from image files that the real tools made."""

from __future__ import annotations

import os
import uuid

import pytest

from katacsi.errors import HostError
from katacsi.host import fsck, growth, mkfs, superblock
from support import blockdevices
from support.blockdevices import MIB

UUID = str(uuid.uuid4())  # mkfs.btrfs refuses one that any device of the host has
SIZES = {"ext4": 64 * MIB, "xfs": 300 * MIB, "btrfs": 128 * MIB}


@pytest.fixture
def image(tmp_path):
    def make(fs_type: str, size: int, *argv: str):
        blockdevices.need(f"mkfs.{fs_type}")
        file = blockdevices.sparse_file(tmp_path / "image", size)
        os.environ["PATH"] += ":/usr/sbin:/sbin"
        blockdevices.run(f"mkfs.{fs_type}", *argv, file)
        return file

    before = os.environ["PATH"]
    yield make
    os.environ["PATH"] = before


@pytest.mark.parametrize("fs_type", mkfs.SUPPORTED)
async def test_reads_what_mkfs_made(tmp_path, fs_type):
    """Type, UUID, size and block size are those that the filesystem was made with."""
    blockdevices.need(f"mkfs.{fs_type}")
    size = SIZES[fs_type]
    file = blockdevices.sparse_file(tmp_path / "image", size)
    mkfs.make(file, fs_type, UUID)
    found = superblock.read(file)
    assert found is not None
    assert (found.fs_type, found.uuid, found.size_bytes, found.block_size) == (fs_type, UUID, size, 4096)
    assert found.clean


@pytest.mark.parametrize("fs_type", ["ext2", "ext3", "ext4"])
def test_tells_the_ext_family_apart(image, fs_type):
    """The older members are called by their names, as blkid does."""
    found = superblock.read(image(fs_type, 64 * MIB, "-q", "-F"))
    assert found is not None
    assert found.fs_type == fs_type


@pytest.mark.parametrize("block_size", [1024, 2048, 4096])
def test_ext_sizes_are_bytes(image, block_size):
    """Blocks of other sizes are counted right, and so is the first block that small blocks leave out."""
    found = superblock.read(image("ext4", 64 * MIB, "-q", "-F", "-b", str(block_size)))
    assert found is not None
    assert (found.size_bytes, found.block_size) == (64 * MIB, block_size)


@pytest.mark.parametrize("feature", ["64bit", "^64bit"])
def test_more_blocks_than_32_bits_count(image, feature):
    """A filesystem over 16 TiB has its true size; where the upper half has no meaning it is not read."""
    # Files of that size are beyond most filesystems, so the number is written where mkfs would.
    file = image("ext4", 64 * MIB, "-q", "-F", "-O", f"none,filetype,extent,{feature}", "-b4096")
    with file.open("r+b") as raw:
        raw.seek(1024 + 0x150)
        raw.write(bytes([2]))
    above = 2 * 2**32 * 4096 if feature == "64bit" else 0
    assert superblock.read(file).size_bytes == above + 64 * MIB


@pytest.mark.parametrize("content", [b"", b"\0" * MIB, os.urandom(MIB), b"x" * 1100], ids=len)
def test_nothing_there_is_none(tmp_path, content):
    """A file that is empty, blank, random or short holds no filesystem."""
    file = tmp_path / "image"
    file.write_bytes(content)
    assert superblock.read(file) is None


@pytest.mark.parametrize("journal", [True, False])
def test_an_unclean_ext4_says_so(image, journal):
    """A filesystem that has a journal to replay, or was not unmounted, is not clean."""
    file = image("ext4", 64 * MIB, "-q", "-F", "-O", "none,has_journal,filetype,extent")
    assert superblock.read(file).clean
    with file.open("r+b") as raw:
        raw.seek(1024 + (0x60 if journal else 0x3A))
        flags = raw.read(1)[0]
        raw.seek(-1, os.SEEK_CUR)
        raw.write(bytes([flags | 4 if journal else flags & ~1]))
    assert not superblock.read(file).clean


@pytest.mark.gate("probe-error-is-not-blank")
def test_a_damaged_ext4_superblock_is_an_error(image):
    """A superblock whose checksum is wrong is neither believed nor taken for nothing."""
    file = image("ext4", 64 * MIB, "-q", "-F")
    with file.open("r+b") as raw:
        raw.seek(1024 + 0x68)
        raw.write(b"other uuid")
    with pytest.raises(HostError, match="does not match its checksum"):
        superblock.read(file)


@pytest.mark.gate("probe-error-is-not-blank")
@pytest.mark.parametrize(
    ("fs_type", "offset", "junk"),
    [
        ("ext4", 1024 + 0x18, b"\xff\xff\xff\xff"),
        ("ext4", 1024 + 0x20, b"\0\0\0\0"),
        ("xfs", 84, b"\0\0\0\0"),
        ("xfs", 4, b"\xff\xff\xff\xff"),
        ("btrfs", 65536 + 0x90, b"\0\0\0\0"),
    ],
)
def test_nonsense_is_an_error(tmp_path, fs_type, offset, junk):
    """Numbers that no filesystem has are an error of that device, whatever a tenant wrote there."""
    magic = {"ext4": (1024 + 0x38, b"\x53\xef"), "xfs": (0, b"XFSB"), "btrfs": (65536 + 0x40, b"_BHRfS_M")}
    content = bytearray(128 << 10)
    for position, what in (magic[fs_type], (offset, junk)):
        content[position : position + len(what)] = what
    file = tmp_path / "image"
    file.write_bytes(content)
    with pytest.raises(HostError, match="makes no sense"):
        superblock.read(file)


@pytest.mark.gate("probe-error-is-not-blank")
@pytest.mark.parametrize("what", ["missing", "directory"])
def test_what_cannot_be_read_is_an_error(tmp_path, what):
    """A device that cannot be opened or read is not said to hold nothing."""
    with pytest.raises(HostError, match="cannot be"):
        superblock.read(tmp_path if what == "directory" else tmp_path / "missing")


@pytest.mark.parametrize(
    "size", [8 * MIB, 127 * MIB, 128 * MIB, 129 * MIB, 256 * MIB + 4096, 300 * MIB + 512]
)
@pytest.mark.parametrize("options", [(), ("-T", "largefile"), ("-I", "512")], ids=str)
async def test_ext4_fills_what_mkfs_gave_it(tmp_path, size, options):
    """A fresh filesystem counts as full, also where the last group had no room; and growing starts exactly
    where the tool would grow it."""
    blockdevices.need("mkfs.ext4", "resize2fs")
    file = blockdevices.sparse_file(tmp_path / "image", size)
    mkfs.make(file, "ext4", UUID, options=options, zeroed=True)
    fresh = superblock.read(file)
    assert growth.fills(fresh, size)
    for device_size, grows in (
        (fresh.size_bytes + fresh.growth_step - 4096, False),
        (fresh.size_bytes + fresh.growth_step, True),
    ):
        os.truncate(file, device_size)
        assert growth.fills(fresh, device_size) is not grows
        fsck.check_offline(file, "ext4")
        growth.grow_offline(file, "ext4")
        grown = superblock.read(file)
        assert (grown.size_bytes > fresh.size_bytes) is grows
        assert growth.fills(grown, device_size)


@pytest.mark.parametrize("fs_type", ["xfs", "btrfs"])
async def test_a_rest_no_block_fits_in_is_full(tmp_path, fs_type):
    """A device that is larger by less than a block does not call for growth."""
    blockdevices.need(f"mkfs.{fs_type}")
    size = SIZES[fs_type] + 512
    file = blockdevices.sparse_file(tmp_path / "image", size)
    mkfs.make(file, fs_type, UUID)
    assert growth.fills(superblock.read(file), size)
    assert not growth.fills(superblock.read(file), size + 4 * MIB)


async def test_a_device_that_lost_its_end_is_an_error(tmp_path):
    """A filesystem larger than its device is never said to be fine."""
    blockdevices.need("mkfs.ext4")
    file = blockdevices.sparse_file(tmp_path / "image", 64 * MIB)
    mkfs.make(file, "ext4", UUID)
    with pytest.raises(HostError, match="device of only"):
        growth.fills(superblock.read(file), 64 * MIB - 4096)
