"""Checking and mending real filesystems that nobody has mounted."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from katacsi.errors import Damaged, HostError, NotProvenSound
from katacsi.host import command, fsck, mkfs, superblock
from support import blockdevices
from support.blockdevices import MIB

UUID = str(uuid.uuid4())


@pytest.fixture
def file(scratch):
    return blockdevices.sparse_file(scratch / "image", 320 * MIB)


@pytest.fixture
def device(file):
    with blockdevices.loop_device(file) as device:
        yield device


def debugfs(device, request):
    blockdevices.run("debugfs", "-w", "-R", request, device)


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
    fsck.check_offline(copy, "ext4")
    assert superblock.read(copy).clean
    with blockdevices.loop_device(copy) as other, blockdevices.mounted(other, scratch / "mount") as root:
        assert (root / "file").read_text() == "kept"
        assert (root / "other").exists()


@pytest.mark.parametrize("fs_type", ["xfs", "btrfs"])
async def test_check_leaves_other_filesystems_alone(device, fs_type):
    """Nothing is run on a filesystem that repairs itself at mount."""
    fsck.check_offline(Path("/nowhere"), fs_type)


@pytest.mark.gate("mismatched-filesystem-is-an-error")
async def test_another_filesystem_is_left_untouched(device, file):
    """Taken for an ext4, another filesystem is an error and keeps every byte."""
    blockdevices.need("mkfs.xfs")
    mkfs.make(device, "xfs", UUID)
    before = blockdevices.run("sha256sum", file)
    with pytest.raises(command.CommandError, match="e2fsck"):
        fsck.check_offline(device, "ext4")
    with pytest.raises(NotProvenSound, match="e2fsck"):
        fsck.repair_offline(device)
    assert blockdevices.run("sha256sum", file) == before


async def test_damage_that_needs_a_person_is_an_error(device, file):
    """Errors that e2fsck would have to guess about are reported in words, not guessed about."""
    mkfs.make(device, "ext4", UUID)
    with device.open("r+b") as raw:
        raw.seek(4096)
        raw.write(b"\xff" * 4096 * 12)
    with pytest.raises(Damaged, match=f"{device}: .*a person must look at"):
        fsck.check_offline(device, "ext4")


@pytest.mark.parametrize("damage", ["shared-block", "lost-inode"])
async def test_a_repair_after_a_growth_guesses_about_nothing_else(device, scratch, damage):
    """A fault that no growth makes is left as it is, with the question that a person has to answer."""
    mkfs.make(device, "ext4", UUID)
    with blockdevices.mounted(device, scratch / "mount") as root:
        for name in ("one", "two"):
            (root / name).write_bytes(os.urandom(64 << 10))
        (root / "folder").mkdir()
        (root / "folder" / "inner").write_text("kept")
    if damage == "shared-block":
        blocks = blockdevices.run("debugfs", "-R", "blocks /one", device).split()
        debugfs(device, f"sif /two block[5] {int(blocks[0])}")  # the start of its only extent
    else:
        debugfs(device, "unlink /one")
    before = blockdevices.run("debugfs", "-R", "ls -l /", device)
    with pytest.raises(Damaged, match=r"a person must look at: .*\?"):
        fsck.repair_offline(device)
    assert blockdevices.run("debugfs", "-R", "ls -l /", device) == before


async def test_a_superblock_that_was_cut_off_is_mended(scratch):
    """Of a filesystem of one group there is no copy; its words are right, its checksum is the old one."""
    image = blockdevices.sparse_file(scratch / "image", 64 * MIB)
    with blockdevices.loop_device(image) as device:
        mkfs.make(device, "ext4", UUID)
        with device.open("r+b") as raw:
            raw.seek(superblock.EXT_OFFSET + 0x3A)
            raw.write(b"\3")  # the mark that resize2fs sets first
        with pytest.raises(HostError, match="checksum"):
            superblock.read(device)
        fsck.repair_offline(device)
        assert superblock.read(device).clean


async def test_another_who_looks_at_each_loop_device_is_waited_for(device, monkeypatch):
    """Whoever searches for a free one claims each for a moment; a tool that met that is run again."""
    mkfs.make(device, "ext4", UUID)
    claimed = os.open(device, os.O_RDONLY | os.O_EXCL)
    monkeypatch.setattr(fsck.time, "sleep", lambda _: os.close(claimed))
    fsck.check_offline(device, "ext4")


async def test_who_stays_is_an_error(device, monkeypatch):
    """A device that is claimed for good is not checked, and not called damaged."""
    mkfs.make(device, "ext4", UUID)
    claimed = os.open(device, os.O_RDONLY | os.O_EXCL)
    monkeypatch.setattr(fsck.time, "sleep", lambda _: None)
    with pytest.raises(command.CommandError, match="in use"):
        fsck.check_offline(device, "ext4")
    os.close(claimed)
