"""The loop devices of a loopfile pool, and what becomes of its space."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from katacsi.backends.api import ContentSource, CreateRequest, PoolContext, SizeRange
from katacsi.backends.loopfile import LoopfileBackend, LoopfileSettings
from katacsi.errors import HostError, OutOfSpace, PoolUnavailable, Precondition, VolumeInUse
from katacsi.host import directories, loop, loopdevices
from katacsi.model import MIB
from katacsi.testing import blockio
from support.pools import mounted_filesystem

CONTEXT = PoolContext("pool", "test.katacsi.io", "node-1")


def wish(name, size=16 * MIB, **more):
    return CreateRequest(name, SizeRange(size), **more)


@pytest.fixture
def xfs(scratch):
    """A reflink XFS of 320 MiB."""
    with mounted_filesystem(scratch, "xfs", 320, "-m", "reflink=1") as point:
        yield point


@pytest.fixture
def ext4(scratch):
    """An ext4 of 64 MiB."""
    with mounted_filesystem(scratch, "ext4", 64, "-m", "0") as point:
        yield point


@pytest.fixture
async def serving():
    """Start pools: await serving(folder, settings...); at the end their volumes go and they are closed."""
    started = []

    async def start(folder, **settings):
        backend = LoopfileBackend(LoopfileSettings(directory=folder, **settings), CONTEXT)
        await backend.start()
        started.append(backend)
        return backend

    yield start
    for backend in started:
        for image in (backend._settings.directory / "volumes").glob("*/disk.img"):
            loop.ensure_detached(image)
        await backend.close()


def run(*argv):
    """Run a tool; nothing else is going on in the loop meanwhile."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def allocated(folder, name):
    return (folder / "volumes" / name / "disk.img").stat().st_blocks * 512


async def test_sectors_stay_4096_after_a_snapshot(xfs, serving):
    """Sharing blocks changes nothing about the device: direct I/O, and a filesystem that still mounts."""
    pool = await serving(xfs)
    volume = await pool.create(wish("a"))
    device = await pool.attach(volume.id, {}, {})
    described = loopdevices.attached_to(xfs / "volumes" / "a" / "disk.img")
    assert (described.sector_size, described.direct_io) == (4096, True)
    run("mkfs.ext4", "-q", device.path)
    await pool.detach(volume.id)
    await pool.create_snapshot("cut", volume.id)
    copy = await pool.create(wish("b", source=ContentSource(volume.id)))
    mountpoint = xfs / "mounted"
    mountpoint.mkdir()
    for one in (volume, copy):
        device = await pool.attach(one.id, {}, {})
        described = loopdevices.attached_to(xfs / "volumes" / one.id.name / "disk.img")
        assert (described.sector_size, described.direct_io) == (4096, True)
        run("mount", device.path, mountpoint)
        run("umount", mountpoint)
        await pool.detach(one.id)


async def test_thick_stays_thick(xfs, serving):
    """A thick volume discards nothing; a sparse one does, also on the loop minor that a thick one had."""
    pool = await serving(xfs)
    thick = await pool.create(wish("thick", parameters={"allocation": "thick"}))
    assert allocated(xfs, "thick") == thick.size_bytes
    device = await pool.attach(thick.id, {}, {})
    with pytest.raises(subprocess.CalledProcessError, match="blkdiscard"):
        run("blkdiscard", device.path)
    assert allocated(xfs, "thick") == thick.size_bytes
    assert await pool.is_blank(thick.id) is True
    await pool.detach(thick.id)
    assert await pool.expand(thick.id, 32 * MIB) == allocated(xfs, "thick") == 32 * MIB
    sparse = await pool.create(wish("sparse"))
    device = await pool.attach(sparse.id, {}, {})
    await asyncio.to_thread(blockio.fill, device, b"\xa5")
    run("blkdiscard", device.path)
    assert allocated(xfs, "sparse") < MIB


async def test_a_thick_copy_owns_its_blocks(xfs, serving):
    """A thick volume from a snapshot shares nothing, not even beyond what its source had written."""
    pool = await serving(xfs)
    volume = await pool.create(wish("a"))
    device = await pool.attach(volume.id, {}, {})
    await asyncio.to_thread(blockio.write, device, b"data" * MIB)
    snapshot = await pool.create_snapshot("cut", volume.id)
    await pool.create(
        wish("b", 32 * MIB, source=ContentSource(snapshot.id), parameters={"allocation": "thick"})
    )
    assert allocated(xfs, "b") >= 32 * MIB
    listing = run("filefrag", "-v", xfs / "volumes" / "b" / "disk.img")
    assert "shared" not in listing
    assert sorted(path.name for path in (xfs / "volumes" / "b").iterdir()) == ["disk.img", "volume.json"]


