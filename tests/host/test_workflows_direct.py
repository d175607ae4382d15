"""Publishing to a Kata guest: a guard at the target, a record for the runtime, the device for the guest."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from katacsi.backends.api import FormatState
from katacsi.directvolume.names import entry_name
from katacsi.errors import (
    AlreadyExists,
    HostError,
    InvalidRequest,
    OperationPending,
    Precondition,
    VolumeInUse,
)
from katacsi.host import block, mount, mounttable
from katacsi.model import AccessMode, AccessType
from katacsi.testing import leaks
from katacsi.volumes.locks import volume_lock
from support import blockdevices
from support.node import Volume, live_go_sandbox, mounts_at, tools_run

PROBES = {"blkid", "e2fsck", "resize2fs", "tune2fs", "xfs_admin", "btrfstune", "mkfs.ext4", "mkfs.xfs"}


@pytest.fixture
def direct(volume):
    """Make a direct volume."""
    return lambda name="pvc-1", **other: volume(name, **{"direct": True} | other)


# -- what Kata is told ---------------------------------------------------------------------------------


@pytest.mark.gate("record-json-for-both-runtimes")
@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
async def test_the_record_of_a_volume(node, direct, fs_type):
    """The record says exactly what both runtimes need, where they look, and is readable to root alone."""
    pvc = direct(fs_type=fs_type)
    await pvc.up()
    file = node.record_file(pvc.target)
    assert file == node.records / entry_name(str(pvc.target)) / "mountInfo.json"
    assert file.read_text() == json.dumps(
        {"volume-type": "directvol", "device": str(pvc.device), "fstype": fs_type}, separators=(",", ":")
    )
    assert [path.name for path in file.parent.iterdir()] == ["mountInfo.json"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in (node.records, file.parent, file)] == [
        0o700,
        0o700,
        0o600,
    ]
    await pvc.down()
    assert list(node.records.iterdir()) == []


@pytest.mark.gate("record-json-for-both-runtimes")
async def test_flags_group_and_read_only_of_the_record(node, direct):
    """Mount flags reach the guest without what only a host knows; the group too, unless read-only."""
    pvc = direct(
        mount_flags=("noatime", "_netdev", "rw", "discard,nodev"),
        mount_group="4711",
        parameters={"katacsi.io/fs-group-change-policy": "Always"},
    )
    await pvc.up()
    record = node.record(pvc.target)
    assert record["options"] == ["noatime", "discard", "nodev"]
    assert record["metadata"] == {"fsGroup": "4711", "fsGroupChangePolicy": "Always"}
    assert not block.is_read_only(pvc.device)
    await pvc.unpublish()
    await pvc.publish(read_only=True)
    record = node.record(pvc.target)
    assert record["options"] == ["ro", "noatime", "discard", "nodev"]
    assert "metadata" not in record
    assert block.is_read_only(pvc.device)
    await pvc.unpublish()
    await pvc.publish()
    assert not block.is_read_only(pvc.device)
    await pvc.down()


@pytest.mark.parametrize(
    ("group", "policy", "metadata"),
    [
        ("", "", None),
        ("4711", "", {"fsGroup": "4711", "fsGroupChangePolicy": "OnRootMismatch"}),
        ("4711", "None", None),
        ("0", "Always", None),
    ],
)
async def test_the_group_goes_to_the_guest_and_to_the_root(node, direct, group, policy, metadata):
    """The group is in the record's metadata by its policy, and the volume's root belongs to it."""
    pvc = direct(
        mount_group=group, parameters={"katacsi.io/fs-group-change-policy": policy} if policy else {}
    )
    await pvc.up()
    assert node.record(pvc.target).get("metadata") == metadata
    with pvc.guest() as mounted:
        assert mounted.stat().st_gid == (4711 if metadata else 0)
    assert pvc.target.parent.stat().st_gid == 0
    await pvc.down()


@pytest.mark.gate("no-user-key-reaches-metadata")
async def test_no_key_of_a_user_reaches_kata(node, direct):
    """A static volume's context is a user's; of it only katacsi's own keys count, and none is in a record."""
    pvc = direct()
    await pvc.create()
    pvc.context = {
        **pvc.context,
        "createFilesystem": "true",
        "encryptionKey": "secret",
        "fsGroup": "0",
        "csi.storage.k8s.io/serviceAccount.tokens": "token",
    }
    await pvc.stage()
    await pvc.publish(secrets={"password": "hunter2"})
    assert set(node.record(pvc.target)) == {"volume-type", "device", "fstype"}
    await pvc.down()


