"""What a volume group can still give: RAID costs more, disks count one by one, full pools give nothing."""

import pytest

from katacsi.backends.api import Capacity
from katacsi.backends.lvm import capacity
from katacsi.backends.lvm.capacity import PoolUsage
from katacsi.backends.lvm.layout import Layout
from katacsi.backends.lvm.report import Group, Lv, Pv
from katacsi.backends.lvm.settings import LvmSettings, VolumeType
from katacsi.host.devicemapper import Mapped, Target
from katacsi.model import MIB

EXTENT = 4 * MIB
RAID1 = Layout(VolumeType.RAID1, copies=2)
STRIPED = Layout(VolumeType.STRIPED, stripes=2, stripe_size=65536)
RAID5 = Layout(VolumeType.RAID5, stripes=2, parity=1, stripe_size=65536)
RAID6 = Layout(VolumeType.RAID6, stripes=3, parity=2, stripe_size=65536)
RAID10 = Layout(VolumeType.RAID10, stripes=2, copies=2, stripe_size=65536)


def group(*free, missing=0, lvs=()):
    disks = [
        Pv(str(number), f"/dev/sd{number}", extents * EXTENT, False, True)
        for number, extents in enumerate(free)
    ]
    lost = [Pv(f"m{number}", "[unknown]", 1000 * EXTENT, True, True) for number in range(missing)]
    return Group("vg", "uuid", 1, EXTENT, missing, (*disks, *lost), {lv.name: lv for lv in lvs})


# Free extents of each disk, layout, then data extents: in all, and for one volume.
ROOM = {
    "linear spans disks": ((10, 5), Layout(), 15, 15),
    "nothing is free": ((0, 0), Layout(), 0, 0),
    "striped needs two disks": ((10,), STRIPED, 0, 0),
    "striped is as long as the shorter": ((10, 6), STRIPED, 12, 12),
    "three disks take turns": ((10, 10, 10), STRIPED, 30, 20),
    "raid1 halves, and has metadata": ((10, 10), RAID1, 9, 9),
    "raid1 without a second disk": ((10, 0), RAID1, 0, 0),
    "raid1 on unequal disks": ((100, 3), RAID1, 2, 2),
    "raid5 gives two of three": ((10, 10, 10), RAID5, 18, 18),
    "raid6 gives three of five": ((10,) * 5, RAID6, 27, 27),
    "raid6 on four disks": ((10,) * 4, RAID6, 0, 0),
    "raid10 halves": ((10,) * 4, RAID10, 18, 18),
    "only metadata would fit": ((1, 1), RAID1, 0, 0),
}


@pytest.mark.parametrize(("free", "layout", "available", "maximum"), ROOM.values(), ids=ROOM.keys())
def test_room_for_thick_volumes(free, layout, available, maximum):
    """Room is counted in data that volumes of this layout can hold."""
    room = capacity.thick(group(*free), layout, reserve=0)
    assert room == Capacity(available * EXTENT, maximum * EXTENT, layout.stripes * EXTENT)


def test_a_missing_disk_gives_nothing():
    """Nor do the others give anything then: LVM makes no volume in a group that lacks a disk."""
    assert capacity.thick(group(10, 10), Layout(), reserve=0).available_bytes == 20 * EXTENT
    assert capacity.thick(group(10, 10, missing=1), Layout(), reserve=0).available_bytes == 0
    assert "lies on 2 disks" in capacity.too_few_disks(group(10, missing=1), RAID1)


def test_the_reserve_is_kept():
    """The reserve stays free; one that is larger than what there is leaves nothing, not less."""
    assert capacity.thick(group(10, 10), Layout(), reserve=1).available_bytes == 19 * EXTENT
    assert capacity.thick(group(10, 10), RAID1, reserve=4 * EXTENT).available_bytes == 7 * EXTENT
    assert capacity.thick(group(10), Layout(), reserve=11 * EXTENT) == Capacity(0, 0, EXTENT)


def test_integrity_costs_checksums():
    """Room for checksums is set aside on each leg: 8 MiB below 500 MiB, measured with LVM 2.03.16."""
    layout = Layout(VolumeType.RAID1, copies=2, integrity=True)
    assert capacity.thick(group(23, 23), layout, reserve=0).available_bytes == 20 * EXTENT


POOL = Lv("p", "pool", 100 * EXTENT, segment_type="thin-pool", zeroes=True)


def thin(usage=None, *, promised=0, **settings):
    lvs = [POOL, Lv("t", "kv-a", promised * EXTENT, pool="pool")]
    chosen = LvmSettings(volume_group="vg", thin_pool="pool", **settings)
    return capacity.thin(group(0, lvs=lvs), POOL, usage, chosen).available_bytes // EXTENT


def test_thin_promises_are_counted():
    """At ratio 1 every volume can be written full; above it so much more may be promised."""
    assert thin() == 100
    assert thin(promised=60) == 40
    assert thin(promised=160) == 0
    assert thin(promised=60, overprovision_ratio=2) == 140
    assert thin(promised=60, reserve=10 * EXTENT) == 30


def test_what_is_written_counts_too():
    """An overprovisioned pool promises no more than the ratio of what is free."""
    assert thin(PoolUsage(90, 100), promised=100, overprovision_ratio=4) == 40


@pytest.mark.parametrize(
    "usage",
    [
        PoolUsage(95, 100),
        PoolUsage(metadata_used=90, metadata_blocks=100),
        PoolUsage(trouble="it is read-only"),
    ],
    ids=["data", "metadata", "trouble"],
)
def test_a_pool_over_its_limit_gives_nothing(usage):
    """Data, metadata and the kernel's word each close a pool for new volumes."""
    assert thin(usage) == 0
    assert usage.over_limit(LvmSettings(volume_group="vg"))


@pytest.mark.parametrize(
    ("usage", "full"),
    [
        (PoolUsage(99, 100), False),
        (PoolUsage(100, 100), True),
        (PoolUsage(metadata_used=98, metadata_blocks=100), False),
        (PoolUsage(metadata_used=99, metadata_blocks=100), True),
        (PoolUsage(trouble="it is read-only"), False),
    ],
)
def test_a_pool_is_full_when_a_write_finds_no_block(usage, full):
    """Over its limit is not full, and broken is something else."""
    assert usage.is_full is full


STATUS = {
    "healthy": ("0 128/1024 960/3840 - rw no_discard_passdown queue_if_no_space - 256", 25.0, 12.5, ""),
    "read-only": ("3 1/100 5/10 - ro discard_passdown error_if_no_space - 1", 50.0, 1.0, "read-only"),
    "full": ("3 1/100 10/10 - out_of_data_space discard_passdown x -", 100.0, 1.0, "used up"),
    "needs a check": ("3 1/100 5/10 - rw discard_passdown x needs_check 1", 50.0, 1.0, "check"),
    "failed": ("Fail", 0.0, 0.0, "repair"),
}


@pytest.mark.parametrize(("status", "data", "metadata", "trouble"), STATUS.values(), ids=STATUS.keys())
def test_the_kernels_word_on_a_thin_pool(status, data, metadata, trouble):
    """The status line of dm-thin-pool is read as it is documented."""
    usage = capacity.pool_usage(
        Mapped("vg-pool-tpool", (253, 1), 1, False, (Target("thin-pool", 1, status),))
    )
    assert (usage.data_percent, usage.metadata_percent) == (data, metadata)
    assert trouble in usage.trouble
    assert bool(usage.trouble) is bool(trouble)
