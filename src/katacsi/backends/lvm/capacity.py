"""What a volume group, or a thin pool in it, can still give; pure functions of one report."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from katacsi.backends.api import Capacity
from katacsi.model import format_size

if TYPE_CHECKING:
    from katacsi.backends.lvm.layout import Layout
    from katacsi.backends.lvm.report import Group, Lv
    from katacsi.backends.lvm.settings import LvmSettings
    from katacsi.host.devicemapper import Mapped

#: Percent of its metadata at which a thin pool takes no more: the kernel keeps a few blocks for itself.
_METADATA_FULL: Final = 99.0

_THIN_POOL = re.compile(r"\d+ (\d+)/(\d+) (\d+)/(\d+) \S+ (\S+)(.*)\Z")


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """How full a thin pool is, by the kernel's word.

    `trouble` says in words why it takes no writes; empty while it does.
    """

    data_used: int = 0
    data_blocks: int = 1
    metadata_used: int = 0
    metadata_blocks: int = 1
    trouble: str = ""

    @property
    def is_full(self) -> bool:
        """Whether a write to a block that is not there yet finds no room."""
        return self.data_used >= self.data_blocks or self.metadata_percent >= _METADATA_FULL

    @property
    def data_percent(self) -> float:
        """How much of the data is used."""
        return 100 * self.data_used / self.data_blocks

    @property
    def metadata_percent(self) -> float:
        """How much of the metadata is used."""
        return 100 * self.metadata_used / self.metadata_blocks

    def free_of(self, size_bytes: int) -> int:
        """Say how many bytes of a pool of this size are free."""
        return size_bytes * (self.data_blocks - self.data_used) // self.data_blocks

    def over_limit(self, settings: LvmSettings) -> str:
        """Say why the pool should take no more; empty while it can."""
        if self.trouble:
            return self.trouble
        if self.data_percent >= settings.thin_data_limit:
            return (
                f"{self.data_percent:.1f} % of its data are used, the limit is {settings.thin_data_limit:g} %"
            )
        if self.metadata_percent >= settings.thin_metadata_limit:
            return (
                f"{self.metadata_percent:.1f} % of its metadata are used, the limit is "
                f"{settings.thin_metadata_limit:g} %"
            )
        return ""


def pool_usage(mapped: Mapped) -> PoolUsage:
    """Read what the kernel says of a thin pool (thin-provisioning.rst, "Status")."""
    status = mapped.targets[0].status if mapped.targets else ""
    match = _THIN_POOL.match(status)
    if match is None:
        return PoolUsage(trouble=f"the kernel gave it up ({status or 'no status'}); lvconvert --repair it")
    metadata, metadata_all, data, data_all = (int(number) for number in match.groups()[:4])
    trouble = ""
    if match[5] == "ro":
        trouble = "it is read-only; lvconvert --repair it"
    elif match[5] == "out_of_data_space":
        trouble = "its data space is used up; lvextend it"
    elif "needs_check" in match[6]:
        trouble = "its metadata needs a check; lvconvert --repair it"
    return PoolUsage(data, max(data_all, 1), metadata, max(metadata_all, 1), trouble)


def thick(group: Group, layout: Layout, reserve: int) -> Capacity:
    """Say what volumes of a layout can still be had, in whole extents.

    Legs of a striped or RAID volume lie on disks of their own, so the disks' free extents count one by one.
    """
    extent = group.extent_size
    if group.missing_disks:
        return Capacity(0, 0, extent * layout.stripes)
    free = sorted(
        (pv.free_bytes // extent for pv in group.pvs if pv.allocatable and not pv.missing), reverse=True
    )
    spare = sum(free) - -(-reserve // extent)
    if layout.legs == 1:
        most = max(0, spare) * extent
        return Capacity(most, most, extent)
    if len([count for count in free if count]) < layout.legs:
        return Capacity(0, 0, extent * layout.stripes)
    # In all: the longest legs that fit when the disks take turns. At once: as long as on the last disk
    # needed.
    together = _longest(free, layout.legs, max(0, spare))
    single = min(together, free[layout.legs - 1])
    available = _data(together, layout, extent) * layout.stripes * extent
    maximum = _data(single, layout, extent) * layout.stripes * extent
    return Capacity(available, maximum, extent * layout.stripes)


def _longest(free: list[int], legs: int, spare: int) -> int:
    least, most = 0, spare // legs
    while least < most:
        middle = (least + most + 1) // 2
        if sum(min(count, middle) for count in free) >= legs * middle:
            least = middle
        else:
            most = middle - 1
    return least


def _data(leg: int, layout: Layout, extent: int) -> int:
    """Give the extents for data in a leg of so many extents."""
    data = leg
    while data > 0 and data + layout.overhead(data, extent) > leg:
        # The overhead falls with the data, so this takes few steps.
        data = min(data - 1, leg - layout.overhead(data, extent))
    return max(0, data)


def thin(group: Group, pool: Lv, usage: PoolUsage | None, settings: LvmSettings) -> Capacity:
    """Say what thin volumes can still be promised, in whole extents."""
    extent = group.extent_size
    if group.missing_disks or (usage is not None and usage.over_limit(settings)):
        return Capacity(0, 0, extent)
    promised = sum(lv.size_bytes for lv in group.lvs.values() if lv.pool == pool.name)
    left = (pool.size_bytes - settings.reserve) * settings.overprovision_ratio - promised
    if usage is not None:
        free = usage.free_of(pool.size_bytes) - settings.reserve
        left = min(left, free * settings.overprovision_ratio)
    most = max(0, math.floor(left) // extent * extent)
    return Capacity(most, most, extent)


def missing_disks(group: Group) -> str:
    """Say that a group lacks disks, for LVM makes and extends nothing in such a one; empty if it does not."""
    if not group.missing_disks:
        return ""
    return (
        f"volume group {group.name} lacks {group.missing_disks} of its disks, and LVM changes no such group; "
        f"bring them back, or replace them (vgextend, lvconvert --repair) and vgreduce --removemissing "
        f"{group.name}"
    )


def too_few_disks(group: Group, layout: Layout) -> str:
    """Say that a layout needs more disks than there are; empty if it does not."""
    usable = [pv for pv in group.pvs if pv.allocatable and not pv.missing]
    if layout.legs <= len(usable):
        return ""
    return (
        f"a {layout.type.value} volume of this class lies on {layout.legs} disks, and volume group "
        f"{group.name} has {len(usable)} that can be used"
    )


def refusal(group: Group, layout: Layout, wanted: int, capacity: Capacity, pool: str) -> str:
    """Say why a volume is refused for want of room."""
    where = f"thin pool {group.name}/{layout.thin_pool}" if layout.thin else f"volume group {group.name}"
    return (
        f"pool {pool!r} ({where}): {format_size(wanted)} were asked for, "
        f"{format_size(capacity.available_bytes)} can be given to {layout.type.value} volumes; delete "
        "volumes, "
        + (
            "lvextend the thin pool, or change overprovision_ratio"
            if layout.thin
            else "or vgextend the group"
        )
    )
