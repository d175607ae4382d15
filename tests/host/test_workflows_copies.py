"""Snapshots, restores and clones."""

import asyncio

import pytest

from katacsi.backends.api import FormatState
from katacsi.errors import (
    AlreadyExists,
    HostError,
    InvalidPageToken,
    InvalidRequest,
    NotFound,
    OutOfSpace,
    Precondition,
    SizeOutOfRange,
    Unsupported,
    VolumeInUse,
)
from katacsi.host import growth, mount
from katacsi.model import AccessType, SizeRange, VolumeId
from katacsi.volumes import stillness
from katacsi.volumes.publish.mark import Frozen
from katacsi.volumes.requests import ListSnapshots, SourceKind, SourceRef
from support.node import MIB, Volume, mounts_at

WAYS = {"host": {}, "direct": {"direct": True}, "block": {"access": AccessType.BLOCK}}


async def filled(pvc, data=b"the first bytes"):
    """Bring a host volume up with a file, and down again."""
    await pvc.up()
    pvc.write("data", data)
    await pvc.down()


async def reads(pvc):
    """Bring a host volume up, read its file, and take it down."""
    await pvc.stage()
    await pvc.publish()
    data = (pvc.target / "data").read_bytes()
    await pvc.down()
    return data


# -- what a copy is ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16 * MIB, 64 * MIB], ids=["equal", "larger"])
@pytest.mark.parametrize("kind", ["snapshot", "clone"])
async def test_a_copy_has_the_bytes_of_its_source(volume, kind, size):
    """A restore or clone starts with its source's files, at its own size, and lives on without the source."""
    pvc = volume()
    await filled(pvc)
    source = await (pvc.snapshot() if kind == "snapshot" else pvc.create())
    copy = volume("copy", size=size)
    view = await copy.create(source)
    assert view.volume.size_bytes == size
    await pvc.stage()
    await pvc.publish()
    pvc.write("data", b"other bytes")
    await pvc.down()
    if kind == "snapshot":
        await pvc.node.driver.snapshots.delete(str(source.id))
    await pvc.delete()
    assert await reads(copy) == b"the first bytes"
    await copy.stage()
    assert growth.fills(copy.filesystem, size)
    await copy.unstage()


async def test_a_snapshot_is_the_bytes_of_its_moment(volume):
    """What is written after the cut is not in it."""
    pvc = volume()
    await filled(pvc)
    first = await pvc.snapshot("first")
    await pvc.stage()
    await pvc.publish()
    pvc.write("data", b"the second bytes")
    await pvc.down()
    second = await pvc.snapshot("second")
    assert first.size_bytes == second.size_bytes == pvc.size
    assert first.created_at <= second.created_at
    one, two = volume("one"), volume("two")
    await one.create(first)
    await two.create(second)
    assert await reads(one) == b"the first bytes"
    assert await reads(two) == b"the second bytes"


async def test_a_raw_volume_is_copied_raw(volume):
    """A block volume's copy is a block volume with its bytes."""
    pvc = volume(access=AccessType.BLOCK)
    await pvc.up()
    pvc.target.write_bytes(b"raw")
    await pvc.down()
    copy = volume("copy", access=AccessType.BLOCK)
    await copy.create(await pvc.snapshot())
    await copy.stage()
    await copy.publish()
    with copy.target.open("rb") as device:
        assert device.read(3) == b"raw"
    await copy.down()


async def test_a_copy_takes_its_source_s_size(node, volume):
    """Who asks for no size gets the source's, whatever the default is."""
    await node.restart(default_volume_size=8 * MIB)
    pvc = volume()
    await filled(pvc)
    snapshot = await pvc.snapshot()
    for name, source in (("restore", snapshot), ("clone", await pvc.create())):
        view = await volume(name).create(source, size=SizeRange())
        assert view.volume.size_bytes == pvc.size


