"""Checking and growing real filesystems."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from pathlib import Path

import pytest

from katacsi.errors import HostError, NotProvenSound, Precondition, Unsupported
from katacsi.host import command, fsck, growth, mkfs, superblock
from support import blockdevices, killed
from support.blockdevices import MIB

UUID = str(uuid.uuid4())  # mkfs.btrfs refuses one that any device of the host has
CAP_SYS_RESOURCE = 24


def capable(number: int) -> bool:
    effective = re.search(r"^CapEff:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)[1]
    return bool(int(effective, 16) >> number & 1)


def grow_unmounted(device):
    """As a caller does it: checked, then grown."""
    fsck.check_offline(device, "ext4")
    growth.grow_offline(device, "ext4")


def populate(root):
    """Make files of many sizes with gaps between them; give what they hold."""
    for number in range(200):
        (root / f"file {number}").write_bytes(os.urandom(3000 + 400 * (number % 50)))
    for number in range(0, 200, 3):
        (root / f"file {number}").unlink()
    return contents(root)


def contents(root):
    return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}


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
        grow_unmounted(device)
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
        with pytest.raises(Precondition, match="CAP_SYS_RESOURCE"):
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


@pytest.mark.gate("a-cut-off-growth-mends-itself")
async def test_ext4_grows_beyond_what_its_mkfs_foresaw(device, file, scratch):
    """More than 1024 times the size of its making: resize2fs alone, in one go, would lose the files."""
    blockdevices.resize(file, device, 64 * MIB)
    mkfs.make(device, "ext4", UUID, zeroed=True)
    with blockdevices.mounted(device, scratch / "mount") as root:
        before = populate(root)
    size = 80 * 1024 * MIB
    assert superblock.read(device).reserve_bytes == 1024 * 64 * MIB
    blockdevices.resize(file, device, size)
    grow_unmounted(device)
    assert growth.fills(superblock.read(device), size)
    blockdevices.run("e2fsck", "-f", "-n", device)
    with blockdevices.mounted(device, scratch / "mount") as root:
        assert contents(root) == before


@pytest.mark.gate("a-cut-off-growth-mends-itself")
@pytest.mark.parametrize(
    ("before", "after", "writes"),
    [(64, 1024, (2, 3, *range(5, 99, 5))), (200, 4096, range(3, 99, 12))],
    ids=["of-one-group", "of-two-groups"],
)
async def test_a_growth_that_is_killed_is_mended_and_goes_on(scratch, before, after, writes):
    """Killed before any of its writes, resize2fs leaves what is mended with all files, and grows then."""
    image, copy = blockdevices.sparse_file(scratch / "image", before * MIB), scratch / "copy"
    with blockdevices.loop_device(image) as device:
        mkfs.make(device, "ext4", UUID, zeroed=True)
        with blockdevices.mounted(device, scratch / "mount") as root:
            held = populate(root)
        fsck.check_offline(device, "ext4")
    unsound = 0
    for number in writes:
        blockdevices.run("cp", "--sparse=always", image, copy)
        blockdevices.sparse_file(copy, after * MIB)
        with blockdevices.loop_device(copy) as device:
            if not killed.killed_at_write(["resize2fs", device], number):
                break
            unsound += not looks_sound(device)
            fsck.repair_offline(device)
            grow_unmounted(device)
            assert growth.fills(superblock.read(device), after * MIB), number
            with blockdevices.mounted(device, scratch / "mount") as root:
                assert contents(root) == held, number
        copy.unlink()
    assert unsound > 1


async def test_a_growth_that_fails_says_that_the_filesystem_is_sound(device, file, monkeypatch):
    """Nothing happened to it: a caller may go on with the size that it had."""
    mkfs.make(device, "ext4", UUID)
    blockdevices.resize(file, device, 900 * MIB)
    fails(monkeypatch, lambda: None)
    with pytest.raises(HostError, match=r"is sound.*No luck") as caught:
        growth.grow_offline(device, "ext4")
    assert not isinstance(caught.value, NotProvenSound)


async def test_a_growth_that_fails_and_leaves_faults_is_not_taken_for_usable(device, file, monkeypatch):
    """The error says that nobody may mount it; the repair that its caller may ask for mends it."""
    mkfs.make(device, "ext4", UUID)
    blockdevices.resize(file, device, 900 * MIB)
    fsck.check_offline(device, "ext4")
    fails(monkeypatch, lambda: killed.killed_at_write(["resize2fs", device], 20))
    with pytest.raises(NotProvenSound, match="nobody may mount it"):
        growth.grow_offline(device, "ext4")
    monkeypatch.undo()
    fsck.repair_offline(device)
    grow_unmounted(device)
    assert growth.fills(superblock.read(device), 900 * MIB)


def looks_sound(device):
    asked = subprocess.run(["e2fsck", "-f", "-n", device], capture_output=True, check=False)
    return asked.returncode == 0


def fails(monkeypatch, meanwhile):
    """Have resize2fs fail, after something else has happened."""
    run = command.run

    def failing(argv, **how):
        if argv[0] != "resize2fs":
            return run(argv, **how)
        meanwhile()
        raise command.CommandError("resize2fs", 1, "exit code 1", "No luck")

    monkeypatch.setattr(command, "run", failing)
