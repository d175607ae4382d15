"""What is made, and which options users may add."""

from __future__ import annotations

import re
import uuid

import pytest

from katacsi.errors import InvalidRequest
from katacsi.host import command, mkfs, superblock
from support import blockdevices
from support.blockdevices import MIB

UUID = str(uuid.uuid4())  # mkfs.btrfs refuses one that any device of the host has

# What Linux 5.10 mounts, by the names that dumpe2fs and xfs_db print.
EXT4_OF_5_10 = {
    *("has_journal", "ext_attr", "resize_inode", "dir_index", "filetype", "extent", "64bit", "flex_bg"),
    *("sparse_super", "large_file", "huge_file", "dir_nlink", "extra_isize", "metadata_csum"),
}
XFS_LATER_THAN_5_10 = {"NREXT64", "EXCHANGE", "PARENT", "METADIR", "ZONED"}


async def ext4_features(file) -> set[str]:
    said = command.run(["dumpe2fs", "-h", file], timeout_s=10)
    return set(re.search(r"^Filesystem features: (.*)$", said.stdout.decode(), re.MULTILINE)[1].split())


@pytest.mark.parametrize("zeroed", [True, False])
async def test_ext4_has_only_what_older_kernels_mount(tmp_path, zeroed):
    """The features do not depend on the installed tool, so an older guest kernel mounts the volume."""
    blockdevices.need("mkfs.ext4", "dumpe2fs")
    file = blockdevices.sparse_file(tmp_path / "image", 64 * MIB)
    mkfs.make(file, "ext4", UUID, zeroed=zeroed)
    assert await ext4_features(file) == EXT4_OF_5_10


async def test_xfs_has_only_what_older_kernels_mount(tmp_path):
    """Features that newer tools turn on by themselves are off."""
    blockdevices.need("mkfs.xfs", "xfs_db")
    file = blockdevices.sparse_file(tmp_path / "image", 300 * MIB)
    mkfs.make(file, "xfs", UUID)
    said = command.run(["xfs_db", "-r", "-c", "version", file], timeout_s=10)
    assert not XFS_LATER_THAN_5_10 & set(re.split(r"[,=\s]+", said.stdout.decode()))


async def test_ext4_on_blank_storage_stays_thin(tmp_path):
    """Of a large blank volume hardly anything is written, and nothing is left for the guest to clear."""
    blockdevices.need("mkfs.ext4", "dumpe2fs")
    file = blockdevices.sparse_file(tmp_path / "image", 4096 * MIB)
    mkfs.make(file, "ext4", UUID, zeroed=True)
    assert file.stat().st_blocks * 512 < 8 * MIB
    said = (command.run(["dumpe2fs", file], timeout_s=10)).stdout.decode()
    assert said.count("ITABLE_ZEROED") == said.count(": (Blocks ") == 32


async def test_ext4_clears_its_journal_where_old_data_may_lie(tmp_path):
    """Without the proof that a device is blank, a former tenant's journal does not survive in ours."""
    blockdevices.need("mkfs.ext4", "debugfs")
    file = tmp_path / "image"
    file.write_bytes(b"\xc0\x3b\x39\x98" * (16 * MIB))
    mkfs.make(file, "ext4", UUID)
    journal = command.run(["debugfs", "-R", "cat <8>", file], timeout_s=10)
    assert not journal.stdout[4096:].strip(b"\0")


async def test_no_blocks_are_kept_for_root(tmp_path):
    """All of a volume is the user's."""
    blockdevices.need("mkfs.ext4", "dumpe2fs")
    file = blockdevices.sparse_file(tmp_path / "image", 64 * MIB)
    mkfs.make(file, "ext4", UUID)
    said = command.run(["dumpe2fs", "-h", file], timeout_s=10)
    assert re.search(rb"^Reserved block count: +0$", said.stdout, re.MULTILINE)


@pytest.mark.parametrize("fs_type", mkfs.SUPPORTED)
async def test_making_again_ends_in_the_same_filesystem(tmp_path, fs_type):
    """A mkfs that a crash cut off is repeated over what it left, without a question."""
    blockdevices.need(f"mkfs.{fs_type}")
    file = blockdevices.sparse_file(tmp_path / "image", 300 * MIB)
    for _ in range(2):
        mkfs.make(file, fs_type, UUID)
    found = superblock.read(file)
    assert (found.fs_type, found.uuid) == (fs_type, UUID)


@pytest.mark.parametrize("fs_type", mkfs.SUPPORTED)
async def test_the_minimum_size_is_enough(tmp_path, fs_type):
    """At the smallest size that we accept the tool makes a filesystem, with a journal."""
    blockdevices.need(f"mkfs.{fs_type}", "dumpe2fs")
    file = blockdevices.sparse_file(tmp_path / "image", mkfs.minimum_size(fs_type))
    mkfs.make(file, fs_type, UUID)
    assert superblock.read(file).fs_type == fs_type
    if fs_type == "ext4":
        assert "has_journal" in await ext4_features(file)


@pytest.mark.parametrize("fs_type", ["xfs", "btrfs"])
async def test_the_minimum_size_is_the_tools_own(tmp_path, fs_type):
    """Below the smallest size that we accept the tool refuses: we turn nobody away without need."""
    blockdevices.need(f"mkfs.{fs_type}")
    file = blockdevices.sparse_file(tmp_path / "image", mkfs.minimum_size(fs_type) - 4096)
    with pytest.raises(command.CommandError):
        mkfs.make(file, fs_type, UUID)


