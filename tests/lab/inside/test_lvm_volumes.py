"""What the lvm backend promises beyond the common contract, on real device-mapper and real disks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from katacsi.backends.api import ContentSource, Facts, FormatState, PoolContext
from katacsi.backends.lvm import LvmBackend, LvmSettings
from katacsi.errors import OutOfSpace, PoolUnavailable, Unsupported
from katacsi.model import MIB
from katacsi.testing import blockio
from support import lvm_pools
from support.lvm_pools import THIN_POOL, fill, names, read, ready, request, settled, write
from support.real_lvm import DEVICES, VG, lvs, run

UDEV = False
SECONDS = 100

FACTS = Facts(FormatState.FORMATTED, "ext4", "6b1f2a52-0e5c-4c8e-9a53-000000000001")


volume_group = pytest.fixture(lvm_pools.volume_group, scope="module", name="volume_group")
start = pytest.fixture(lvm_pools.start, name="start")


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


# -- copies --------------------------------------------------------------------------------


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
