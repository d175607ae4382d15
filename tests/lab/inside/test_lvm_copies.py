"""LVM on real device-mapper: snapshots, and mirrors that lose a disk."""

from __future__ import annotations

import os
from pathlib import Path

from support.blockdevices import mounted
from support.real_lvm import VG, health, is_in_sync, lvcreate, lvs, pull, pullable, run, wait_for


def test_a_thin_volume_and_its_snapshot(group, scratch: Path) -> None:
    """A thin volume may be larger than its pool; its snapshot keeps the bytes of its moment."""
    group()
    lvcreate("pool", "--type=thin-pool", "--size=200M")
    device = lvcreate("thin", "--type=thin", "--thinpool=pool", "--virtualsize=1G")
    run("mkfs.ext4", "-q", device)
    with mounted(device, scratch / "thin") as root:
        (root / "file").write_text("then")
        # LVM freezes the filesystem meanwhile, so what was written before is in the snapshot.
        run("lvcreate", "--yes", "--snapshot", "--setactivationskip=n", "--name=moment", f"{VG}/thin")
        (root / "file").write_text("now")
    with mounted(Path("/dev", VG, "moment"), scratch / "moment") as root:
        assert (root / "file").read_text() == "then"
    with mounted(device, scratch / "thin") as root:
        assert (root / "file").read_text() == "now"
    assert 0 < float(lvs("pool", "data_percent")["data_percent"]) < 100


def test_a_thick_snapshot_keeps_its_moment(group) -> None:
    """A copy-on-write snapshot of a thick volume shows what the volume held when it was made."""
    group()
    device = lvcreate("thick", "--size=32M")
    device.write_bytes(b"then" * 1024)
    snapshot = lvcreate("moment", "--snapshot", "--size=16M", source=f"{VG}/thick")
    device.write_bytes(b"late" * 1024)
    with snapshot.open("rb") as file:
        assert file.read(4096) == b"then" * 1024


def test_a_mirror_survives_a_pulled_disk(group, disks: list[Path], scratch: Path) -> None:
    """A raid1 volume goes on without one of its disks, LVM says so, and a third disk makes it whole."""
    with pullable(disks[0]) as doomed:
        group(doomed, disks[1], disks[2])
        device = lvcreate("mirror", "--type=raid1", "--mirrors=1", "--size=32M", doomed, disks[1])
        wait_for(lambda: is_in_sync("mirror"))
        assert health("mirror") == ""
        run("mkfs.ext4", "-q", device)
        with mounted(device, scratch / "mount") as root:
            (root / "file").write_text("kept")
            pull(doomed)
            (root / "other").write_text("written without it")
            os.sync()
            assert health("mirror") == "partial"
            assert lvs("mirror", "vg_missing_pv_count")["vg_missing_pv_count"] == "1"
            run("lvconvert", "--yes", "--repair", f"{VG}/mirror", disks[2])
            run("vgreduce", "--removemissing", VG)
            wait_for(lambda: is_in_sync("mirror"))
            assert health("mirror") == ""
            assert (root / "file").read_text() == "kept"


def test_a_mirror_without_a_disk_is_activated_degraded(group, disks: list[Path]) -> None:
    """A raid1 volume whose disk is gone at start is activated all the same, with the bytes it had."""
    with pullable(disks[0]) as doomed:
        group(doomed, disks[1])
        device = lvcreate("mirror", "--type=raid1", "--mirrors=1", "--size=32M")
        wait_for(lambda: is_in_sync("mirror"))
        device.write_bytes(b"kept" * 1024)
        run("lvchange", "-an", f"{VG}/mirror")
        pull(doomed)
        run("lvchange", "-ay", "--activationmode=degraded", f"{VG}/mirror")
        with device.open("rb") as file:
            assert file.read(4096) == b"kept" * 1024
        assert health("mirror") == "partial"
