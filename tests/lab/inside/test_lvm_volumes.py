"""What the lvm backend promises beyond the common contract, on real device-mapper and real disks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from katacsi.backends.api import ContentSource, CreateRequest, Facts, FormatState, PoolContext, SizeRange
from katacsi.backends.lvm import LvmBackend, LvmSettings
from katacsi.errors import OutOfSpace, PoolUnavailable, Unsupported
from katacsi.model import MIB
from katacsi.testing import blockio
from support import lvm_pools
from support.lvm_crashes import Crashes, at_each_command
from support.lvm_pools import THIN_POOL
from support.real_lvm import VG, lvs, run

DEVICES = ("/dev/ubd*",)
FACTS = Facts(FormatState.FORMATTED, "ext4", "6b1f2a52-0e5c-4c8e-9a53-000000000001")


volume_group = pytest.fixture(lvm_pools.volume_group, scope="module", name="volume_group")


def request(name, size=16 * MIB, source=None, **parameters):
    return CreateRequest(name, SizeRange(size), parameters, {"direct": "auto"}, source)


class Started:
    """Pools on the group that were started by a test."""

    def __init__(self):
        self.backends = []

    async def __call__(self, **settings):
        settings = LvmSettings(volume_group=VG, devices=DEVICES, **settings)
        backend = LvmBackend(settings, PoolContext("pool", "test.katacsi.io", "node-1"))
        await backend.start()
        self.backends.append(backend)
        return backend


@pytest.fixture
async def start(volume_group):
    """Start pools; what is left in the last one at the end is deleted."""
    started = Started()
    yield started
    backend = started.backends[-1]
    for snapshot in (await backend.list_snapshots("", 0)).items:
        await backend.delete_snapshot(snapshot.id)
    for volume in (await backend.list("", 0)).items:
        await backend.detach(volume.id)
        await backend.delete(volume.id)
    await backend.close()


async def write(pool, volume, data, offset=0):
    device = await pool.attach(volume.id, {}, {})
    await asyncio.to_thread(blockio.write, device, data, offset)
    await pool.detach(volume.id)


async def read(pool, volume, length, offset=0):
    device = await pool.attach(volume.id, {}, {})
    data = await asyncio.to_thread(blockio.read, device, length, offset)
    await pool.detach(volume.id)
    return data


async def fill(pool, volume):
    device = await pool.attach(volume.id, {}, {})
    await asyncio.to_thread(blockio.fill, device, b"\xa5")
    await pool.detach(volume.id)


async def ready(pool, name, volume):
    for _ in range(600):
        if (snapshot := await pool.create_snapshot(name, volume.id)).ready:
            return snapshot
        await asyncio.sleep(0.2)
    raise AssertionError(f"{snapshot} is not ready")


async def settled(condition):
    """Wait until something is so, while the pool goes on."""
    for _ in range(120):
        if await asyncio.to_thread(condition):
            return
        await asyncio.sleep(0.3)
    raise AssertionError("it did not come about")


def extents_of(lv):
    """Give what lies on the disk where an LV of 16 MiB is, to be called when the LV is gone."""
    disk, first = run("lvs", "--noheadings", "--options", "seg_pe_ranges", f"{VG}/{lv}").strip().split(":")
    offset = MIB + int(first.split("-")[0]) * 4 * MIB

    def content():
        run("blockdev", "--flushbufs", disk)  # what was read before is not what is there now
        with Path(disk).open("rb") as raw:
            raw.seek(offset)
            return raw.read(16 * MIB)

    return content


def names():
    return set(run("lvs", "--noheadings", "--options", "lv_name", VG).split()) - {THIN_POOL}


# -- types ---------------------------------------------------------------------------------------------

TYPES = {
    "striped": ({"type": "striped", "stripes": "3"}, "striped", "3"),
    "raid1": ({"type": "raid1"}, "raid1", "2"),
    "raid5": ({"type": "raid5"}, "raid5", "3"),
    "raid6": ({"type": "raid6"}, "raid6", "5"),
    "raid10": ({"type": "raid10"}, "raid10", "4"),
}


@pytest.mark.parametrize(("parameters", "kind", "legs"), TYPES.values(), ids=TYPES.keys())
async def test_each_type_is_what_it_says(start, parameters, kind, legs):
    """A volume of each type lies on so many disks, keeps its bytes when it grows; what is new is zero."""
    pool = await start()
    stale = await pool.create(request("stale", 240 * MIB))
    await fill(pool, stale)
    await pool.delete(stale.id)
    volume = await pool.create(request("a", 20 * MIB, **parameters))
    found = lvs("kv-a", "segtype", "stripes")
    assert found["segtype"].split("_")[0] == kind
    assert found["stripes"] == legs
    assert await read(pool, volume, volume.size_bytes) == bytes(volume.size_bytes)
    await write(pool, volume, b"kept", volume.size_bytes - 4)
    grown = await pool.expand(volume.id, 50 * MIB)
    assert grown >= 50 * MIB
    tail = await read(pool, volume, grown - volume.size_bytes + 4, volume.size_bytes - 4)
    assert tail == b"kept" + bytes(grown - volume.size_bytes)
    assert not (await pool.condition(volume.id)).abnormal


async def test_the_offered_maximum_can_be_had(start):
    """What GetCapacity calls the largest volume is made, for RAID too; more than it has is refused."""
    pool = await start(zero="edges")
    for number, parameters in enumerate([{"type": "raid1"}, {"type": "raid5"}, {"type": "striped"}]):
        room = await pool.capacity(parameters)
        with pytest.raises(OutOfSpace):
            await pool.create(request(f"b{number}", room.available_bytes + 4 * MIB, **parameters))
        volume = await pool.create(request(f"a{number}", room.maximum_volume_bytes, **parameters))
        assert volume.size_bytes == room.maximum_volume_bytes
        await pool.delete(volume.id)


async def test_integrity(start):
    """Checksums are kept, capacity counts them; what LVM cannot do to such volumes is refused in words."""
    pool = await start()
    parameters = {"type": "raid1", "integrity": "true"}
    before = await pool.capacity(parameters)
    volume = await pool.create(request("a", 40 * MIB, **parameters))
    assert run("lvs", "--noheadings", "--options", "raidintegritymode", f"{VG}/kv-a").strip()
    await write(pool, volume, b"kept")
    assert await read(pool, volume, 4) == b"kept"
    assert (await pool.capacity(parameters)).available_bytes <= before.available_bytes - 40 * MIB
    with pytest.raises(Unsupported, match="integrity"):
        await pool.expand(volume.id, 80 * MIB)
    with pytest.raises(Unsupported, match="integrity"):
        await pool.create_snapshot("s", volume.id)
    assert not (await pool.condition(volume.id)).abnormal


# -- thin ----------------------------------------------------------------------------------------------


async def test_thin_pools_are_watched(start):
    """A thin pool over its limit takes no volumes and makes its volumes abnormal; it grows when told to."""
    pool = await start(thin_pool=THIN_POOL, thin_data_limit=50)
    volume = await pool.create(request("a", 160 * MIB))
    await fill(pool, volume)
    assert (await pool.capacity({})).available_bytes == 0
    with pytest.raises(OutOfSpace, match="limit is 50 %"):
        await pool.create(request("b"))
    assert "limit is 50 %" in (await pool.condition(volume.id)).message
    await pool.close()
    size = lvs(THIN_POOL, "lv_size")
    pool = await start(thin_pool=THIN_POOL, thin_autoextend_threshold=60, thin_autoextend_percent=50)
    await settled(lambda: lvs(THIN_POOL, "lv_size") != size)
    pool._group._known = None
    assert (await pool.capacity({})).available_bytes > 0


async def test_a_thin_pool_that_shows_former_bytes_is_refused(start):
    """A pool that does not zero new blocks would show one tenant's bytes to the next."""
    await start()
    run("lvcreate", "--yes", "--type", "thin-pool", "-Zn", "--size", "16M", "--name", "stale", VG)
    try:
        with pytest.raises(PoolUnavailable, match="lvchange -Zy"):
            await LvmBackend(
                LvmSettings(volume_group=VG, devices=DEVICES, thin_pool="stale"),
                PoolContext("other", "test.katacsi.io", "node-1"),
            ).start()
    finally:
        run("lvremove", "--yes", f"{VG}/stale")