@pytest.mark.gate("delete-frees-storage")
async def test_delete_gives_the_space_back(ext4, serving):
    """A pool can be filled and emptied again and again: no bytes, files or loop devices stay behind."""
    pool = await serving(ext4)
    for _ in range(3):
        volume = await pool.create(wish("a", 40 * MIB))
        device = await pool.attach(volume.id, {}, {})
        await asyncio.to_thread(blockio.fill, device, b"\xa5")
        await pool.delete(volume.id)
    assert list((ext4 / "volumes").iterdir()) == []
    assert not [device for device in loopdevices.devices() if device.backing[0] == ext4.stat().st_dev]


async def test_an_attached_volume_that_is_held_is_not_deleted(ext4, serving):
    """A mounted device keeps its volume, its file, and its name."""
    pool = await serving(ext4)
    volume = await pool.create(wish("a"))
    device = await pool.attach(volume.id, {}, {})
    run("mkfs.ext4", "-q", device.path)
    mountpoint = ext4 / "mounted"
    mountpoint.mkdir()
    run("mount", device.path, mountpoint)
    with pytest.raises(VolumeInUse, match=str(device.path)):
        await pool.delete(volume.id)
    assert await pool.get(volume.id) == volume
    run("umount", mountpoint)
    await pool.delete(volume.id)


async def test_a_full_pool_says_so(ext4, serving):
    """Without room for a thick volume, a copy, or even a record, the pool is full and nothing is left."""
    pool = await serving(ext4, overprovision_ratio=10)
    volume = await pool.create(wish("a", 40 * MIB))
    device = await pool.attach(volume.id, {}, {})
    await asyncio.to_thread(blockio.fill, device, b"\xa5")
    with pytest.raises(OutOfSpace, match="pool 'pool'"):
        await pool.create(wish("thick", 30 * MIB, parameters={"allocation": "thick"}))
    with pytest.raises(OutOfSpace, match="pool 'pool'"):
        await pool.create_snapshot("cut", volume.id)
    before = await pool.capacity({})
    filler = ext4 / "filler"
    with filler.open("wb") as file, pytest.raises(OSError, match="No space"):  # noqa: PT012
        while True:
            file.write(bytes(4096))
            file.flush()
    with pytest.raises(OutOfSpace, match=str(ext4)):
        await pool.create(wish("b", MIB))
    assert (await pool.condition(volume.id)).abnormal
    filler.unlink()
    assert await pool.find("b") is None
    assert [path.name for path in (ext4 / "volumes").iterdir()] == ["a"]
    assert list((ext4 / "snapshots").iterdir()) == []
    assert (await pool.capacity({})).available_bytes >= before.available_bytes - MIB


async def test_a_disk_that_turned_read_only_says_so(scratch, serving):
    """After an error of its filesystem a pool refuses changes for that reason, and still finds volumes."""
    with mounted_filesystem(scratch, "ext4", 64, "-e", "remount-ro") as point:
        pool = await serving(point)
        volume = await pool.create(wish("a"))
        device = loopdevices.attached_to(scratch / "ext4.img")
        Path("/sys/fs/ext4", device.path.name, "trigger_fs_error").write_text("1")
        with pytest.raises(PoolUnavailable, match="read-only"):
            await pool.create(wish("b"))
        with pytest.raises(PoolUnavailable, match="read-only"):
            await pool.compare_and_set_facts(volume.id, volume.facts, volume.facts.with_(fs_type="ext4"))
        assert await pool.get(volume.id) == volume
        assert (await pool.condition(volume.id)).abnormal
        await pool.close()
        with pytest.raises(PoolUnavailable, match="read-only"):
            await serving(point)


async def test_an_unmounted_disk_is_no_empty_pool(scratch, serving):
    """With require_mount, the folder beneath the disk is refused, and gets no identity of its own."""
    with mounted_filesystem(scratch, "ext4", 64) as point:
        pool = await serving(point, require_mount=True)
        uid = pool.pool_uid
        await pool.create(wish("a"))
        await pool.close()
        run("umount", point)
        with pytest.raises(PoolUnavailable, match="not a mount point"):
            await serving(point, require_mount=True)
        assert list(point.iterdir()) == []
        run("mount", "-o", "loop", scratch / "ext4.img", point)
        pool = await serving(point, require_mount=True)
        assert pool.pool_uid == uid
        assert await pool.find("a") is not None
        await pool.close()


async def test_a_pool_without_reflink_is_refused_on_demand(ext4, serving):
    """`copies: reflink` on a filesystem that cannot share blocks stops the start, and says what could."""
    with pytest.raises(PoolUnavailable, match="XFS"):
        await serving(ext4, copies="reflink")
    pool = await serving(ext4)
    assert not pool.atomic_copies
    assert sorted(path.name for path in ext4.iterdir()) == [
        ".lock",
        "lost+found",
        "pool.json",
        "snapshots",
        "volumes",
    ]