# -- the guard -----------------------------------------------------------------------------------------


@pytest.mark.gate("a-missed-record-ends-in-erofs")
async def test_the_host_s_folder_cannot_be_written(direct):
    """Whoever misses the record meets a read-only filesystem that names the volume, not the node's disk."""
    pvc = direct()
    await pvc.up()
    (found,) = mounttable.at(pvc.target)
    assert (found.fs_type, found.source) == ("tmpfs", f"katacsi:{pvc.id}")
    with pytest.raises(OSError, match="Read-only") as refusal:
        (pvc.target / "data").touch()
    assert refusal.value.errno == errno.EROFS
    with pytest.raises(OSError, match="Read-only"):
        (pvc.target / "subpath").mkdir()
    assert list(pvc.target.iterdir()) == []
    await pvc.down()
    assert not pvc.target.exists()


@pytest.mark.gate("host-never-mounts-what-a-guest-wrote")
async def test_nothing_on_the_host_has_the_filesystem(direct):
    """Neither stage nor publish mounts a direct volume on the host, whatever is retried."""
    pvc = direct()
    await pvc.create()
    for _ in range(2):
        await pvc.stage()
        await pvc.publish()
        assert mounts_at(pvc.staging) == 0
        assert mounttable.of_device(block.device_number(pvc.device)) == []
    assert (await pvc.facts()).guest_written
    await pvc.down()


@pytest.mark.gate("retries-stack-no-mounts")
async def test_a_repeated_publish_changes_nothing(node, direct):
    """A retry, also by the next process, leaves one guard and the same record, untouched."""
    pvc = direct()
    await pvc.up()
    before = node.record_file(pvc.target).stat()
    for _ in range(2):
        await pvc.publish()
        await node.restart()
    after = node.record_file(pvc.target).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert mounts_at(pvc.target) == 1
    await pvc.down()


@pytest.mark.gate("restart-between-stage-and-publish")
async def test_a_restart_between_stage_and_publish(node, direct):
    """The device is not remembered in a process: the record names it after a restart as before."""
    pvc = direct()
    await pvc.create()
    await pvc.stage()
    await node.restart()
    await pvc.publish()
    assert Path(node.record(pvc.target)["device"]) == pvc.device
    await node.restart()
    await pvc.unpublish()
    await node.restart()
    await pvc.unstage()
    assert node.devices == []


@pytest.mark.parametrize("lost", ["record", "guard", "both", "torn-folder"])
async def test_a_half_done_publish_is_finished(node, direct, lost):
    """Whatever step a crash cut off, the retry brings guard and record about."""
    pvc = direct()
    await pvc.up()
    file = node.record_file(pvc.target)
    if lost in ("record", "both", "torn-folder"):
        file.unlink()
    if lost in ("record", "both"):
        file.parent.rmdir()
    if lost in ("guard", "both"):
        mount.unmount(pvc.target)
    await node.restart()
    await pvc.publish()
    assert node.record(pvc.target)["device"] == str(pvc.device)
    assert mounts_at(pvc.target) == 1
    await pvc.down()