# -- isolation -----------------------------------------------------------------------------------------


async def test_what_guests_keep_on_volumes_is_not_looked_at(start):
    """A volume group inside a volume is its guest's: it is neither listed nor in our way."""
    pool = await start()
    volume = await pool.create(request("a"))
    device = await pool.attach(volume.id, {}, {})
    run("vgcreate", "--yes", "--config", "devices { scan_lvs = 1 }", "guest", device.path)
    seen = await pool._group._lvm.find_groups()
    assert [row["vg_name"] for row in seen] == [VG]
    await pool.detach(volume.id)


async def test_nobody_else_activates_volumes(start):
    """`vgchange -ay`, as boot does it, leaves volumes alone; attaching activates them."""
    pool = await start(thin_pool=THIN_POOL)
    volumes = [await pool.create(request("a")), await pool.create(request("b", type="linear"))]
    run("vgchange", "--activate", "ay", VG)
    run("vgchange", "--activate", "y", VG)
    assert [await pool.attached(volume.id) for volume in volumes] == [None, None]
    for volume in volumes:
        assert (await pool.attach(volume.id, {}, {})).path.is_block_device()
        await pool.detach(volume.id)


# -- wiping --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wipe", ["signatures", "zero", "discard"])
async def test_wiping_on_delete(start, wipe):
    """The bytes that a deleted volume had are gone from the disk, as far as the class says."""
    pool = await start()
    volume = await pool.create(request("a", wipe=wipe))
    device = await pool.attach(volume.id, {}, {})
    await asyncio.to_thread(run, "mkfs.ext4", "-q", device.path)
    await asyncio.to_thread(blockio.write, device, b"secret", 8 * MIB)
    content = extents_of("kv-a")
    await pool.detach(volume.id)
    await pool.delete(volume.id)
    left = content()
    assert left[1080:1082] != b"\x53\xef", "the filesystem's magic number"
    assert (b"secret" in left) is (wipe == "signatures")