async def test_a_pool_on_tmpfs_works(scratch, serving):
    """Where a filesystem has no direct I/O the device is buffered, and its condition says so."""
    with mounted_filesystem(scratch, "tmpfs", 64) as point:
        pool = await serving(point)
        volume = await pool.create(wish("a"))
        device = await pool.attach(volume.id, {}, {})
        assert await pool.attach(volume.id, {}, {}) == device
        described = loopdevices.attached_to(point / "volumes" / "a" / "disk.img")
        condition = await pool.condition(volume.id)
        assert not condition.abnormal
        assert ("buffered" in condition.message) is not described.direct_io
        await pool.close()
        again = await serving(point)
        assert await again.attach(volume.id, {}, {}) == device
        await again.delete(volume.id)
        await again.close()


async def test_without_direct_io_devices_are_buffered(ext4, serving, monkeypatch):
    """On a filesystem without direct I/O a volume is attached all the same, and its condition says so."""
    real = loop.attach

    def without_direct_io(file, **wishes):
        if wishes["direct_io"]:
            present = loopdevices.attached_to(file)
            raise (Precondition if present else HostError)(f"{file}: no direct I/O")
        return real(file, **wishes)

    monkeypatch.setattr(loop, "attach", without_direct_io)
    pool = await serving(ext4)
    volume = await pool.create(wish("a"))
    device = await pool.attach(volume.id, {}, {})
    assert "buffered" in (await pool.condition(volume.id)).message
    await pool.close()
    again = await serving(ext4)
    assert await again.attach(volume.id, {}, {}) == device
    assert not list(ext4.glob(".probe*"))
    assert len([found for found in loopdevices.devices() if found.backing[0] == ext4.stat().st_dev]) == 1


async def test_another_failure_does_not_make_devices_buffered(ext4, serving, monkeypatch):
    """An attachment that fails for another reason fails, and the next one has direct I/O."""
    pool = await serving(ext4)
    volume = await pool.create(wish("a"))
    real = loop.attach

    def failing(file, **wishes):
        if file.name == "disk.img":
            raise HostError("out of loop devices")
        return real(file, **wishes)

    monkeypatch.setattr(loop, "attach", failing)
    with pytest.raises(HostError, match="out of loop devices"):
        await pool.attach(volume.id, {}, {})
    monkeypatch.undo()
    await pool.attach(volume.id, {}, {})
    assert loopdevices.attached_to(ext4 / "volumes" / "a" / "disk.img").direct_io
    assert not list(ext4.glob(".probe*"))


async def test_a_start_finishes_what_a_crash_left(ext4, serving):
    """Half-made and half-removed objects go, unless a device is held or a file is not katacsi's."""
    pool = await serving(ext4)
    volumes = [await pool.create(wish(name, MIB)) for name in ("kept", "dying", "held")]
    held = await pool.attach(volumes[2].id, {}, {})
    await pool.attach(volumes[1].id, {}, {})
    await pool.close()
    shelf = ext4 / "volumes"
    for name in ("dying", "held"):
        (shelf / name).rename(shelf / f".deleting-{name}")
    for folder in (".creating-half", ".creating-stranger"):
        (shelf / folder).mkdir()
        (shelf / folder / "disk.img").write_bytes(b"half")
    (shelf / ".creating-stranger" / "thesis.txt").write_text("not ours")
    (shelf / "kept" / ".tmp-0123456789abcdef").write_text("torn")
    with blockio.held(held):
        pool = await serving(ext4)
        assert sorted(path.name for path in shelf.iterdir()) == [
            ".creating-stranger",
            ".deleting-held",
            "kept",
        ]
        assert sorted(path.name for path in (shelf / "kept").iterdir()) == ["disk.img", "volume.json"]
        assert await pool.get(volumes[1].id) is None
        await pool.close()
    pool = await serving(ext4)
    assert sorted(path.name for path in shelf.iterdir()) == [".creating-stranger", "kept"]
    assert (shelf / ".creating-stranger" / "thesis.txt").exists()
    assert not Path("/sys/block", held.path.name, "loop").exists()


async def test_a_delete_that_stopped_half_way_is_finished_by_a_retry(ext4, serving, monkeypatch):
    """A removal that failed after its commit leaves no bytes once it was asked for again."""
    pool = await serving(ext4)
    volume = await pool.create(wish("a"))

    def fail(path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(directories, "remove_tree", fail)
    with pytest.raises(Exception, match="Input/output error"):
        await pool.delete(volume.id)
    monkeypatch.undo()
    assert await pool.get(volume.id) is None
    await pool.delete(volume.id)
    assert list((ext4 / "volumes").iterdir()) == []