async def test_a_copy_takes_its_source_s_filesystem(node, volume):
    """Who asks for no filesystem gets the source's, whatever the default is."""
    pvc = volume(size=304 * MIB)
    await filled(pvc)
    await node.restart(default_filesystem="xfs")
    copy, snapshot = volume("copy", fs_type="", size=304 * MIB), await pvc.snapshot()
    first = await copy.create(snapshot)
    assert await copy.create(snapshot) == first
    assert await reads(copy) == b"the first bytes"


async def test_a_copy_in_which_its_filesystem_cannot_be_made(volume):
    """A copy of an empty volume is formatted at its first use, so it has to be large enough for that."""
    pvc = volume(access=AccessType.BLOCK)
    await pvc.create()
    with pytest.raises(SizeOutOfRange, match="xfs"):
        await volume("copy", fs_type="xfs", size=16 * MIB).create(await pvc.snapshot())
    assert (await volume("copy", fs_type="xfs").create(await pvc.snapshot())).volume.size_bytes == 304 * MIB


# -- what a copy cannot be -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [SizeRange(8 * MIB), SizeRange(0, 8 * MIB)], ids=["required", "limit"])
async def test_a_smaller_copy_is_refused(node, volume, size):
    """Bytes would be lost."""
    pvc = volume()
    await filled(pvc)
    for source in (await pvc.snapshot(), await pvc.create()):
        with pytest.raises(SizeOutOfRange):
            await volume("copy").create(source, size=size)
    assert len((await node.driver.provisioning.list("", 0)).volumes) == 1


@pytest.mark.gate("mismatched-filesystem-is-an-error")
async def test_a_copy_with_another_filesystem_is_refused(volume):
    """A copy is not reformatted."""
    pvc = volume(size=304 * MIB)
    await filled(pvc)
    with pytest.raises(InvalidRequest, match="holds ext4"):
        await volume("copy", fs_type="xfs").create(await pvc.snapshot())


async def test_a_source_that_is_not_here(node, volume):
    """An absent source is not found; one of another node's pool makes the provisioner try elsewhere."""
    pvc = volume()
    view = await pvc.create()
    uid = view.volume.id.pool_uid
    for kind, text in (
        (SourceKind.SNAPSHOT, "nothing"),
        (SourceKind.SNAPSHOT, f"s1:default:{uid}:nothing"),
        (SourceKind.VOLUME, f"v1:default:{uid}:nothing"),
        (SourceKind.VOLUME, f"s1:default:{uid}:pvc-1"),
    ):
        with pytest.raises(NotFound):
            await volume("copy").create(source_ref=SourceRef(kind, text))
    with pytest.raises(OutOfSpace, match="not on node"):
        await volume("copy").create(source_ref=SourceRef(SourceKind.VOLUME, "v1:default:00000000:pvc-1"))
    assert len((await node.driver.provisioning.list("", 0)).volumes) == 1


@pytest.mark.gate("expand-never-lies")
async def test_a_larger_copy_of_a_guest_s_xfs_is_refused(node, volume):
    """It could not be grown without a host mount, so it is refused at creation, by the setting's name."""
    pvc = volume(direct=True, fs_type="xfs")
    await pvc.up()
    await pvc.down()
    snapshot = await pvc.snapshot()
    copy = volume("copy", direct=True, fs_type="xfs", size=pvc.size + 64 * MIB)
    with pytest.raises(Unsupported, match="guest_filesystems"):
        await copy.create(snapshot)
    assert len((await node.driver.provisioning.list("", 0)).volumes) == 1
    equal = volume("equal", direct=True, fs_type="xfs")
    await equal.create(snapshot)
    assert (await equal.facts()).guest_written
    await node.restart(guest_filesystems="allow")
    await copy.create(snapshot)


async def test_a_copy_of_what_a_guest_wrote_is_not_mounted_either(volume):
    """That a guest wrote the filesystem stays true of every copy."""
    pvc = volume(direct=True)
    await pvc.up()
    pvc.guest_writes()
    await pvc.down()
    copy = volume("copy")
    await copy.create(await pvc.snapshot())
    await copy.stage()
    with pytest.raises(Precondition, match="guest_filesystems: allow"):
        await copy.publish()
    assert mounts_at(copy.staging) == 0
    await copy.unstage()


