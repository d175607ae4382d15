"""Checking and growing real filesystems."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

import pytest

from katacsi.errors import HostError, Unsupported
from katacsi.host import command, growth, mkfs, superblock
from support import blockdevices
from support.blockdevices import MIB

UUID = str(uuid.uuid4())  # mkfs.btrfs refuses one that any device of the host has
CAP_SYS_RESOURCE = 24


def capable(number: int) -> bool:
    effective = re.search(r"^CapEff:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)[1]
    return bool(int(effective, 16) >> number & 1)


@pytest.fixture
def file(scratch):
    return blockdevices.sparse_file(scratch / "image", 320 * MIB)


@pytest.fixture
def device(file):
    with blockdevices.loop_device(file) as device:
        yield device


async def test_ext4_grows_unmounted(device, file, scratch):
    """An unmounted ext4 fills its device afterwards and keeps its files; done already is success."""
    mkfs.make(device, "ext4", UUID, zeroed=True)
    with blockdevices.mounted(device, scratch / "mount") as root:
        (root / "file").write_text("kept")
    blockdevices.resize(file, device, 900 * MIB)
    assert not growth.fills(superblock.read(device), 900 * MIB)
    for _ in range(2):
        growth.grow_offline(device, "ext4")
        assert growth.fills(superblock.read(device), 900 * MIB)
    with blockdevices.mounted(device, scratch / "mount") as root:
        assert (root / "file").read_text() == "kept"


@pytest.mark.parametrize("sizes", [(320, 321), (320, 700), (320, 800), (512, 513)], ids=str)
@pytest.mark.parametrize("fs_type", ["xfs", "btrfs"])
async def test_xfs_and_btrfs_grow_mounted(device, file, scratch, fs_type, sizes):
    """A mounted xfs or btrfs fills its device afterwards, whatever the new size; done already is success."""
    blockdevices.need(f"mkfs.{fs_type}")
    before, after = (size * MIB for size in sizes)
    blockdevices.resize(file, device, before)
    mkfs.make(device, fs_type, UUID)
    with blockdevices.mounted(device, scratch / "mount") as root:
        (root / "file").write_text("kept")
        total = os.statvfs(root).f_blocks
        blockdevices.resize(file, device, after)
        for _ in range(2):
            growth.grow_mounted(device, root, fs_type)
            assert os.statvfs(root).f_blocks > total
        assert (root / "file").read_text() == "kept"
    assert growth.fills(superblock.read(device), after)


@pytest.mark.parametrize("rest", [1, 63, 64])
async def test_xfs_leaves_a_rest_that_is_no_group(device, file, scratch, rest):
    """A rest too small for an allocation group is neither an error nor growth that is still due."""
    blockdevices.need("mkfs.xfs")
    mkfs.make(device, "xfs", UUID, options=("-d", "agsize=80m"))
    size = 400 * MIB + rest * 4096
    with blockdevices.mounted(device, scratch / "mount") as root:
        blockdevices.resize(file, device, size)
        for _ in range(2):
            growth.grow_mounted(device, root, "xfs")
    grown = superblock.read(device)
    assert grown.size_bytes == (size if rest == 64 else 400 * MIB)
    assert growth.fills(grown, size)


async def test_xfs_grown_by_us_is_sound(device, file, scratch):
    """The kernel is asked for growth as xfs_growfs asks it: the checker finds nothing, the settings stay."""
    blockdevices.need("mkfs.xfs", "xfs_repair", "xfs_db")
    mkfs.make(device, "xfs", UUID, options=("-i", "maxpct=7"))
    with blockdevices.mounted(device, scratch / "mount") as root:
        blockdevices.resize(file, device, 1000 * MIB)
        growth.grow_mounted(device, root, "xfs")
    blockdevices.run("xfs_repair", "-n", device)
    assert "= 7\n" in blockdevices.run("xfs_db", "-r", "-c", "sb 0", "-c", "print imax_pct", device)


async def test_ext4_grows_mounted(device, file, scratch):
    """A mounted ext4 fills its device afterwards; done already is success."""
    if not capable(CAP_SYS_RESOURCE):
        pytest.skip("ext4 grows mounted only with CAP_SYS_RESOURCE, which this machine withholds")
    mkfs.make(device, "ext4", UUID)
    with blockdevices.mounted(device, scratch / "mount") as root:
        blockdevices.resize(file, device, 900 * MIB)
        for _ in range(2):
            growth.grow_mounted(device, root, "ext4")
    assert growth.fills(superblock.read(device), 900 * MIB)


async def test_a_missing_capability_is_named(device, file, scratch):
    """Where the kernel refuses to grow a mounted ext4, the error names what the container lacks."""
    if capable(CAP_SYS_RESOURCE):
        pytest.skip("this process has CAP_SYS_RESOURCE, so nothing is refused")
    mkfs.make(device, "ext4", UUID)
    with blockdevices.mounted(device, scratch / "mount") as root:
        blockdevices.resize(file, device, 900 * MIB)
        with pytest.raises(HostError, match="CAP_SYS_RESOURCE"):
            growth.grow_mounted(device, root, "ext4")


@pytest.mark.parametrize("fs_type", ["xfs", "btrfs"])
async def test_only_ext4_grows_unmounted(device, fs_type):
    """Asked to grow another filesystem without a mount we say so, and which one could."""
    with pytest.raises(Unsupported, match="ext4 can grow unmounted"):
        growth.grow_offline(device, fs_type)


async def test_unknown_filesystems_do_not_grow(device, scratch):
    """A type that nobody here grows is refused before anything is asked of the kernel."""
    with pytest.raises(Unsupported, match="vfat"):
        growth.grow_mounted(device, scratch, "vfat")


async def test_check_replays_the_journal(device, scratch):
    """A copy of an ext4 in use is consistent after the check, with what had been synced."""
    mkfs.make(device, "ext4", UUID)
    with blockdevices.mounted(device, scratch / "mount") as root:
        (root / "file").write_text("kept")
        os.sync()
        (root / "other").touch()
        descriptor = os.open(root, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        copy = scratch / "copy"
        blockdevices.run("cp", scratch / "image", copy)
    assert not superblock.read(copy).clean
    growth.check_offline(copy, "ext4")
    assert superblock.read(copy).clean
    with blockdevices.loop_device(copy) as other, blockdevices.mounted(other, scratch / "mount") as root:
        assert (root / "file").read_text() == "kept"
        assert (root / "other").exists()


@pytest.mark.parametrize("fs_type", ["xfs", "btrfs"])
async def test_check_leaves_other_filesystems_alone(device, fs_type):
    """Nothing is run on a filesystem that repairs itself at mount."""
    growth.check_offline(Path("/nowhere"), fs_type)


@pytest.mark.gate("mismatched-filesystem-is-an-error")
@pytest.mark.parametrize("step", [growth.check_offline, growth.grow_offline])
async def test_another_filesystem_is_left_untouched(device, file, step):
    """Taken for an ext4, another filesystem is an error and keeps every byte."""
    blockdevices.need("mkfs.xfs")
    mkfs.make(device, "xfs", UUID)
    before = blockdevices.run("sha256sum", file)
    with pytest.raises(command.CommandError, match="e2fsck"):
        step(device, "ext4")
    assert blockdevices.run("sha256sum", file) == before


async def test_damage_that_needs_a_person_is_an_error(device, file):
    """Errors that e2fsck would have to guess about are reported, not guessed about."""
    mkfs.make(device, "ext4", UUID)
    with device.open("r+b") as raw:
        raw.seek(4096)
        raw.write(b"\xff" * 4096 * 12)
    with pytest.raises(command.CommandError, match=r"e2fsck: exit code [4-9]"):
        growth.check_offline(device, "ext4")
