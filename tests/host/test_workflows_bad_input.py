"""What is wrong with one object or one pool is an error of that one; every other volume goes on working."""

import contextlib
import json
import shutil

import pytest

from katacsi.errors import CorruptRecord, HostError, KatacsiError, OutOfSpace, PoolUnavailable
from katacsi.volumes.gauges import refresh
from katacsi.volumes.requests import GetCapacity, ListSnapshots
from support import blockdevices, pools
from support.node import MIB, Volume, serving


async def lives(node, name="healthy", **other):
    """Take a volume through its life; fails if anything of it does."""
    pvc = Volume(node, name, **other)
    await pvc.up()
    pvc.write()
    await pvc.stats()
    await pvc.down()
    snapshot = await pvc.snapshot(f"snap-{name}")
    await node.driver.snapshots.delete(str(snapshot.id))
    await pvc.delete()


# -- pools ---------------------------------------------------------------------------------------------


def pool(directory, **other):
    """Give the settings of a pool."""
    return {"backend": "loopfile", "directory": str(directory), "copies": "full", **other}


@pytest.mark.gate("one-bad-pool-hinders-no-other")
async def test_a_missing_pool_folder(scratch):
    """Calls for the missing pool name it; the other pool works in every way, and no folder is made up."""
    (scratch / "there").mkdir()
    missing = scratch / "missing"
    settings = {"default": pool(scratch / "there"), "gone": pool(missing)}
    async with serving(scratch, pools=settings) as node:
        for _ in range(2):
            with pytest.raises(OutOfSpace, match=str(missing)):
                await Volume(node, parameters={"katacsi.io/pool": "gone"}).create()
        there = await node.driver.provisioning.capacity(GetCapacity(parameters={"katacsi.io/pool": "gone"}))
        assert there.available_bytes == 0
        await lives(node)
        healthy = Volume(node)
        await healthy.create()
        assert len((await node.driver.provisioning.list("", 0)).volumes) == 1
        assert (await node.driver.snapshots.list(ListSnapshots())).snapshots == ()
        await refresh(node.driver.context)
        gauge = node.driver.context.metrics.registry.get_sample_value
        assert gauge("katacsi_pool_usable", {"pool": "gone"}) == 0
        assert gauge("katacsi_pool_usable", {"pool": "default"}) == 1
        assert not missing.exists()
        # When the disk comes, no restart is needed.
        missing.mkdir()
        await lives(node, "late", parameters={"katacsi.io/pool": "gone"})


@pytest.mark.gate("one-bad-pool-hinders-no-other")
async def test_a_pool_whose_disk_goes_meanwhile(scratch):
    """An empty folder where a pool was is not an empty pool: its volumes are neither absent nor deleted."""
    (scratch / "other").mkdir()
    settings = {"default": pool(scratch / "other"), "disk": pool(scratch / "pool")}
    async with serving(scratch, pools=settings) as node:
        pvc = Volume(node, parameters={"katacsi.io/pool": "disk"})
        await pvc.create()
        away = node.pool.rename(scratch / "away")
        node.pool.mkdir()  # what a mount point shows without its disk
        for call in (pvc.delete, pvc.stage, lambda: node.driver.provisioning.get(pvc.id)):
            with pytest.raises(PoolUnavailable):
                await call()
        with pytest.raises(OutOfSpace, match=str(node.pool)):
            await pvc.create()
        on_disk = GetCapacity(parameters={"katacsi.io/pool": "disk"})
        assert (await node.driver.provisioning.capacity(on_disk)).available_bytes == 0
        assert list(node.pool.iterdir()) == []
        await lives(node)
        node.pool.rmdir()
        away.rename(node.pool)
        assert (await pvc.create()).volume.csi_name == "pvc-1"
        await lives(node, "again", parameters={"katacsi.io/pool": "disk"})


async def test_a_pool_on_a_disk_that_must_be_mounted(scratch):
    """With require_mount a folder without its disk is refused, and nothing is written into it."""
    (scratch / "there").mkdir()
    unmounted = scratch / "unmounted"
    unmounted.mkdir()
    settings = {"default": pool(scratch / "there"), "disk": pool(unmounted, require_mount=True)}
    async with serving(scratch, pools=settings) as node:
        with pytest.raises(OutOfSpace, match="mount"):
            await Volume(node, parameters={"katacsi.io/pool": "disk"}).create()
        assert list(unmounted.iterdir()) == []
        await lives(node)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
