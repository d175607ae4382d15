"""Making filesystems on devices."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from katacsi.host import command, mkfs, superblock
from support import blockdevices
from support.blockdevices import MIB

UUID = str(uuid.uuid4())  # mkfs.btrfs refuses one that any device of the host has


@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize("fs_type", mkfs.SUPPORTED)
async def test_mounts_on_devices_of_either_sector_size(scratch, fs_type, sector_size):
    """What is made on a device with sectors of 512 bytes mounts on one with 4096, too, as a copy may be."""
    blockdevices.need(f"mkfs.{fs_type}")
    file = blockdevices.sparse_file(scratch / "image", 320 * MIB)
    with blockdevices.loop_device(file, sector_size=sector_size) as device:
        mkfs.make(device, fs_type, UUID, zeroed=True)
    for size in (512, 4096):
        with (
            blockdevices.loop_device(file, sector_size=size) as device,
            blockdevices.mounted(device, scratch / "mount") as root,
        ):
            (root / "file").write_text("kept")
    assert superblock.read(file).uuid == UUID


@pytest.mark.parametrize("fs_type", mkfs.SUPPORTED)
async def test_making_again_on_a_device(scratch, fs_type):
    """A mkfs that a crash cut off is repeated with the same UUID, at once, on the same device."""
    blockdevices.need(f"mkfs.{fs_type}")
    file = blockdevices.sparse_file(scratch / "image", 320 * MIB)
    for _ in range(2):
        with blockdevices.loop_device(file) as device:
            for _ in range(2):
                mkfs.make(device, fs_type, UUID)
                assert superblock.read(device).uuid == UUID
            blockdevices.run("blkid", device)  # leaves a note in libblkid's cache
        blockdevices.sparse_file(file, 0)
        blockdevices.sparse_file(file, 320 * MIB)


@pytest.mark.parametrize("zeroed", [False, True])
async def test_nothing_of_a_volume_is_kept_on_the_node(scratch, zeroed):
    """mke2fs saves what it overwrites of an ext4 in /var/lib/e2fsprogs, where a host has that folder."""
    blockdevices.need("mkfs.ext4")
    file = blockdevices.sparse_file(scratch / "image", 64 * MIB)
    kept = Path("/var/lib/e2fsprogs")
    absent = not kept.exists()
    kept.mkdir(exist_ok=True)
    try:
        before = set(kept.iterdir())
        with blockdevices.loop_device(file) as device:
            for _ in range(2):
                mkfs.make(device, "ext4", UUID, zeroed=zeroed)
        left = set(kept.iterdir()) - before
        for undo in left:
            undo.unlink()
        assert not left
    finally:
        if absent:
            kept.rmdir()


@pytest.mark.parametrize("fs_type", mkfs.SUPPORTED)
async def test_a_thick_volume_stays_thick(scratch, fs_type):
    """mkfs gives no allocated block back to the pool."""
    blockdevices.need(f"mkfs.{fs_type}")
    file = scratch / "image"
    blockdevices.run("fallocate", "-l", str(320 * MIB), file)
    with blockdevices.loop_device(file) as device:
        mkfs.make(device, fs_type, UUID)
    assert file.stat().st_blocks * 512 >= 320 * MIB


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
async def test_a_mounted_device_is_refused(scratch, fs_type):
    """Nothing is made over a filesystem in use, although mkfs is told not to ask."""
    blockdevices.need(f"mkfs.{fs_type}")
    file = blockdevices.sparse_file(scratch / "image", 320 * MIB)
    with blockdevices.loop_device(file) as device:
        mkfs.make(device, "ext4", UUID)
        with blockdevices.mounted(device, scratch / "mount") as root:
            (root / "file").write_text("kept")
            with pytest.raises(command.CommandError):
                mkfs.make(device, fs_type, UUID)
            assert (root / "file").read_text() == "kept"
        with blockdevices.mounted(device, scratch / "mount") as root:
            assert (root / "file").read_text() == "kept"