# -- sources in use ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_a_published_source_is_refused_where_copies_take_time(node, volume, way):
    """A copy that is not of one moment of a volume that is written is no copy: it is refused, not torn."""
    pvc = volume(**WAYS[way])
    await pvc.up()
    with pytest.raises(VolumeInUse, match="one moment"):
        await pvc.snapshot()
    with pytest.raises(VolumeInUse, match="one moment"):
        await volume("copy", **WAYS[way]).create(await pvc.create())
    assert (await node.driver.snapshots.list(ListSnapshots())).snapshots == ()
    assert len((await node.driver.provisioning.list("", 0)).volumes) == 1
    await pvc.unpublish()
    await pvc.snapshot()
    await pvc.unstage()


@pytest.mark.parametrize("way", WAYS)
async def test_a_published_source_is_copied_at_once_where_that_can_be(reflink_node, way):
    """With reflinks the copy is of one moment: a host filesystem is clean, a guest's replays its journal."""
    pvc = Volume(reflink_node, **WAYS[way])
    await pvc.up()
    if way == "host":
        pvc.write()
    elif way == "block":
        pvc.target.write_bytes(b"raw")
    else:
        pvc.guest_writes()
    snapshot = await pvc.snapshot()
    clone = Volume(reflink_node, "clone", **WAYS[way])
    await clone.create(await pvc.create())
    restore = Volume(reflink_node, "restore", **WAYS[way])
    await restore.create(snapshot)
    for copy in (clone, restore):
        await copy.stage()
        await copy.publish()
        if way == "host":
            assert (copy.target / "data").read_bytes() == b"the workload's bytes"
        elif way == "block":
            with copy.target.open("rb") as device:
                assert device.read(3) == b"raw"
        else:
            assert copy.guest_reads() == b"the guest's bytes"
        await copy.down()
    if way == "host":
        pvc.write("more")  # nothing is frozen any more
    await pvc.down()


async def test_a_freeze_that_takes_too_long_is_given_up(reflink_node, monkeypatch):
    """The pod goes on after the limit; the copy that may be torn is removed, and the call fails."""
    pvc = Volume(reflink_node)
    await pvc.up()
    monkeypatch.setattr(stillness, "FREEZE_LIMIT_S", 0.05)
    backend = await reflink_node.driver.context.pools.holding(VolumeId.parse(pvc.id))
    really = backend.create_snapshot

    async def slowly(name, source):
        await asyncio.sleep(0.3)
        pvc.write()  # would hang for ever if it were still frozen
        return await really(name, source)

    with monkeypatch.context() as patch:
        patch.setattr(backend, "create_snapshot", slowly)
        with pytest.raises(HostError, match="frozen"):
            await pvc.snapshot()
    assert (await reflink_node.driver.snapshots.list(ListSnapshots())).snapshots == ()
    monkeypatch.setattr(stillness, "FREEZE_LIMIT_S", 20)
    await pvc.snapshot()
    await pvc.down()


async def test_a_failed_copy_leaves_nothing_frozen(reflink_node, monkeypatch):
    """Whatever goes wrong, the pod can write again."""
    pvc = Volume(reflink_node)
    await pvc.up()
    backend = await reflink_node.driver.context.pools.holding(VolumeId.parse(pvc.id))

    async def fails(*_):
        raise OutOfSpace("full")

    with monkeypatch.context() as patch:
        patch.setattr(backend, "create_snapshot", fails)
        with pytest.raises(OutOfSpace):
            await pvc.snapshot()
    pvc.write()
    await pvc.down()


@pytest.mark.gate("a-freeze-does-not-outlive-the-driver")
async def test_a_start_thaws_what_a_crash_left_frozen(reflink_node):
    """A driver that died with a pod's filesystem frozen lets it go on when it comes back."""
    pvc = Volume(reflink_node)
    await pvc.up()
    frozen = Frozen(str(pvc.staging), pvc.id)
    reflink_node.driver.context.marks.add(frozen)
    mount.freeze(pvc.staging)
    await reflink_node.restart()
    pvc.write()
    assert reflink_node.driver.context.marks.all_frozen() == []
    await pvc.down()


