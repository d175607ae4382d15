"""A crash of the lvm backend behind any LVM command, on real device-mapper, is mended by a start and a retry.

Behind activations too: here they are real. The crash comes once behind each command of a call, each time with
another type of volume (see `at_each_command_of_some`): so each command's crash is seen, each type's whole
way, and the time is bounded.
"""

from __future__ import annotations

import asyncio

import pytest

from katacsi.backends.api import ContentSource
from katacsi.model import MIB
from katacsi.testing import blockio
from support import lvm_pools
from support.lvm_crashes import Case, Crashes, at_each_command_of_some
from support.lvm_pools import THIN_POOL, clear, names, read, ready, request, write
from support.real_lvm import VG, run

UDEV = False
SECONDS = 150

SIZE = 16 * MIB
TYPES = {
    "linear": {},
    "striped": {"type": "striped"},
    "raid1": {"type": "raid1"},
    "raid5": {"type": "raid5"},
    "thin": {"type": "thin"},
}
#: Every type has what raid1 and raid5 do with such calls in common with raid10.
FEW = ("linear", "raid10", "thin")
PLAIN = ("linear", "striped", "thin")
TYPES["raid10"] = {"type": "raid10"}

volume_group = pytest.fixture(lvm_pools.volume_group, scope="module", name="volume_group")
start = pytest.fixture(lvm_pools.start, name="start")


@pytest.fixture
def crashes(monkeypatch):
    return Crashes(monkeypatch, activations=True)


@pytest.fixture
def pool_of(start):
    """Start pools of a type."""

    def of(kind, **settings):
        return lambda: start(thin_pool=THIN_POOL if kind == "thin" else None, **settings)

    return of


def of_type(kind):
    """Give functions that make a volume of a type with known bytes, and read all of it."""

    async def make(pool, **parameters):
        volume = await pool.create(request("a", SIZE, **TYPES[kind], **parameters))
        await write(pool, volume, b"kept", SIZE - 4)

    return make


async def gone(pool, where):
    """See that nothing is left once all is deleted: no LV, no device, no room."""
    await clear(pool)
    assert names() == set(), where
    devices = run("dmsetup", "ls", "--noheadings").replace("No devices found", "")
    assert {line.split()[0] for line in devices.splitlines() if "kv" in line or "ks" in line} == set(), where


def report(what, crashed, least):
    print(f"{what}: " + ", ".join(f"{step}. {kind}" for step, kind in crashed.items()))
    assert len(crashed) >= least


async def test_creating(pool_of, crashes):
    """There is one blank volume of the type that was asked for, not attached."""

    def case(kind):
        async def check(pool, where):
            (volume,) = (await pool.list("", 0)).items
            assert names() == {"kv-a"}, where
            assert await pool.attached(volume.id) is None, where
            assert await read(pool, volume, volume.size_bytes) == bytes(volume.size_bytes), where
            await gone(pool, where)

        async def create(pool):
            return await pool.create(request("a", SIZE, **TYPES[kind]))

        return Case(kind, pool_of(kind), nothing, create, check)

    report("create", await at_each_command_of_some(crashes, [case(kind) for kind in TYPES]), 3)


async def nothing(pool):
    pass


async def test_attaching_and_detaching(pool_of, crashes):
    """A crash leaves a volume attached or not; attaching and detaching again are success."""

    def case(kind):
        async def use(pool):
            volume = await pool.find("a")
            device = await pool.attach(volume.id, {}, {})
            assert await asyncio.to_thread(blockio.read, device, 4, SIZE - 4) == b"kept"
            await pool.detach(volume.id)

        async def check(pool, where):
            assert await pool.attached((await pool.find("a")).id) is None, where
            await gone(pool, where)

        return Case(kind, pool_of(kind), of_type(kind), use, check)

    report("attach", await at_each_command_of_some(crashes, [case(kind) for kind in FEW]), 2)


async def test_growing(pool_of, crashes):
    """The volume has its new size and its bytes, what is new is zero, and no extent is lost."""

    def case(kind):
        async def grow(pool):
            await pool.expand((await pool.find("a")).id, 2 * SIZE)

        async def check(pool, where):
            volume = await pool.find("a")
            assert volume.size_bytes == 2 * SIZE, where
            assert names() == {"kv-a"}, where
            assert await read(pool, volume, SIZE + 4, SIZE - 4) == b"kept" + bytes(SIZE), where
            await gone(pool, where)

        return Case(kind, pool_of(kind), of_type(kind), grow, check)

    report("expand", await at_each_command_of_some(crashes, [case(kind) for kind in FEW]), 3)