async def test_a_full_pool(scratch, kind):
    """A volume that does not fit is refused with the room there is; what is there keeps working."""
    with pools.mounted_filesystem(scratch, kind, 64) as point:
        async with serving(scratch, pools={"default": pool(point)}) as node:
            node.pool = point
            pvc = Volume(node, size=24 * MIB)
            await pvc.create()
            room = (await node.driver.provisioning.capacity(GetCapacity())).available_bytes
            assert room < 40 * MIB
            for wish in (room + 4096, 1 << 40):
                with pytest.raises(OutOfSpace, match="default"):
                    await Volume(node, "too-large", size=wish).create()
            with pytest.raises(OutOfSpace):
                await Volume(
                    node, "thick", size=48 * MIB, parameters={"loopfile.katacsi.io/allocation": "thick"}
                ).create()
            await pvc.stage()
            await pvc.publish()
            pvc.write()
            await pvc.down()
            assert [path.name for path in (point / "volumes").iterdir()] == ["pvc-1"]
            await pvc.delete()
            await Volume(node, "fits", size=40 * MIB).create()


async def test_a_pool_that_others_filled(scratch):
    """No byte left for a record is "no space", not a broken volume; a volume can still be deleted."""
    with pools.mounted_filesystem(scratch, "ext4", 64) as point:
        async with serving(scratch, pools={"default": pool(point, overprovision_ratio=10)}) as node:
            node.pool = point
            pvc = Volume(node)
            await pvc.create()
            with (point / "others").open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(4096)):
                    pass
            with pytest.raises(OutOfSpace):
                await Volume(node, "more", size=8 * MIB).create()
            condition = (await node.driver.provisioning.get(pvc.id)).condition
            assert condition.abnormal
            await pvc.delete()
            (point / "others").unlink()
            await lives(node)


async def test_a_read_only_pool(scratch):
    """A pool on a read-only filesystem refuses by name, at the start and later; no other pool minds."""
    (scratch / "other").mkdir()
    with pools.mounted_filesystem(scratch, "ext4", 64) as point:
        settings = {"default": pool(scratch / "other"), "disk": pool(point)}
        async with serving(scratch, pools=settings) as node:
            on_disk = {"katacsi.io/pool": "disk"}
            pvc = Volume(node, parameters=on_disk)
            await pvc.create()
            await node.stop()
            blockdevices.run("mount", "-o", "remount,ro", point)
            await node.start()
            for call in (pvc.stage, pvc.delete):
                with pytest.raises(PoolUnavailable, match="read-only"):
                    await call()
            with pytest.raises(OutOfSpace, match="read-only"):
                await Volume(node, "more", parameters=on_disk).create()
            there = await node.driver.provisioning.capacity(GetCapacity(parameters=on_disk))
            assert there.available_bytes == 0
            await lives(node)
            blockdevices.run("mount", "-o", "remount,rw", point)
            assert (await pvc.create()).volume.csi_name == "pvc-1"
            await pvc.delete()


# -- records in a pool ---------------------------------------------------------------------------------


@pytest.mark.gate("one-corrupt-record-hinders-no-other")
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"schema": 99}', b"\xff\xfe", None],
    ids=["empty", "torn", "list", "newer", "binary", "missing"],
)
async def test_a_corrupt_volume_record(node, volume, content):
    """A volume whose record is damaged is an error by the file's name, is kept, and hinders no other."""
    pvc = volume()
    await pvc.up()
    pvc.write()
    await pvc.down()
    record = pvc.disk.parent / "volume.json"
    good, data = record.read_bytes(), pvc.disk.read_bytes()
    if content is None:
        record.unlink()
    else:
        record.write_bytes(content)
    for _ in range(2):
        for call in (
            pvc.create,
            pvc.stage,
            pvc.snapshot,
            lambda: node.driver.provisioning.get(pvc.id),
            pvc.delete,
        ):
            with pytest.raises(CorruptRecord) as refusal:
                await call()
            assert "volume.json" in refusal.value.message
        views = (await node.driver.provisioning.list("", 0)).volumes
        assert [(str(view.volume.id), view.condition.abnormal) for view in views] == [(pvc.id, True)]
        await lives(node)
        await node.restart()
    assert pvc.disk.read_bytes() == data
    record.write_bytes(good)
    await pvc.stage()
    await pvc.publish()
    assert (pvc.target / "data").read_bytes() == b"the workload's bytes"
    await pvc.down()