@pytest.mark.gate("only-ones-own-freeze-is-thawed")
async def test_somebody_else_s_freeze_stands(reflink_node):
    """A filesystem that its owner froze is copied as it is, and stays frozen: after the copy, and a start."""
    pvc = Volume(reflink_node)
    await pvc.up()
    pvc.write()
    assert mount.freeze(pvc.staging)
    try:
        await pvc.snapshot()
        assert not mount.freeze(pvc.staging), "it was thawed"
        await reflink_node.restart()
        assert not mount.freeze(pvc.staging), "it was thawed"
    finally:
        mount.thaw(pvc.staging)
    pvc.write("after")
    await pvc.down()


async def test_a_frozen_volume_is_taken_down_once_its_owner_has_thawed_it(node, volume):
    """Until then unstage says why, and leaves it where it can be thawed."""
    pvc = volume()
    await pvc.up()
    pvc.write()
    assert mount.freeze(pvc.staging)
    await pvc.unpublish()
    for _ in range(2):
        with pytest.raises(VolumeInUse, match=f"frozen.*fsfreeze -u {pvc.staging}"):
            await pvc.unstage()
    mount.thaw(pvc.staging)
    await pvc.unstage()
    assert node.devices == []


# -- repeated calls ------------------------------------------------------------------------------------


async def test_a_repeated_snapshot_is_the_same(node, volume):
    """Its moment is stored: every retry gives the same time, also when the volume has changed since."""
    pvc = volume()
    await filled(pvc)
    first = await pvc.snapshot()
    await pvc.stage()
    await pvc.publish()
    pvc.write("data", b"other")
    assert await pvc.snapshot() == first
    await node.restart()
    assert await pvc.snapshot() == first
    assert await node.driver.snapshots.get(str(first.id)) == first
    await pvc.down()


async def test_a_snapshot_s_name_is_taken(volume):
    """The same name for another volume is refused."""
    pvc, other = volume(), volume("other")
    await pvc.create()
    await other.create()
    first = await pvc.snapshot("snap")
    with pytest.raises(AlreadyExists, match="pvc-1"):
        await other.snapshot("snap")
    assert await pvc.snapshot("snap") == first


async def test_a_repeated_copy_does_not_need_its_source(node, volume):
    """A retry of a create that was done finds the copy, even when the source is gone or in use meanwhile."""
    pvc = volume()
    await filled(pvc)
    source, snapshot = await pvc.create(), await pvc.snapshot()
    clone, restore = volume("clone"), volume("restore")
    first, second = await clone.create(source), await restore.create(snapshot)
    await pvc.stage()
    await pvc.publish()
    assert await clone.create(source) == first
    await pvc.down()
    await pvc.delete()
    await node.driver.snapshots.delete(str(snapshot.id))
    assert await clone.create(source) == first
    assert await restore.create(snapshot) == second


async def test_another_source_of_the_same_name_is_refused(volume):
    """A volume is a copy of what it was first made from."""
    pvc = volume()
    await filled(pvc)
    one, two = await pvc.snapshot("one"), await pvc.snapshot("two")
    copy = volume("copy")
    await copy.create(one)
    with pytest.raises(AlreadyExists, match="source"):
        await copy.create(two)
    with pytest.raises(AlreadyExists):
        await copy.create()
    with pytest.raises(AlreadyExists):
        await copy.create(await pvc.create())
    with pytest.raises(AlreadyExists):
        await pvc.create(one)