async def test_an_interrupted_wipe_is_finished(start):
    """A volume that was being wiped at a crash is none any more; the start wipes and removes it."""
    pool = await start()
    volume = await pool.create(request("a", wipe="zero"))
    run(
        "lvchange",
        "--deltag",
        "katacsi.io/state=ready",
        "--addtag",
        "katacsi.io/state=deleting",
        f"{VG}/kv-a",
    )
    await pool.close()
    room = await (pool := await start()).capacity({})
    assert await pool.get(volume.id) is None
    await settled(lambda: "kv-a" not in names())
    pool._group._known = None
    assert (await pool.capacity({})).available_bytes >= room.available_bytes


# -- copies and crashes --------------------------------------------------------------------------------


async def test_a_thick_snapshot_is_of_the_moment_of_its_cut(start):
    """What is written after the cut is not in the snapshot, though it is copied later; a restore waits."""
    pool = await start()
    volume = await pool.create(request("a"))
    await pool.compare_and_set_facts(volume.id, Facts(), FACTS)
    device = await pool.attach(volume.id, {}, {})
    await asyncio.to_thread(blockio.write, device, b"before")
    first = await pool.create_snapshot("s", volume.id)
    assert not first.ready
    await asyncio.to_thread(blockio.write, device, b"after!")
    copy = await pool.create(request("b", source=ContentSource(first.id)))
    snapshot = await ready(pool, "s", volume)
    assert (snapshot.created_at, snapshot.size_bytes) == (first.created_at, volume.size_bytes)
    assert await read(pool, copy, 6) == b"before"
    assert copy.facts == FACTS.of_copy()
    assert await asyncio.to_thread(blockio.read, device, 6) == b"after!"


@pytest.fixture
def crashes(monkeypatch):
    return Crashes(monkeypatch)


async def written(pool):
    volume = await pool.create(request("a", type="linear"))
    await write(pool, volume, b"kept")


async def clean(pool):
    for snapshot in (await pool.list_snapshots("", 0)).items:
        await pool.delete_snapshot(snapshot.id)
    for volume in (await pool.list("", 0)).items:
        await pool.detach(volume.id)
        await pool.delete(volume.id)
    assert names() == set()


async def test_crashes_while_a_thick_snapshot_is_made(start, crashes):
    """After a crash behind any command there is one whole snapshot, and nothing else."""

    async def snap(pool):
        await ready(pool, "s", await pool.find("a"))

    async def check(pool, where):
        assert names() == {"kv-a", "ks-s"}, where
        snapshot = await pool.find_snapshot("s")
        copy = await pool.create(request("b", source=ContentSource(snapshot.id), type="linear"))
        assert await read(pool, copy, 4) == b"kept", where
        await clean(pool)

    assert await at_each_command(crashes, start, written, snap, check) >= 4


async def test_crashes_while_a_volume_is_cloned(start, crashes):
    """After a crash behind any command there is one clone with its source's bytes, and no cut."""

    async def clone(pool):
        source = ContentSource((await pool.find("a")).id)
        await pool.create(request("b", 24 * MIB, source=source, type="linear"))

    async def check(pool, where):
        assert names() == {"kv-a", "kv-b"}, where
        copy = await pool.find("b")
        assert await read(pool, copy, copy.size_bytes) == b"kept" + bytes(copy.size_bytes - 4), where
        await clean(pool)

    assert await at_each_command(crashes, start, written, clone, check) >= 4


async def test_crashes_while_a_thin_snapshot_is_restored(start, crashes):
    """After a crash behind any command there is one restored volume, larger than the snapshot."""

    async def thin():
        return await start(thin_pool=THIN_POOL)

    async def prepare(pool):
        volume = await pool.create(request("a"))
        await write(pool, volume, b"kept")
        await pool.create_snapshot("s", volume.id)

    async def restore(pool):
        source = ContentSource((await pool.find_snapshot("s")).id)
        await pool.create(request("b", 24 * MIB, source=source))

    async def check(pool, where):
        assert names() == {"kv-a", "kv-b", "ks-s"}, where
        copy = await pool.find("b")
        assert copy.size_bytes == 24 * MIB
        assert await read(pool, copy, 4) == b"kept", where
        await clean(pool)

    assert await at_each_command(crashes, thin, prepare, restore, check) == 3
