"""New UUIDs for copies."""

from __future__ import annotations

import os
import uuid

import pytest

from katacsi.errors import HostError, Unsupported
from katacsi.host import block, command, mkfs, superblock, uuids
from support import blockdevices
from support.blockdevices import MIB

OLD = str(uuid.uuid4())  # mkfs.btrfs refuses one that any device of the host has
NEW = str(uuid.uuid4())
RENEWED = ["ext4", "btrfs"]


@pytest.fixture(autouse=True)
def replay_directory(scratch, monkeypatch):
    """Log replays mount below the test's own folder."""
    directory = scratch / "replay"
    monkeypatch.setattr(uuids, "REPLAY_DIRECTORY", directory)
    directory.mkdir()
    yield directory
    assert list(directory.iterdir()) == []


@pytest.fixture
async def make(scratch):
    async def make(fs_type: str, **options):
        blockdevices.need(f"mkfs.{fs_type}")
        file = blockdevices.sparse_file(scratch / "source", 320 * MIB)
        with blockdevices.loop_device(file) as device:
            mkfs.make(device, fs_type, OLD, **options)
        return file

    return make


@pytest.fixture
async def copy_in_use(scratch, make):
    """Copies a filesystem while it is mounted, with a file that only its log knows."""

    async def copy(fs_type: str):
        with (
            blockdevices.loop_device(await make(fs_type)) as device,
            blockdevices.mounted(device, scratch / "mount") as root,
        ):
            (root / "file").write_text("kept")
            os.sync()
            with (root / "logged").open("w") as logged:
                logged.write("kept")
                logged.flush()
                os.fsync(logged.fileno())
            blockdevices.run("cp", scratch / "source", scratch / "copy")
        return scratch / "copy"

    return copy


@pytest.mark.parametrize("fs_type", RENEWED)
async def test_an_idle_copy_gets_its_uuid(make, scratch, fs_type):
    """The UUID of a copy that was not in use changes without a mount; done already is success."""
    with blockdevices.loop_device(await make(fs_type)) as device:
        for _ in range(2):
            uuids.renew(device, fs_type, NEW, may_mount=False)
            assert superblock.read(device).uuid == NEW
        with blockdevices.mounted(device, scratch / "mount"):
            assert blockdevices.run("blkid", "-p", "-s", "UUID", "-o", "value", device).strip() == NEW


@pytest.mark.parametrize("fs_type", RENEWED)
async def test_a_copy_of_a_volume_in_use_keeps_what_was_synced(copy_in_use, scratch, fs_type):
    """A copy taken under load gets its UUID, and what was synced before the cut, log included."""
    with blockdevices.loop_device(await copy_in_use(fs_type)) as device:
        assert not superblock.read(device).clean
        uuids.renew(device, fs_type, NEW, may_mount=True)
        with blockdevices.mounted(device, scratch / "mount") as root:
            assert (root / "file").read_text() == "kept"
            assert (root / "logged").read_text() == "kept"


async def test_copy_and_source_mount_side_by_side(copy_in_use, scratch):
    """Renewed while its source is mounted, a copy can be mounted on the same host."""
    copy = await copy_in_use("ext4")
    with (
        blockdevices.loop_device(scratch / "source") as source,
        blockdevices.mounted(source, scratch / "source-mount"),
        blockdevices.loop_device(copy) as device,
    ):
        uuids.renew(device, "ext4", NEW, may_mount=True)
        with blockdevices.mounted(device, scratch / "mount") as root:
            assert (root / "logged").read_text() == "kept"


async def test_no_mount_where_none_is_allowed(copy_in_use):
    """A copy that only a mount could bring in order keeps its UUID if mounting is not allowed."""
    copy = await copy_in_use("btrfs")
    before = blockdevices.run("sha256sum", copy)
    with blockdevices.loop_device(copy) as device:
        with pytest.raises(Unsupported, match="guest_filesystems"):
            uuids.renew(device, "btrfs", NEW, may_mount=False)
        assert superblock.read(device).uuid == OLD
    assert blockdevices.run("sha256sum", copy) == before


async def test_a_cut_off_replay_is_taken_up(copy_in_use, replay_directory):
    """What a crash left mounted for the log's sake does not stop the retry."""
    with blockdevices.loop_device(await copy_in_use("btrfs")) as device:
        major, minor = block.device_number(device)
        left = replay_directory / f"log-replay-{major}-{minor}"
        left.mkdir()
        blockdevices.run("mount", device, left)
        uuids.renew(device, "btrfs", NEW, may_mount=True)
        assert superblock.read(device).uuid == NEW


async def test_ext4_metadata_is_not_written_anew(make):
    """A copy's new UUID costs a write of the superblock, not of all that its checksums cover."""
    file = await make("ext4", zeroed=True)
    copied = file.with_name("before")
    blockdevices.run("cp", file, copied)
    with blockdevices.loop_device(file) as device:
        uuids.renew(device, "ext4", NEW, may_mount=False)
    differences = [block for block in range(0, 320 * MIB, MIB) if _read(file, block) != _read(copied, block)]
    # The superblock and its copies, one for each group of 128 MiB.
    assert set(differences) <= {0, 128 * MIB}
    blockdevices.run("e2fsck", "-f", "-n", file)


def _read(file, offset):
    with file.open("rb") as raw:
        raw.seek(offset)
        return raw.read(MIB)


async def test_ext4_without_checksums(make):
    """A filesystem of a user who wanted no checksums gets its UUID as well."""
    with blockdevices.loop_device(await make("ext4", options=("-O", "^metadata_csum"))) as device:
        uuids.renew(device, "ext4", NEW, may_mount=False)
        assert superblock.read(device).uuid == NEW
        blockdevices.run("e2fsck", "-f", "-n", device)


@pytest.mark.parametrize(("fs_type", "tool"), [("ext4", "tune2fs"), ("btrfs", "btrfstune")])
async def test_success_that_a_tool_only_claims_is_found_out(make, monkeypatch, fs_type, tool):
    """Exit code 0 is no proof: the UUID is read back."""
    run = command.run

    def pretend(argv, **options):
        return run(["true"] if argv[0] == tool else argv, **options)

    with blockdevices.loop_device(await make(fs_type)) as device:
        monkeypatch.setattr(command, "run", pretend)
        with pytest.raises(HostError, match="did not take the UUID"):
            uuids.renew(device, fs_type, NEW, may_mount=True)


async def test_xfs_keeps_its_uuid(make):
    """No tool touches it: the one that there is cannot be interrupted."""
    file = await make("xfs")
    before = blockdevices.run("sha256sum", file)
    with blockdevices.loop_device(file) as device, pytest.raises(Unsupported, match="xfs"):
        uuids.renew(device, "xfs", NEW, may_mount=True)
    assert blockdevices.run("sha256sum", file) == before


async def test_other_filesystems_are_refused(scratch):
    """Nothing is run for a type that katacsi does not know."""
    with pytest.raises(Unsupported, match="vfat"):
        uuids.renew(scratch / "device", "vfat", NEW, may_mount=True)
