"""LVM on real device-mapper: the types of volume that the lvm backend offers, and their growth."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from support.blockdevices import MIB, mounted
from support.real_lvm import VG, lvcreate, lvs, run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("kind", "options", "pieces"),
    [
        ("linear", (), 1),
        ("striped", ("--stripes=2",), 2),
        ("raid1", ("--mirrors=1",), 2),
        ("raid5", ("--stripes=2",), 3),
        ("raid6", ("--stripes=3",), 5),
        ("raid10", ("--stripes=2", "--mirrors=1"), 4),
    ],
)
def test_each_type_of_volume_is_made(group, kind: str, options: tuple[str, ...], pieces: int) -> None:
    """A volume of each type has the size asked for, lies on as many disks as it takes, and keeps bytes."""
    group()
    device = lvcreate("volume", f"--type={kind}", *options, "--size=48M")
    assert int(run("blockdev", "--getsize64", device)) == 48 * MIB
    made = lvs("volume", "segtype", "devices")
    assert made["segtype"] in {kind, f"{kind}_ls", f"{kind}_zr"}  # how raid5 and raid6 place their parity
    assert len(made["devices"].split(",")) == pieces
    with device.open("r+b", buffering=0) as file:
        file.seek(47 * MIB)
        file.write(b"x" * 4096)
        os.fsync(file)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(47 * MIB)
        assert file.read(4096) == b"x" * 4096


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
def test_a_mounted_filesystem_grows_with_its_volume(group, scratch: Path, fs_type: str) -> None:
    """A volume is extended under a mounted filesystem, which then fills it."""
    group()
    device = lvcreate("volume", "--size=320M")
    run(f"mkfs.{fs_type}", "-q", device)
    with mounted(device, scratch / "mount") as root:
        before = os.statvfs(root).f_blocks
        run("lvextend", "--size=640M", f"{VG}/volume")
        match fs_type:
            case "ext4":
                run("resize2fs", device)
            case "xfs":
                run("xfs_growfs", root)
            case "btrfs":
                run("btrfs", "filesystem", "resize", "max", root)
        assert os.statvfs(root).f_blocks > 1.5 * before
