"""The tools for authors of backends: who has a disk, whose it is, its bytes zeroed, records that outlast."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from katacsi.backends.api import Device, StopSignal
from katacsi.backends.tools import (
    RecordFolder,
    devices,
    find_by_identity,
    identity_of,
    require_unheld,
    set_writable,
    size_of,
    zero,
)
from katacsi.errors import CorruptRecord, HostError, PoolNotSetUp, PoolUnavailable, StillWorking, VolumeInUse
from katacsi.host import block, loop
from katacsi.testing import blockio
from support import blockdevices

MIB = 1 << 20


@pytest.fixture
def disk(scratch):
    """A loop device of 8 MiB that holds data."""
    image = scratch / "disk.img"
    image.write_bytes(b"\xa5" * 8 * MIB)
    yield loop.attach(image, direct_io=False).path
    loop.ensure_detached(image)


def test_a_guest_that_has_a_disk_is_named(disk):
    """A process that has it open, without claiming it, is met; with nobody it is free."""
    require_unheld("volume a", disk)
    held = pytest.raises(VolumeInUse, match=f"volume a: {disk} is held by")
    with blockio.held_by_guest(Device(disk, 8 * MIB)), held:
        require_unheld("volume a", disk)
    require_unheld("volume a", disk)


def test_a_mounted_disk_is_refused(disk, scratch):
    """A mount has no descriptor; its claim tells."""
    blockdevices.run("mkfs.ext4", "-q", disk)
    with (
        blockdevices.mounted(disk, scratch / "here"),
        pytest.raises(VolumeInUse, match="mounted, or claimed"),
    ):
        require_unheld("volume a", disk)


def test_a_disk_that_is_gone_is_no_free_one(scratch):
    """What cannot be looked at is never called unheld, nor has it a size or an identity."""
    for look in (lambda disk: require_unheld("volume a", disk), size_of, identity_of, set_writable):
        with pytest.raises(HostError):
            look(scratch / "gone")


def test_the_read_only_flag_goes(disk):
    """What a read-only pod left behind does not meet the next user."""
    block.set_read_only(disk, True)
    set_writable(disk)
    assert not block.is_read_only(disk)


def test_a_disk_is_found_by_what_it_is(disk, scratch):
    """Under another name of the kernel it is the same disk, and another disk under its name is not."""
    image, other = scratch / "disk.img", scratch / "other.img"
    known = identity_of(disk)
    assert known.startswith("file:")
    loop.ensure_detached(image)
    other.write_bytes(b"\0" * 8 * MIB)
    under_its_name = loop.attach(other, direct_io=False).path
    try:
        moved = loop.attach(image, direct_io=False).path
        assert moved != under_its_name
        assert find_by_identity(known, [Path("/dev/gone"), under_its_name, moved]) == moved
        with pytest.raises(HostError, match=rf"there is no disk {known} .*{under_its_name} is another one"):
            find_by_identity(known, [under_its_name])
    finally:
        loop.ensure_detached(other)


def test_real_disks_have_identities():
    """The disk that this machine runs on is told from others, if anything tells it."""
    entries = [entry for entry in Path("/sys/block").iterdir() if (entry / "device").exists()]
    known = {}
    for entry in entries:
        with contextlib.suppress(HostError):
            known[entry] = identity_of(Path("/dev") / entry.name)
    if not known:
        pytest.skip("no disk of this machine has a WWID or a serial number")
    assert len(set(known.values())) == len(known)


async def test_zeroing_goes_on_where_it_stopped(disk, monkeypatch):
    """Each step is noted; at the end of the process it stops, and a later call begins at the note."""
    monkeypatch.setattr(devices, "STEP_BYTES", 2 * MIB)
    stopping, positions = StopSignal(), []

    async def noted(position):
        positions.append(position)
        if position == 4 * MIB:
            stopping.set()

    with pytest.raises(StillWorking, match="volume a: wiping"):
        await zero("volume a: wiping", disk, 0, 8 * MIB, stopping=stopping, noted=noted)
    assert positions == [2 * MIB, 4 * MIB]
    with disk.open("rb") as opened:
        content = opened.read()
    assert content[: 4 * MIB].count(0) == 4 * MIB
    assert content[4 * MIB :].count(0xA5) == 4 * MIB
    await zero("volume a: wiping", disk, positions[-1], 8 * MIB, stopping=StopSignal())
    assert block.reads_as_zero(disk, 0, 8 * MIB)


# -- records -----------------------------------------------------------------------------------------------


@pytest.fixture
def records(scratch):
    """Records of a pool that is open."""
    folder = RecordFolder(scratch / "state", "fast")
    folder.open(read_only=False)
    yield folder
    folder.close()


def test_records_outlast_the_process(records, scratch):
    """What was written is read by the next one, under the same identity."""
    records.write("a", {"size": 1})
    records.write("b", {"size": 2})
    records.remove("b")
    records.remove("b")
    uid = records.uid
    records.close()
    again = RecordFolder(scratch / "state", "fast")
    again.open(read_only=True)
    assert (again.uid, again.names()) == (uid, ["a"])
    assert again.read("a") == {"size": 1}
    assert again.read("b") is None


def test_one_driver_at_a_time(records, scratch, monkeypatch):
    """A second one is refused, with who holds the folder; a view is not."""
    monkeypatch.setattr("katacsi.backends.tools.poollock.TIMEOUT_S", 0.05)
    second = RecordFolder(scratch / "state", "fast")
    with pytest.raises(PoolUnavailable, match="served by another katacsi"):
        second.open(read_only=False)
    second.open(read_only=True)


def test_several_processes_can_share_a_folder(scratch):
    """Without `exclusive` a second one sees what the first wrote."""
    one, two = RecordFolder(scratch / "state", "fast"), RecordFolder(scratch / "state", "fast")
    one.open(read_only=False, exclusive=False)
    two.open(read_only=False, exclusive=False)
    one.write("a", {"size": 1})
    assert two.read("a") == {"size": 1}
    assert one.uid == two.uid


def test_an_unmounted_folder_is_not_empty(records, scratch):
    """Where the folder is another one, nothing is absent, and no new pool is founded over records."""
    records.write("a", {"size": 1})
    (scratch / "state").rename(scratch / "away")
    (scratch / "state").mkdir()
    for ask in (lambda: records.read("a"), records.names):
        with pytest.raises(PoolUnavailable, match="was its disk unmounted"):
            ask()
    (scratch / "state").rmdir()
    (scratch / "away").rename(scratch / "state")
    assert records.read("a") == {"size": 1}
    records.close()
    (scratch / "state" / "pool.json").unlink()
    with pytest.raises(PoolUnavailable, match=r"has records and no pool\.json"):
        RecordFolder(scratch / "state", "fast").open(read_only=False)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_damaged_record_is_not_an_absent_one(records, scratch, content):
    """It is refused by its name, and left as it is."""
    records.write("a", {"size": 1})
    file = scratch / "state" / "objects" / "a.json"
    file.write_bytes(content)
    with pytest.raises(CorruptRecord, match=str(file)):
        records.read("a")
    assert file.read_bytes() == content


def test_a_damaged_identity_is_not_replaced(records, scratch):
    """A pool whose identity cannot be read is not founded anew."""
    records.close()
    (scratch / "state" / "pool.json").write_text('{"uid": "no"}')
    with pytest.raises(CorruptRecord, match="is no identity"):
        RecordFolder(scratch / "state", "fast").open(read_only=False)
    os.truncate(scratch / "state" / "pool.json", 0)
    with pytest.raises(CorruptRecord):
        RecordFolder(scratch / "state", "fast").open(read_only=False)


def test_a_view_makes_nothing(scratch):
    """A pool that was never used is said to be one."""
    with pytest.raises(PoolNotSetUp, match="holds no pool"):
        RecordFolder(scratch / "state", "fast").open(read_only=True)
    assert not (scratch / "state").exists()