async def test_deleting_with_a_wipe(pool_of, crashes):
    """No LV is left, whatever the wipe had come to."""

    def case(kind):
        wipe = "discard" if kind == "thin" else "zero"

        async def prepare(pool):
            await of_type(kind)(pool, wipe=wipe)

        async def delete(pool):
            if (volume := await pool.find("a")) is not None:
                await pool.delete(volume.id)

        async def check(pool, where):
            # After a crash the start finishes the removal, in the background.
            await lvm_pools.settled(lambda: names() == set())
            await gone(pool, where)

        return Case(kind, pool_of(kind), prepare, delete, check)

    report("delete", await at_each_command_of_some(crashes, [case(kind) for kind in FEW]), 4)


async def test_snapshots(pool_of, crashes):
    """There is one whole snapshot, which can be restored, and nothing else."""

    def case(kind):
        async def snap(pool):
            await ready(pool, "s", await pool.find("a"))

        async def check(pool, where):
            assert names() == {"kv-a", "ks-s"}, where
            snapshot = await pool.find_snapshot("s")
            copy = await pool.create(request("b", 0, ContentSource(snapshot.id), **TYPES[kind]))
            assert await read(pool, copy, 4, SIZE - 4) == b"kept", where
            await gone(pool, where)

        return Case(kind, pool_of(kind), of_type(kind), snap, check)

    report("snapshot", await at_each_command_of_some(crashes, [case(kind) for kind in PLAIN]), 6)


@pytest.mark.parametrize("of", ["snapshot", "volume"])
async def test_copies(pool_of, crashes, of):
    """There is one copy, larger than its source, with its bytes and zeros behind them; no cut is left."""

    def case(kind):
        async def source(pool):
            return await (pool.find_snapshot("s") if of == "snapshot" else pool.find("a"))

        async def prepare(pool):
            await of_type(kind)(pool)
            if of == "snapshot":
                await ready(pool, "s", await pool.find("a"))

        async def copy(pool):
            origin = ContentSource((await source(pool)).id)
            await pool.create(request("b", 24 * MIB, origin, **TYPES[kind]))

        async def check(pool, where):
            assert names() == {"kv-a", "kv-b"} | ({"ks-s"} if of == "snapshot" else set()), where
            made = await pool.find("b")
            assert made.size_bytes == 24 * MIB, where
            assert await read(pool, made, 8 * MIB + 4, SIZE - 4) == b"kept" + bytes(8 * MIB), where
            await gone(pool, where)

        return Case(kind, pool_of(kind), prepare, copy, check)

    report(f"copy of a {of}", await at_each_command_of_some(crashes, [case(kind) for kind in PLAIN]), 4)


async def test_a_crash_of_lvm_itself(start):
    """Where LVM was killed half-way, its device suspended or of the former size, the next call mends it."""
    pool = await start()
    volume = await pool.create(request("a", SIZE))
    device = await pool.attach(volume.id, {}, {})
    await asyncio.to_thread(blockio.write, device, b"kept")
    # What a kill between the metadata's commit and the device's resumption leaves.
    run("dmsetup", "suspend", "--nolockfs", device.path)
    assert (await pool.attach(volume.id, {}, {})).size_bytes == SIZE
    assert await asyncio.to_thread(blockio.read, device, 4) == b"kept"
    # A pod that uses it does not ask for it again: the next start of the driver lets it go on.
    run("dmsetup", "suspend", "--nolockfs", device.path)
    await pool.close()
    pool = await start()
    assert await asyncio.to_thread(blockio.read, device, 4) == b"kept"
    table = run("dmsetup", "table", device.path)
    await pool.expand(volume.id, 2 * SIZE)
    run("dmsetup", "reload", device.path, "--table", table.strip())
    run("dmsetup", "resume", device.path)
    assert await pool.expand(volume.id, 2 * SIZE) == 2 * SIZE
    assert await pool.refresh(volume.id) == 2 * SIZE
    assert int(run("blockdev", "--getsize64", f"/dev/{VG}/kv-a")) == 2 * SIZE
    await pool.detach(volume.id)
