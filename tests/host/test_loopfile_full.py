"""A pool whose filesystem others filled: what frees room needs none, and what needs room says so."""

import asyncio
import errno
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from katacsi.backends.api import ContentSource, CreateRequest, PoolContext, SizeRange
from katacsi.backends.loopfile import LoopfileBackend, LoopfileSettings, writeprobe
from katacsi.errors import HostError, OutOfSpace, PoolUnavailable
from katacsi.host import sizedfiles
from katacsi.model import MIB
from katacsi.volumes.requests import GetCapacity
from support import node as nodes
from support.pools import filled, mounted_filesystem

CONTEXT = PoolContext("pool", "test.katacsi.io", "node-1")
SIZES_MIB = {"ext4": 128, "xfs": 320, "btrfs": 256, "tmpfs": 64}


@pytest.fixture(params=["ext4", "xfs", "btrfs", "tmpfs"])
def point(request, scratch):
    """A filesystem for a pool."""
    with mounted_filesystem(scratch, request.param, SIZES_MIB[request.param]) as mounted:
        yield mounted


async def started(point, **settings):
    """Start the pool."""
    backend = LoopfileBackend(LoopfileSettings(directory=point, **settings), CONTEXT)
    await backend.start()
    return backend


def free_bytes(point):
    """How much is free, reserved blocks among it, once what was removed is committed."""
    subprocess.run(["sync", "-f", point], check=True)
    status = os.statvfs(point)
    return status.f_bfree * status.f_frsize