@pytest.mark.gate("one-corrupt-record-hinders-no-other")
async def test_a_corrupt_snapshot_record(node, volume):
    """Also of snapshots: the damaged one is named, the others and their volumes work."""
    pvc = volume()
    await pvc.create()
    bad, good = await pvc.snapshot("bad"), await pvc.snapshot("good")
    (node.pool / "snapshots" / "bad" / "snapshot.json").write_bytes(b"{")
    with pytest.raises(CorruptRecord, match=r"snapshot\.json"):
        await volume("copy").create(bad)
    with pytest.raises(CorruptRecord):
        await pvc.snapshot("bad")
    assert (await node.driver.snapshots.list(ListSnapshots())).snapshots == (good,)
    await volume("copy").create(good)
    await node.restart()
    await lives(node)


async def test_foreign_files_in_a_pool(node, volume):
    """What somebody else keeps in a pool's folder is neither shown, nor touched, nor in the way."""
    pvc = volume()
    await pvc.create()
    foreign = [
        node.pool / "README",
        node.pool / "volumes" / "notes.txt",
        node.pool / "volumes" / ".hidden" / "file",
        node.pool / "volumes" / "Capital" / "file",
        node.pool / "snapshots" / "lost+found" / "x",
        node.pool / "other" / "volume.json",
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("somebody's")
    (node.pool / "volumes" / "a-link").symlink_to("/etc")
    (node.pool / "volumes" / "empty-folder").mkdir()
    await node.restart()
    views = (await node.driver.provisioning.list("", 0)).volumes
    assert [str(view.volume.id) for view in views] == [pvc.id]
    await lives(node)
    await pvc.delete()
    for path in foreign:
        assert path.read_text() == "somebody's"
    assert (node.pool / "volumes" / "a-link").is_symlink()
    assert (node.pool / "volumes" / "empty-folder").is_dir()


async def test_a_damaged_pool_identity(scratch):
    """A pool whose identity cannot be read is refused, not given a new one that would disown its volumes."""
    (scratch / "other").mkdir()
    settings = {"default": pool(scratch / "other"), "disk": pool(scratch / "pool")}
    async with serving(scratch, pools=settings) as node:
        pvc = Volume(node, parameters={"katacsi.io/pool": "disk"})
        await pvc.create()
        identity = node.pool / "pool.json"
        good = identity.read_bytes()
        for damage in (b"{", None):
            await node.stop()
            identity.write_bytes(damage) if damage else identity.unlink()
            await node.start()
            with pytest.raises(OutOfSpace):
                await pvc.create()
            with pytest.raises(KatacsiError):
                await pvc.delete()
            assert pvc.disk.exists()
            await lives(node)
            await node.stop()
            identity.write_bytes(good)
            await node.start()
        assert (await pvc.create()).volume.csi_name == "pvc-1"


async def test_a_replaced_pool(node, volume):
    """Another pool in the same folder does not pass for the former: its volumes are elsewhere, not gone."""
    pvc = volume()
    await pvc.create()
    await node.stop()
    shutil.rmtree(node.pool)
    node.pool.mkdir()
    await node.start()
    for call in (pvc.delete, pvc.unstage):
        with pytest.raises(KatacsiError, match=r"identity|another node"):
            await call()
    await lives(node)


# -- the state directory -------------------------------------------------------------------------------


async def test_a_damaged_fact_of_this_boot(node, volume):
    """A fact that cannot be read concerns its path alone; the volume can still be taken down."""
    pvc, other = volume(), volume("other", direct=True)
    await pvc.up()
    await other.up()
    for file in (node.state / "published").iterdir():
        if json.loads(file.read_text())["volume_id"] == pvc.id:
            file.write_bytes(b"{")
    await node.restart()
    await other.publish()
    assert len(node.driver.context.marks.targets_of(other.id)) == 1
    await other.down()
    await pvc.unpublish()
    assert not pvc.target.exists()
    await pvc.unstage()
    await lives(node)


async def test_an_unwritable_state_directory(node, volume):
    """A fact that cannot be stored fails the call before anything is mounted."""
    pvc = volume()
    await pvc.create()
    await pvc.stage()
    shutil.rmtree(node.state / "published")
    (node.state / "published").write_text("in the way")
    with pytest.raises(HostError):
        await pvc.publish()
    assert not pvc.target.exists()
    (node.state / "published").unlink()
    await pvc.publish()
    await pvc.down()
    assert list((node.state / "published").iterdir()) == []