@pytest.mark.gate("a-torn-record-is-mended-or-taken-away")
@pytest.mark.parametrize("torn", [b"", b"{", b'{"volume-type":"directvol"}', b"\xff"])
async def test_a_torn_record_of_our_own_is_mended(node, direct, torn):
    """Under our guard a record that no runtime would read is written anew; unpublish does not read it."""
    pvc = direct()
    await pvc.up()
    whole = node.record(pvc.target)
    node.record_file(pvc.target).write_bytes(torn)
    await pvc.publish()
    assert node.record(pvc.target) == whole
    node.record_file(pvc.target).write_bytes(torn)
    await pvc.unpublish()
    assert list(node.records.iterdir()) == []
    assert not pvc.target.exists()
    await pvc.publish()
    await pvc.down()


@pytest.mark.parametrize("kind", ["direct", "host", "block"])
async def test_files_below_the_target_are_not_hidden(node, volume, kind):
    """A mount over somebody's files could never be taken back whole, so nothing is begun."""
    pvc = volume(access=AccessType.BLOCK) if kind == "block" else volume(direct=kind == "direct")
    await pvc.create()
    await pvc.stage()
    if kind == "block":
        pvc.target.parent.mkdir(parents=True)
        pvc.target.write_bytes(b"somebody's")
    else:
        pvc.target.mkdir(parents=True)
        (pvc.target / "hidden").write_bytes(b"somebody's")
    with pytest.raises(VolumeInUse, match="look into it"):
        await pvc.publish()
    assert node.driver.context.marks.targets_of(pvc.id) == []
    assert mounts_at(pvc.target) == 0
    file = pvc.target if kind == "block" else pvc.target / "hidden"
    assert file.read_bytes() == b"somebody's"
    file.unlink()
    await pvc.publish()
    await pvc.down()


async def test_an_interrupted_removal_is_finished(node, direct):
    """An unpublish that stopped after any of its steps is finished by the next one."""
    pvc = direct()
    for cut in range(4):
        await (pvc.up() if cut == 0 else pvc.publish())
        if cut >= 1:
            node.record_file(pvc.target).unlink()
        if cut >= 2:
            node.record_file(pvc.target).parent.rmdir()
            mount.unmount(pvc.target)
        if cut >= 3:
            pvc.target.rmdir()
        await node.restart()
        await pvc.unpublish()
        assert list(node.records.iterdir()) == []
        assert not pvc.target.exists()
        assert node.driver.context.marks.targets_of(pvc.id) == []
    await pvc.unstage()


# -- one device, one guest -----------------------------------------------------------------------------


@pytest.mark.gate("two-targets-for-one-direct-volume")
@pytest.mark.parametrize(
    "mode", [mode for mode in AccessMode if mode.single_node], ids=lambda mode: mode.value
)
async def test_a_second_target_is_refused(node, direct, mode):
    """One device serves one guest, in every access mode; the refusal names the first target."""
    pvc = direct(mode=mode)
    await pvc.up()
    second = node.pods / "second" / "mount"
    for _ in range(2):
        with pytest.raises(VolumeInUse, match=str(pvc.target)):
            await pvc.publish(second)
        await node.restart()
    assert not second.exists()
    assert len(list(node.records.iterdir())) == 1
    await pvc.unpublish()
    await pvc.publish(second)
    await pvc.unpublish(second)
    await pvc.unstage()


@pytest.mark.gate("host-and-guest-never-both")
async def test_host_and_guest_never_have_it_at_once(node, direct):
    """A volume that a guest has is not mounted, and one that is mounted is not given to a guest."""
    pvc = direct()
    as_host, as_guest = {"katacsi.io/direct": "false"}, {"katacsi.io/direct": "true"}
    second = node.pods / "second" / "mount"
    await pvc.create()
    pvc.context = as_host
    await pvc.stage()
    await pvc.publish()
    pvc.context = as_guest
    with pytest.raises(VolumeInUse, match=r"published \(host\)"):
        await pvc.publish(second)
    await pvc.unpublish()
    assert mounts_at(pvc.staging) == 1
    await pvc.publish(second)
    assert mounts_at(pvc.staging) == 0
    pvc.context = as_host
    await node.restart(guest_filesystems="allow")
    with pytest.raises(VolumeInUse, match=r"published \(direct\)"):
        await pvc.publish()
    assert mounts_at(pvc.staging) == 0
    await pvc.unpublish(second)
    await pvc.unstage()