async def test_users_options_join_ours(tmp_path):
    """A user's features and extended options are added to ours instead of replacing them."""
    blockdevices.need("mkfs.ext4", "dumpe2fs")
    file = blockdevices.sparse_file(tmp_path / "image", 64 * MIB)
    options = mkfs.validate_options("ext4", "-O project,^resize_inode -E stride=4 -m 5 -I 512")
    mkfs.make(file, "ext4", UUID, options=options, zeroed=True)
    assert await ext4_features(file) == EXT4_OF_5_10 - {"resize_inode"} | {"project"}
    assert superblock.read(file).uuid == UUID
    assert file.stat().st_blocks * 512 < MIB


@pytest.mark.parametrize(
    "options", ["-i nrext64=1", "-i nrext64=0 -m reflink=0,rmapbt=1", "-l size=80m -d agcount=3"]
)
async def test_xfs_takes_users_options(tmp_path, options):
    """A user may also ask for what we leave out by default; nothing is named twice."""
    blockdevices.need("mkfs.xfs")
    file = blockdevices.sparse_file(tmp_path / "image", 400 * MIB)
    mkfs.make(file, "xfs", UUID, options=mkfs.validate_options("xfs", options))
    assert superblock.read(file).uuid == UUID


async def test_btrfs_takes_users_options(tmp_path):
    """A user's profile and checksum reach mkfs.btrfs."""
    blockdevices.need("mkfs.btrfs")
    file = blockdevices.sparse_file(tmp_path / "image", 256 * MIB)
    options = mkfs.validate_options("btrfs", "-m single --csum xxhash -O ^no-holes")
    mkfs.make(file, "btrfs", UUID, options=options)
    assert superblock.read(file).uuid == UUID


@pytest.mark.parametrize(
    ("fs_type", "text"),
    [
        ("ext4", ""),
        ("ext4", "  -i 4096   -m 1 "),
        ("ext4", "-E stride=16,stripe_width=64 -e remount-ro"),
        ("xfs", "-m reflink=0 -d su=64k,sw=4"),
        ("btrfs", "-n 16k"),
    ],
)
def test_legal_options(fs_type, text):
    """Options that shape a filesystem are passed on word by word."""
    assert mkfs.validate_options(fs_type, text) == tuple(text.split())


@pytest.mark.parametrize(
    ("fs_type", "text"),
    [
        ("ext4", "-F"),
        ("ext4", "-U clear"),
        ("ext4", "-L name"),
        ("ext4", "-n"),
        ("ext4", "-t ext2"),
        ("ext4", "-b 1024"),
        ("ext4", "-e panic"),
        ("ext4", "-E discard"),
        ("ext4", "-E offset=4096"),
        ("ext4", "-E root_owner=0:0"),
        ("ext4", "-O journal_dev"),
        ("ext4", "-O none"),
        ("ext4", "-J device=/dev/sda"),
        ("ext4", "-i 4096,4096"),
        ("ext4", "-i 4096 -i 8192"),
        ("ext4", "-i"),
        ("ext4", "-m 1 /dev/sda"),
        ("ext4", "/dev/sda"),
        ("ext4", "-d /etc"),
        ("ext4", "-z /tmp/undo"),
        ("ext4", "-m 1;id"),
        ("ext4", "-m $(id)"),
        ("ext4", "-m1"),
        ("ext4", "-i \u0661"),
        ("ext4", "-m 51"),
        ("xfs", "-f -K"),
        ("xfs", "-m uuid=00000000-0000-0000-0000-000000000000"),
        ("xfs", "-m crc=0"),
        ("xfs", "-L name"),
        ("xfs", "-d name=/dev/sda"),
        ("xfs", "-d file"),
        ("xfs", "-l logdev=/dev/sda"),
        ("xfs", "-r rtdev=/dev/sda"),
        ("xfs", "-s size=512"),
        ("xfs", "-c options=/etc/passwd"),
        ("xfs", "-p /etc"),
        ("btrfs", "-U 0"),
        ("btrfs", "-f -f"),
        ("btrfs", "-d raid1"),
        ("btrfs", "-r /etc"),
        ("btrfs", "--rootdir /etc"),
    ],
)
def test_illegal_options(fs_type, text):
    """What names a UUID, label, device or file, or forces, is refused, and the message says what is legal."""
    with pytest.raises(ValueError, match=r"legal|twice"):
        mkfs.validate_options(fs_type, text)


@pytest.mark.parametrize("fs_type", ["", "ext3", "vfat", "../ext4"])
async def test_other_filesystems_are_refused(tmp_path, fs_type):
    """Nothing is run for a type that katacsi does not know."""
    for call in (mkfs.minimum_size, lambda name: mkfs.validate_options(name, "")):
        with pytest.raises(InvalidRequest):
            call(fs_type)
    with pytest.raises(InvalidRequest):
        mkfs.make(tmp_path / "image", fs_type, UUID)


async def test_a_tool_is_asked_once_about_itself(tmp_path, monkeypatch):
    """Making many filesystems costs one command each, after the first."""
    blockdevices.need("mkfs.ext4")
    file = blockdevices.sparse_file(tmp_path / "image", 64 * MIB)
    mkfs.make(file, "ext4", UUID, zeroed=True)
    commands = []
    run = command.run

    def count(argv, **options):
        commands.append(argv)
        return run(argv, **options)

    monkeypatch.setattr(command, "run", count)
    mkfs.make(file, "ext4", UUID, zeroed=True)
    assert len(commands) == 1
