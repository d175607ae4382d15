"""Copies of what is being written are of one moment, and nobody else gets at their source meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from katacsi.errors import OperationPending
from katacsi.model import VolumeId
from katacsi.volumes.requests import SourceKind, SourceRef
from support import counting
from support.node import MIB, Volume

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from katacsi.backends.api import Backend

KINDS = ["snapshot", "clone"]
SIZES = {"ext4": 128 * MIB, "xfs": 304 * MIB}


async def backend_of(pvc: Volume) -> Backend:
    """Give the pool that the driver asks for the volume."""
    return await pvc.node.driver.context.pools.holding(VolumeId.parse(pvc.id))


async def copied(pvc: Volume, kind: str) -> Volume:
    """Make a volume with the bytes that the source has now, the one way or the other."""
    copy = Volume(pvc.node, f"{kind}-of-{pvc.name}", pvc.fs_type, size=pvc.size)
    if kind == "snapshot":
        await copy.create(await pvc.snapshot())
    else:
        await copy.create(source_ref=SourceRef(SourceKind.VOLUME, pvc.id))
    return copy


def copying(kind: str) -> str:
    """Name the method of a backend that takes the bytes."""
    return "create_snapshot" if kind == "snapshot" else "create"


async def copied_while_written(pvc: Volume, folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy a volume while a workload counts in it; the copy is of one moment, at which nothing is written."""
    backend = await backend_of(pvc)
    really = getattr(backend, copying(kind))
    stood_at = 0

    async def watched(*request: Any) -> Any:
        nonlocal stood_at
        stood_at = await workload.stands_still()
        made = await really(*request)
        assert workload.done == stood_at, "a write came to its end while the bytes were copied"
        return made

    with counting.workload(folder, pvc.node.scratch) as workload, monkeypatch.context() as patch:
        await workload.counts_to(10)
        patch.setattr(backend, copying(kind), watched)
        copy = await copied(pvc, kind)
        assert stood_at >= 10
        await workload.counts_to(stood_at + 10)
    shown = copy.filesystem
    assert shown is not None
    assert shown.clean, "the copy has to be repaired, like a disk after a power cut"
    await copy.stage()
    await copy.publish()
    first, second = counting.held(copy.target)
    # The write at which it stood still is not in it, and all that were answered are.
    assert stood_at == second <= first <= stood_at + 1
    await copy.down()


@pytest.mark.parametrize("fs_type", SIZES)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_copy_of_a_volume_that_a_pod_writes_is_of_one_moment(
    reflink_node, monkeypatch, kind, fs_type
):
    """Each write that was answered before is in it, none is torn or out of order, and none ends meanwhile."""
    pvc = Volume(reflink_node, fs_type=fs_type, size=SIZES[fs_type])
    await pvc.up()
    await copied_while_written(pvc, pvc.target, kind, monkeypatch)
    await pvc.down()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_copy_that_takes_long_is_of_one_moment(node, volume, monkeypatch, kind):
    """Also where every byte is copied: what still has the staging mount waits until the copy is done."""
    pvc = volume(size=SIZES["ext4"])
    await pvc.up()
    await pvc.unpublish()
    await copied_while_written(pvc, pvc.staging, kind, monkeypatch)
    await pvc.unstage()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_copy_stops_its_clock(reflink_node, kind):
    """Nothing goes on after it that could thaw what is frozen later."""
    pvc = Volume(reflink_node)
    await pvc.up()
    before = asyncio.all_tasks()
    await copied(pvc, kind)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    await pvc.down()


# -- the source meanwhile ------------------------------------------------------------------------------


@asynccontextmanager
async def in_the_middle(
    backend: Backend, method: str, call: Callable[[], Awaitable[object]], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[None]:
    """Have a call stand in the middle of its backend's work until the block ends."""
    really = getattr(backend, method)
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def long(*request: Any) -> Any:
        begun.set()
        await may_end.wait()
        return await really(*request)

    with monkeypatch.context() as patch:
        patch.setattr(backend, method, long)
        called = asyncio.ensure_future(call())
        await asyncio.wait_for(begun.wait(), 10)
    try:
        yield
    finally:
        may_end.set()
        await called


@pytest.mark.parametrize("kind", KINDS)
async def test_a_source_is_left_alone_while_it_is_copied(node, volume, monkeypatch, kind):
    """Deleting, growing, using or copying it meanwhile is refused for a retry, which succeeds."""
    pvc = volume()
    await pvc.create()
    await pvc.stage()
    source = SourceRef(SourceKind.VOLUME, pvc.id)
    calls = {
        "delete": pvc.delete,
        "expand": lambda: pvc.expand(2 * pvc.size, path=pvc.staging),
        "publish": pvc.publish,
        "unpublish": pvc.unpublish,
        "stage": pvc.stage,
        "unstage": pvc.unstage,
        "snapshot": lambda: pvc.snapshot("another"),
        "clone": lambda: volume("another").create(source_ref=source),
    }
    async with in_the_middle(await backend_of(pvc), copying(kind), lambda: copied(pvc, kind), monkeypatch):
        for name, call in calls.items():
            with pytest.raises(OperationPending, match=f"volume {pvc.name}"):
                pytest.fail(f"{name} answered {await call()}")
    assert await pvc.expand(2 * pvc.size, path=pvc.staging) == 2 * pvc.size
    await pvc.unstage()


async def test_a_snapshot_is_left_alone_while_it_is_restored(node, volume, monkeypatch):
    """It is not deleted while a volume is made of its bytes; the retry succeeds."""
    pvc, restore = volume(), volume("restore")
    await pvc.create()
    snapshot = await pvc.snapshot()
    backend = await backend_of(pvc)
    async with in_the_middle(backend, "create", lambda: restore.create(snapshot), monkeypatch):
        with pytest.raises(OperationPending, match="snapshot snap-1"):
            await node.driver.snapshots.delete(str(snapshot.id))
    await node.driver.snapshots.delete(str(snapshot.id))