@pytest.mark.gate("host-and-guest-never-both")
async def test_a_mount_that_the_facts_do_not_know_is_not_ignored(node, direct, scratch):
    """When the kernel shows the device mounted somewhere, no guest gets it, whatever the facts say."""
    pvc = direct()
    await pvc.create()
    await pvc.stage()
    with (
        blockdevices.mounted(pvc.device, scratch / "elsewhere"),
        pytest.raises(VolumeInUse, match="elsewhere"),
    ):
        await pvc.publish()
    assert not pvc.target.exists()
    assert node.record(pvc.target) is None
    await pvc.unstage()


@pytest.mark.gate("host-and-guest-never-both")
async def test_a_staging_mount_in_use_is_not_given_to_a_guest(node, direct):
    """A staging mount that a lost target still shows is not unmounted under it."""
    pvc = direct()
    await pvc.create()
    pvc.context = {"katacsi.io/direct": "false"}
    await pvc.stage()
    await pvc.publish()
    await node.restart_without_facts()
    await pvc.stage()
    pvc.context = {"katacsi.io/direct": "true"}
    with pytest.raises(VolumeInUse):
        await pvc.publish(node.pods / "second" / "mount")
    assert mounts_at(pvc.target) == 1
    pvc.write()
    await pvc.down()


@pytest.mark.gate("host-never-mounts-what-a-guest-wrote")
async def test_the_host_does_not_mount_what_a_guest_wrote(node, direct):
    """A tenant could have crafted the filesystem: the host's kernel mounts it only where that is allowed."""
    pvc = direct()
    await pvc.up()
    pvc.guest_writes()
    await pvc.unpublish()
    pvc.context = {"katacsi.io/direct": "false"}
    with pytest.raises(Precondition, match="guest_filesystems: allow"):
        await pvc.publish()
    assert mounts_at(pvc.staging) == 0
    assert not pvc.target.exists()
    await node.restart(guest_filesystems="allow")
    await pvc.publish()
    assert (pvc.target / "data").read_bytes() == b"the guest's bytes"
    await pvc.down()


async def test_a_read_only_guest_wrote_nothing(direct):
    """A volume that guests have only had read-only is still the host's to mount."""
    pvc = direct()
    await pvc.create()
    for_host, for_guests = {"katacsi.io/direct": "false"}, pvc.context
    pvc.context = for_host
    await pvc.stage()
    pvc.context = for_guests
    await pvc.publish(read_only=True)
    assert not (await pvc.facts()).guest_written
    await pvc.unpublish()
    pvc.context = for_host
    await pvc.publish()
    await pvc.down()


@pytest.mark.parametrize(("fs_type", "counts"), [("ext4", True), ("xfs", False)])
async def test_what_is_made_for_guests_alone_counts_as_theirs(direct, fs_type, counts):
    """With `direct: "true"` ext4 is the guests' from its mkfs on; xfs may yet need the host's kernel."""
    pvc = direct(fs_type=fs_type, size=512 << 20)
    await pvc.create()
    await pvc.stage()
    facts = await pvc.facts()
    assert (facts.format, facts.guest_written) == (FormatState.FORMATTED, counts)
    await pvc.publish()
    assert (await pvc.facts()).guest_written
    await pvc.down()


# -- what cannot be direct -----------------------------------------------------------------------------