async def test_deleting_a_snapshot_twice_is_success(node, volume):
    """Absent is deleted; another node's snapshot is not called deleted."""
    pvc = volume()
    await pvc.create()
    snapshot = await pvc.snapshot()
    for _ in range(2):
        await node.driver.snapshots.delete(str(snapshot.id))
    assert list((node.pool / "snapshots").iterdir()) == []
    await node.driver.snapshots.delete("nothing")
    with pytest.raises(Precondition):
        await node.driver.snapshots.delete("s1:default:00000000:snap-1")
    with pytest.raises(NotFound):
        await node.driver.snapshots.get(str(snapshot.id))


async def test_snapshots_have_no_parameters(node, volume):
    """A misspelt VolumeSnapshotClass is refused by its key; what sidecars inject is not."""
    pvc = volume()
    await pvc.create()
    with pytest.raises(InvalidRequest, match=r"parameters\[mode\]"):
        await node.driver.snapshots.create("snap", pvc.id, {"mode": "fast"})
    await node.driver.snapshots.create("snap", pvc.id, {"csi.storage.k8s.io/volumesnapshot/name": "x"})
    with pytest.raises(NotFound):
        await node.driver.snapshots.create("other", "nothing", {})


# -- lists ---------------------------------------------------------------------------------------------


async def test_the_filters_of_a_list(node, volume):
    """By id, by volume, by both; a filter that names nothing gives an empty list, not an error."""
    pvc, other = volume(), volume("other")
    await pvc.create()
    await other.create()
    mine = [await pvc.snapshot(f"snap-{i}") for i in range(3)]
    foreign = await other.snapshot("foreign")

    async def listed(**filters):
        return list((await node.driver.snapshots.list(ListSnapshots(**filters))).snapshots)

    assert await listed() == [foreign, *mine]
    assert await listed(source_volume_id=pvc.id) == mine
    assert await listed(snapshot_id=str(mine[1].id)) == [mine[1]]
    assert await listed(snapshot_id=str(mine[1].id), source_volume_id=pvc.id) == [mine[1]]
    assert await listed(snapshot_id=str(mine[1].id), source_volume_id=other.id) == []
    uid = mine[0].id.pool_uid
    for nothing in (
        {"snapshot_id": "nothing"},
        {"snapshot_id": f"s1:default:{uid}:nothing"},
        {"snapshot_id": "s1:default:00000000:snap-1"},
        {"snapshot_id": "s1:other:00000000:snap-1"},
        {"source_volume_id": "nothing"},
        {"source_volume_id": f"v1:default:{uid}:nothing"},
        {"source_volume_id": "v1:default:00000000:pvc-1"},
        {"source_volume_id": "v1:other:00000000:pvc-1"},
    ):
        assert await listed(**nothing) == [], nothing


async def test_a_list_of_snapshots_comes_in_pages(node, volume):
    """Each snapshot once, at most as many a page as asked for; a strange token is refused as one."""
    pvc, other = volume(), volume("other")
    await pvc.create()
    await other.create()
    for i in range(5):
        await (pvc if i % 2 else other).snapshot(f"snap-{i}")
    seen, token = [], ""
    while True:
        page = await node.driver.snapshots.list(ListSnapshots(token, 2))
        assert len(page.snapshots) <= 2
        seen += [snapshot.csi_name for snapshot in page.snapshots]
        token = page.next_token
        if not token:
            break
    assert sorted(seen) == [f"snap-{i}" for i in range(5)]
    page = await node.driver.snapshots.list(ListSnapshots("", 2, pvc.id))
    assert [snapshot.csi_name for snapshot in page.snapshots] == ["snap-1", "snap-3"]
    for strange in ("x", "ZGVmYXVsdDouLi8uLg==", "é"):
        with pytest.raises(InvalidPageToken):
            await node.driver.snapshots.list(ListSnapshots(strange))


async def test_a_copy_of_a_formatted_volume_is_formatted(volume):
    """A restored volume is never formatted again: its facts say what its bytes are."""
    pvc = volume()
    await filled(pvc)
    snapshot = await pvc.snapshot()
    assert snapshot.facts.format is FormatState.FORMATTED
    view = await volume("copy").create(snapshot)
    assert view.volume.facts.format is FormatState.FORMATTED
    assert view.volume.facts.inherited_uuid