@pytest.mark.gate("delete-needs-no-room")
@pytest.mark.parametrize("again", ["same process", "restarted"])
async def test_everything_can_be_deleted(point, again):
    """Volumes, thin and thick, and snapshots go, and their bytes come back, as an operator waits for."""
    pool = await started(point)
    # Many names, so that the folder has no room left for a longer one.
    volumes = [await pool.create(CreateRequest(f"pvc-{number:0>40}", SizeRange(MIB))) for number in range(4)]
    thick = {"allocation": "thick"}
    volumes.append(await pool.create(CreateRequest("thick", SizeRange(8 * MIB), parameters=thick)))
    device = await pool.attach(volumes[0].id, {}, {})
    with device.path.open("wb") as file:
        file.write(os.urandom(MIB // 2))
    snapshot = await pool.create_snapshot("cut", volumes[0].id)
    filled(point)
    free = free_bytes(point)
    if again == "restarted":
        await pool.close()
        pool = await started(point)
    for volume in volumes:
        await pool.delete(volume.id)
        assert await pool.get(volume.id) is None
    await pool.delete_snapshot(snapshot.id)
    assert await pool.get_snapshot(snapshot.id) is None
    assert (await pool.list("", 0)).items == ()
    deadline = time.monotonic() + 5  # XFS frees bytes a moment later
    while free_bytes(point) < free + 8 * MIB:
        assert time.monotonic() < deadline, "the bytes of the thick volume did not come back"
        await asyncio.sleep(0.1)
    await pool.close()
    for other in point.glob(".filling-*"):
        other.unlink()
    await (await started(point)).close()
    assert [entry for kind in ("volumes", "snapshots") for entry in (point / kind).iterdir()] == []


@pytest.mark.parametrize(
    ("kind", "options", "shares"), [("xfs", ["-m", "reflink=1"], True), ("ext4", [], False)]
)
async def test_a_start_in_a_full_pool_knows_whether_copies_are_atomic(scratch, kind, options, shares):
    """It cannot try, for want of room, and asks."""
    with mounted_filesystem(scratch, kind, SIZES_MIB[kind], *options) as point:
        pool = await started(point)
        assert pool.atomic_copies is shares
        assert sizedfiles.can_clone(point / "pool.json") is shares
        await pool.close()
        filled(point)
        pool = await started(point)
        assert pool.atomic_copies is shares
        await pool.close()


async def test_what_needs_room_says_what_is_full(point):
    """Creation, copies and facts name the pool, what is full and what to do; nothing half made is left."""
    pool = await started(point, overprovision_ratio=100, copies="full")
    volume = await pool.create(CreateRequest("a", SizeRange(16 * MIB)))
    device = await pool.attach(volume.id, {}, {})
    with device.path.open("wb") as file:
        file.write(os.urandom(4 * MIB))
    await pool.detach(volume.id)
    filled(point)
    full = rf"pool 'pool'.*{point}.*(full|can be given)"
    thick = {"allocation": "thick"}
    for call in (
        pool.create(CreateRequest("b", SizeRange(8 * MIB), parameters=thick)),
        pool.create(CreateRequest("copy", SizeRange(), source=ContentSource(volume.id))),
        pool.create_snapshot("cut", volume.id),
    ):
        with pytest.raises(OutOfSpace, match=full):
            await call
    facts = volume.facts.with_(fs_type="ext4")
    try:
        await pool.compare_and_set_facts(volume.id, volume.facts, facts)
    except OutOfSpace as error:  # a filesystem that copies what is written needs room to do so
        assert re.search(full, error.message)  # noqa: PT017 -- it may as well succeed
    assert [volume.csi_name for volume in (await pool.list("", 0)).items] == ["a"]
    assert "full" in await pool.full(volume.id)
    assert (await pool.capacity({})).available_bytes == 0
    await pool.close()


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
async def test_a_volume_that_finds_no_room_for_its_filesystem(scratch, kind, fs_type):
    """The loop device answers mkfs with EIO; the stage says "full", and succeeds when there is room."""
    with mounted_filesystem(scratch, kind, SIZES_MIB["xfs"]) as point:
        pool = {"backend": "loopfile", "directory": str(point), "overprovision_ratio": 100}
        async with nodes.serving(scratch, pools={"default": pool}) as node:
            node.pool = point
            pvc = nodes.Volume(node, fs_type=fs_type, size=(64 if fs_type == "ext4" else 320) * MIB)
            await pvc.create()
            filled(point)
            with pytest.raises(
                OutOfSpace, match=rf"pool 'default': the filesystem of {point} is full.*enlarge"
            ):
                await pvc.stage()
            for other in point.glob(".filling-*"):
                other.unlink()
            await pvc.up()
            await pvc.down()
            await pvc.delete()


class Broken:
    """A pool's filesystem that stops taking writes while its pool is open."""

    def __init__(self, point, kind):
        self._point = point
        self._kind = kind

    def __enter__(self):
        if self._kind == "read-only":
            run("mount", "-o", "remount,errors=remount-ro", self._point)
            device = Path(run("findmnt", "-no", "SOURCE", self._point).strip())
            Path(f"/sys/fs/ext4/{device.name}/trigger_fs_error").write_text("a test")
        elif self._kind == "shut down":
            run("xfs_io", "-x", "-c", "shutdown", self._point)
        else:
            run("fsfreeze", "-f", self._point)

    def __exit__(self, *_):
        if self._kind == "frozen":
            run("fsfreeze", "-u", self._point)


@pytest.mark.parametrize("how", ["read-only", "shut down", "frozen"])
async def test_a_pool_that_takes_no_writes_has_no_room(scratch, how):
    """The scheduler goes elsewhere: capacity 0, CreateVolume RESOURCE_EXHAUSTED, and no call hangs."""
    kind = "ext4" if how == "read-only" else "xfs"
    with mounted_filesystem(scratch, kind, SIZES_MIB[kind]) as point:
        pool = {"backend": "loopfile", "directory": str(point)}
        async with nodes.serving(scratch, pools={"default": pool}) as node:
            node.pool = point
            pvc = nodes.Volume(node)
            await pvc.create()
            provisioning = node.driver.provisioning
            assert (await provisioning.capacity(GetCapacity())).available_bytes > 0
            with Broken(point, how):
                async with asyncio.timeout(20):
                    await asyncio.sleep(writeprobe.FRESH_S)
                    for _ in range(3):
                        assert (await provisioning.capacity(GetCapacity())).available_bytes == 0
                    if how == "shut down":
                        with pytest.raises(PoolUnavailable, match="takes no writes"):
                            await provisioning.get(pvc.id)
                    else:
                        assert len((await provisioning.list("", 0)).volumes) == 1
                        assert (await provisioning.get(pvc.id)).condition.abnormal
                if how != "frozen":  # there a creation waits, as the workload does
                    with pytest.raises(OutOfSpace, match=f"pool 'default': {point}"):
                        await nodes.Volume(node, "more").create()
            if how == "frozen":
                async with asyncio.timeout(20):
                    # Nobody says when the write that waited is done.
                    while not (await provisioning.capacity(GetCapacity())).available_bytes:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
                await pvc.delete()


async def test_a_place_that_cannot_be_read_is_not_the_pool(scratch, monkeypatch):
    """EIO of one file says nothing of others: the pool goes on, and the error stays what it is."""
    (scratch / "pool").mkdir()
    pool = await started(scratch / "pool")
    volume = await pool.create(CreateRequest("a", SizeRange(MIB)))
    with monkeypatch.context() as patch:
        patch.setattr(sizedfiles, "copy_file", failing_with(errno.EIO))
        patch.setattr(sizedfiles, "clone_file", failing_with(errno.EIO))
        with pytest.raises(HostError, match="Input/output error") as caught:
            await pool.create_snapshot("s", volume.id)
    assert not isinstance(caught.value, PoolUnavailable)
    assert (await pool.capacity({})).available_bytes > 0
    await pool.delete(volume.id)
    await pool.close()


def failing_with(number):
    """A step that ends in this error."""

    def step(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return step


def run(*argv):
    """Run a tool."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