@pytest.mark.parametrize("length", [189, 190])
async def test_the_longest_path_that_kata_finds(node, direct, length):
    """A record for a path of 190 bytes could not be found, and the data would go to the node's disk."""
    pvc = direct()
    await pvc.create()
    await pvc.stage()
    room = length - len(os.fsencode(node.pods)) - len("/" + "/mount")
    target = node.pods / ("ü" * (room // 2) + "x" * (room % 2)) / "mount"
    assert len(os.fsencode(target)) == length
    if length == 189:
        await pvc.publish(target)
        assert node.record(target)["device"] == str(pvc.device)
        await pvc.unpublish(target)
    else:
        with pytest.raises(InvalidRequest, match="190 bytes"):
            await pvc.publish(target)
        assert not target.exists()
        assert not node.records.exists() or list(node.records.iterdir()) == []
        assert node.driver.context.marks.targets_of(pvc.id) == []
        await pvc.unpublish(target)
    await pvc.unstage()


async def test_btrfs_is_not_for_guests(node, volume):
    """A volume with a filesystem that Kata's guest kernel lacks is not handed to it."""
    pvc = volume(fs_type="btrfs")
    await pvc.create()
    await pvc.stage()
    pvc.context = {"katacsi.io/direct": "true"}
    with pytest.raises(InvalidRequest, match="btrfs"):
        await pvc.publish()
    with pytest.raises(Precondition, match="btrfs"):
        await pvc.publish(capability=pvc.capability(fs_type=""))
    assert not pvc.target.exists()
    assert node.record(pvc.target) is None
    await pvc.unstage()


@pytest.mark.parametrize("kind", ["link", "file"])
async def test_a_target_that_is_no_folder(node, direct, scratch, kind):
    """A guard is never mounted through a link or on a file; nothing is left of the try."""
    pvc = direct()
    await pvc.create()
    await pvc.stage()
    pvc.target.parent.mkdir()
    if kind == "link":
        pvc.target.symlink_to(scratch)
    else:
        pvc.target.write_text("somebody's")
    with pytest.raises(InvalidRequest):
        await pvc.publish()
    assert leaks.leaks_below(pvc.target.parent).mounts == []
    assert node.record(pvc.target) is None
    assert os.path.lexists(pvc.target)
    assert node.driver.context.marks.targets_of(pvc.id) == []
    await pvc.unstage()


async def test_the_same_target_in_another_way(direct):
    """A published target is not silently given other options, a group, or made read-only."""
    pvc = direct()
    await pvc.up()
    for other in ({"mount_flags": ("noatime",)}, {"mount_group": "1"}):
        with pytest.raises(AlreadyExists):
            await pvc.publish(capability=pvc.capability(**other))
    with pytest.raises(AlreadyExists):
        await pvc.publish(read_only=True)
    await pvc.publish()
    await pvc.down()


@pytest.mark.gate("block-volumes-bypass-the-record")
async def test_a_raw_device_has_no_record(node, direct):
    """Kata passes block devices through by itself: `direct` changes nothing for them."""
    pvc = direct(access=AccessType.BLOCK)
    await pvc.up()
    assert pvc.target.is_block_device()
    assert not node.records.exists() or list(node.records.iterdir()) == []
    assert not (await pvc.facts()).guest_written
    await pvc.down()


# -- a volume at work ----------------------------------------------------------------------------------


@pytest.mark.gate("a-published-volume-is-not-probed")
async def test_a_stage_of_a_published_volume_looks_at_nothing(node, direct):
    """A guest may hold the device: a repeated stage runs no tool on it, even when it looks wrong."""
    pvc = direct()
    await pvc.up()
    await node.restart()
    before = pvc.disk.read_bytes()
    with pvc.device.open("r+b", buffering=0) as device:
        os.pwrite(device.fileno(), bytes(65536), 0)  # whatever the guest is doing to its superblock
    with tools_run() as tools:
        await pvc.stage()
        await pvc.publish()
    assert not PROBES & set(tools)
    with pvc.device.open("r+b", buffering=0) as device:
        os.pwrite(device.fileno(), before[:65536], 0)
    await pvc.down()


@pytest.mark.gate("one-lock-serialises-a-volume")
async def test_a_busy_volume_is_told_to_come_again(node, direct):
    """While one call works on a volume every other is told to retry, and changes nothing."""
    pvc = direct()
    await pvc.create()
    name = volume_lock("pvc-1")
    with node.driver.context.locks.hold(name):
        for call in (
            pvc.stage,
            pvc.publish,
            pvc.unpublish,
            pvc.unstage,
            pvc.delete,
            pvc.create,
            pvc.snapshot,
        ):
            with pytest.raises(OperationPending, match="volume pvc-1"):
                await call()
        with pytest.raises(OperationPending):
            await pvc.expand(pvc.size)
        await Volume(node, "pvc-2").create()
    assert not pvc.target.exists()
    assert node.devices == []


# -- others' records -----------------------------------------------------------------------------------


@pytest.mark.gate("foreign-record-untouched")
@pytest.mark.parametrize("kind", ["blk", "spdkvol", "vfiovol", "spoolvol"])
async def test_a_record_of_another_kind_at_the_target(node, direct, kind):
    """A record that katacsi does not write is not replaced, and stays when the publish fails."""
    pvc = direct()
    await pvc.create()
    await pvc.stage()
    file = node.record_file(pvc.target)
    file.parent.mkdir(parents=True)
    content = json.dumps({"volume-type": kind, "device": "/dev/null", "fstype": "ext4"})
    file.write_text(content)
    with pytest.raises(Precondition, match=kind):
        await pvc.publish()
    assert file.read_text() == content
    assert not pvc.target.exists()
    await pvc.unstage()


@pytest.mark.gate("foreign-record-untouched")
async def test_others_records_live_on(node, direct):
    """Whatever lies in the shared root, readable or not, neither hinders a volume nor is changed by one."""
    node.records.mkdir()
    foreign = {
        entry_name(
            "/pods/x/volumes/kubernetes.io~empty-dir/e"
        ): b'{"volume-type":"blk","device":"/d","fstype":"ext4"}',
        entry_name("/pods/y/azure/mount"): b'{"volume-type":"directvol","device":"/dev/sdz","fstype":"xfs"}',
        entry_name("/pods/z/torn"): b"{",
        "not base64!": b"x",
    }
    for name, data in foreign.items():
        (node.records / name).mkdir()
        (node.records / name / "mountInfo.json").write_bytes(data)
    (node.records / "a file").write_text("somebody's")
    pvc = direct()
    await pvc.up()
    await node.restart()
    await pvc.publish()
    await pvc.down()
    await node.restart_without_facts()
    assert (node.records / "a file").read_text() == "somebody's"
    assert {path.name for path in node.records.iterdir()} == {*foreign, "a file"}
    for name, data in foreign.items():
        assert (node.records / name / "mountInfo.json").read_bytes() == data


async def test_a_live_sandbox_s_record_is_not_exchanged(node, direct):
    """While a sandbox lives on the record it is not replaced by one with another device."""
    pvc = direct()
    await pvc.up()
    file = node.record_file(pvc.target)
    other = json.loads(file.read_text()) | {"device": "/dev/other"}
    file.write_text(json.dumps(other, separators=(",", ":")))
    with live_go_sandbox(node, pvc.target):
        with pytest.raises(VolumeInUse, match="sandbox"):
            await pvc.publish()
        assert node.record(pvc.target) == other
    await pvc.publish()
    assert node.record(pvc.target)["device"] == str(pvc.device)
    await pvc.down()


async def test_a_publish_that_fails_late_takes_back_what_it_did(node, direct, monkeypatch):
    """When the record cannot be written there is no guard and no fact left, and a retry starts anew."""
    pvc = direct()
    await pvc.create()
    await pvc.stage()
    writer = node.driver.context.writer

    def fails(*_):
        raise HostError("no room on the tmpfs")

    with monkeypatch.context() as patch:
        patch.setattr(writer, "add", fails)
        with pytest.raises(HostError, match="no room"):
            await pvc.publish()
    assert not pvc.target.exists()
    assert mounts_at(pvc.target) == 0
    assert node.driver.context.marks.targets_of(pvc.id) == []
    await pvc.publish()
    await pvc.down()
