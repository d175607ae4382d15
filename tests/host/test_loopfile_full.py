"""A pool whose filesystem others filled: what frees room needs none, and what needs room says so."""

import asyncio
import os
import subprocess
import time

import pytest

from katacsi.backends.api import CreateRequest, PoolContext, SizeRange
from katacsi.backends.loopfile import LoopfileBackend, LoopfileSettings
from katacsi.host import sizedfiles
from katacsi.model import MIB
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
