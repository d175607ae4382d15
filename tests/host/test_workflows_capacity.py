"""GetCapacity: the scheduler asks it first, and nobody reads a refusal of it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from katacsi.backends.api import Capacity
from katacsi.errors import InvalidRequest, KatacsiError
from katacsi.model import AccessMode, AccessType, Capability
from katacsi.volumes.requests import GetCapacity
from support.node import MIB, Volume, serving

GIB = 1 << 30


@pytest.fixture
async def node(scratch):
    """A node with two pools of different size, and one whose disk is away."""
    (scratch / "large").mkdir()
    small, large, gone = (
        {"backend": "loopfile", "directory": str(scratch / name), "copies": "full", "quota": quota}
        for name, quota in (("pool", "256Mi"), ("large", "512Mi"), ("gone", "1Gi"))
    )
    async with serving(scratch, pools={"default": small, "large": large, "gone": gone}) as served:
        yield served


async def left(node, **parameters: str) -> tuple[int, int]:
    """What a class with these parameters could have, in MiB: in all, and as one volume."""
    keys = {key.replace("__", "/").replace("_", "-"): value for key, value in parameters.items()}
    found = await node.driver.provisioning.capacity(
        GetCapacity(
            parameters={f"katacsi.io/{key}" if "/" not in key else key: value for key, value in keys.items()}
        )
    )
    return found.available_bytes // MIB, found.maximum_volume_bytes // MIB


@pytest.mark.parametrize(
    "mistake",
    [
        {"katacsi.io/pol": "default"},
        {"type": "thin"},
        {"katacsi.io/direct": "yes"},
        {"katacsi.io/mkfs-options": "-F"},
        {"lvm.katacsi.io/type": "thin"},
        {"lvm.katacsi.io/type": "thin", "loopfile.katacsi.io/allocation": "sparse"},
        {"loopfile.katacsi.io/allocate": "thick"},
        {"loopfile.katacsi.io/allocation": "thin"},
    ],
    ids=" ".join,
)
async def test_a_mistake_in_a_class_is_left_to_create(node, mistake):
    """The class has the room that it would have without its mistake; CreateVolume refuses it in words."""
    found = await node.driver.provisioning.capacity(GetCapacity(parameters=mistake))
    assert (found.available_bytes // MIB, found.maximum_volume_bytes // MIB) == (256, 256)
    with pytest.raises(InvalidRequest):
        await Volume(node, parameters=mistake).create()


async def test_a_parameter_that_is_right_counts_beside_one_that_is_not(node):
    """Of a class with a good and a bad key only the bad one is passed over."""
    asked: list[dict[str, str]] = []
    backend = await node.driver.context.pools.choose("default").open()
    capacity = backend.capacity

    async def noted(own):
        asked.append(dict(own))
        return await capacity(own)

    backend.capacity = noted
    await node.driver.provisioning.capacity(
        GetCapacity(
            parameters={"loopfile.katacsi.io/allocation": "thick", "loopfile.katacsi.io/nonsense": "1"}
        )
    )
    assert asked == [{"allocation": "thick"}]


async def test_only_the_key_that_is_refused_is_passed_over(node, monkeypatch):
    """A value that a backend refuses by its full key does not take the other keys with it."""
    pool = node.driver.context.pools.choose("default")
    monkeypatch.setattr(pool, "_parameters", {"good": "", "bad": ""})
    backend = await pool.open()
    asked: list[list[str]] = []

    async def picky(own):
        asked.append(sorted(own))
        if "bad" in own:
            raise InvalidRequest("loopfile.katacsi.io/bad", "is not legal")
        return Capacity(7, 7)

    monkeypatch.setattr(backend, "capacity", picky)
    parameters = {"loopfile.katacsi.io/good": "1", "loopfile.katacsi.io/bad": "2"}
    assert await node.driver.provisioning.capacity(GetCapacity(parameters=parameters)) == Capacity(7, 7)
    assert asked == [["bad", "good"], ["good"]]


async def test_a_pool_that_nobody_knows_does_not_hide_the_mistake(node):
    """The pod is scheduled, so that CreateVolume can say which pools there are."""
    assert await left(node, pool="larg") == (512, 512)
    with pytest.raises(KatacsiError, match=r"no pool 'larg' on this node; pools here: default, gone, large"):
        await Volume(node, parameters={"katacsi.io/pool": "larg"}).create()


async def test_a_pool_that_is_away_has_no_room_and_no_error(node):
    """Another node may have it; and it has a largest volume, of nothing."""
    assert await left(node, pool="gone") == (0, 0)


async def test_many_nodes_have_no_room(node):
    """CSI: the capacity is that for volumes with all the capabilities asked for."""
    many = Capability(AccessType.MOUNT, AccessMode.MULTI_NODE_MULTI_WRITER)
    found = await node.driver.provisioning.capacity(GetCapacity((many,)))
    assert (found.available_bytes, found.maximum_volume_bytes) == (0, 0)


async def test_what_is_being_made_is_taken_off(node):
    """Calls that wait for their turn have promised nothing yet; no other pod may count on their room."""
    source = await Volume(node, "pvc-source", size=16 * MIB).create()
    backend = await node.driver.context.pools.choose("default").open()
    create, may_go, waiting = backend.create, asyncio.Event(), []

    async def queued(request):
        waiting.append(request.csi_name)
        await may_go.wait()
        return await create(request)

    backend.create = queued
    calls = [
        asyncio.create_task(Volume(node, "pvc-1", size=100 * MIB).create()),
        asyncio.create_task(Volume(node, "pvc-2", size=40 * MIB).create(source)),
    ]
    while len(waiting) < 2:  # noqa: ASYNC110  # two at once
        await asyncio.sleep(0.01)
    assert await left(node) == (100, 100)
    assert await left(node, pool="large") == (512, 512)
    may_go.set()
    await asyncio.gather(*calls)
    assert await left(node) == (100, 100)


async def test_what_is_being_filled_is_taken_off_once(node, monkeypatch):
    """A volume whose bytes are being written has its promise in the pool's own count already."""
    from katacsi.host import sizedfiles

    create, begun, may_go = sizedfiles.create_sized, threading.Event(), threading.Event()

    def slowly(*arguments, **options):
        begun.set()
        may_go.wait(10)
        return create(*arguments, **options)

    monkeypatch.setattr(sizedfiles, "create_sized", slowly)
    call = asyncio.create_task(Volume(node, size=100 * MIB).create())
    try:
        await asyncio.to_thread(begun.wait, 10)
        assert await left(node) == (156, 156)
    finally:
        may_go.set()
        await call
    assert await left(node) == (156, 156)


async def test_a_create_that_failed_takes_nothing(node):
    """What was kept for it is there again."""
    backend = await node.driver.context.pools.choose("default").open()

    async def fails(request):
        raise InvalidRequest("name", "no")

    backend.create = fails
    with pytest.raises(InvalidRequest):
        await Volume(node, size=100 * MIB).create()
    assert await left(node) == (256, 256)
