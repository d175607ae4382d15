"""The room in a volume group: what can be given, what is full, and what cannot be had."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from katacsi.backends.api import Capacity
from katacsi.backends.lvm import capacity
from katacsi.errors import HostError, OutOfSpace, PoolUnavailable
from katacsi.host import block
from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from katacsi.backends.lvm.devices import LvmDevices
    from katacsi.backends.lvm.group import VolumeGroup
    from katacsi.backends.lvm.layout import Layout
    from katacsi.backends.lvm.report import Group, Lv
    from katacsi.backends.lvm.settings import LvmSettings


class LvmSpace:
    """The room in the volume group of a pool, and in its thin pools."""

    def __init__(self, settings: LvmSettings, group: VolumeGroup, devices: LvmDevices) -> None:
        self._settings = settings
        self._group = group
        self._devices = devices

    async def capacity(self, state: Group, layout: Layout) -> Capacity:
        """Say what can still be given to volumes of a layout.

        Raises:
            PoolUnavailable: the thin pool is absent or unfit.
        """
        if await off_loop(_read_only_disks, state):
            return Capacity(0, 0, state.extent_size * layout.stripes)
        if not layout.thin:
            return capacity.thick(state, layout, self._settings.reserve)
        pool = self.thin_pool(state, layout.thin_pool)
        return capacity.thin(state, pool, await self._devices.pool_usage(pool), self._settings)

    def thin_pool(self, state: Group, name: str) -> Lv:
        """Find a thin pool.

        Raises:
            PoolUnavailable: there is none of this name, or it would show former tenants' bytes.
        """
        pool = state.lvs.get(name)
        if pool is None or pool.segment_type != "thin-pool":
            raise PoolUnavailable(
                f"pool {self._group.pool!r}: volume group {state.name} has no thin pool {name!r}; make it: "
                f"lvcreate --type thin-pool -L SIZE -n {name} {state.name}"
            )
        if not pool.zeroes:
            raise PoolUnavailable(
                f"pool {self._group.pool!r}: thin pool {self._group.path(name)} does not zero new blocks, "
                "so volumes "
                f"would show what former ones held; lvchange -Zy {self._group.path(name)}"
            )
        return pool

    async def check_room(self, state: Group, layout: Layout, wanted: int) -> None:
        """Refuse what cannot be had.

        Raises:
            OutOfSpace: disks are missing, read-only or too few, or there is too little room on them.
        """
        if lack := capacity.missing_disks(state) or await off_loop(_read_only_disks, state):
            raise OutOfSpace(f"pool {self._group.pool!r}: {lack}")
        if not layout.thin and (lack := capacity.too_few_disks(state, layout)):
            raise OutOfSpace(f"pool {self._group.pool!r}: {lack}; add disks (vgextend), or ask for fewer")
        room = await self.capacity(state, layout)
        if wanted > room.available_bytes:
            why = ""
            if layout.thin:
                usage = await self._devices.pool_usage(self.thin_pool(state, layout.thin_pool))
                why = usage.over_limit(self._settings) if usage else ""
            reason = capacity.refusal(state, layout, wanted, room, self._group.pool)
            raise OutOfSpace(f"{reason} ({why})" if why else reason)

    async def full(self, state: Group, lv: Lv) -> str:
        """Say that an LV's thin pool is full, and the remedy; empty: it is not, or it has none."""
        pool = state.lvs.get(lv.pool)
        usage = await self._devices.pool_usage(pool) if pool is not None else None
        if pool is None or usage is None or not usage.is_full:
            return ""
        path = self._group.path(pool.name)
        return (
            f"pool {self._group.pool!r}: thin pool {path} is full ({usage.data_percent:.1f} % of its data "
            f"and {usage.metadata_percent:.1f} % of its metadata are used); delete volumes or snapshots, or "
            f"enlarge it (lvextend {path})"
        )


def _read_only_disks(state: Group) -> str:
    """Say that the kernel refuses writes to disks of a group, which LVM then cannot change; else nothing."""
    refusing = []
    for pv in state.pvs:
        with contextlib.suppress(HostError):  # one that cannot be asked, LVM reports as missing
            if not pv.missing and block.is_read_only(Path(pv.name)):
                refusing.append(pv.name)
    if not refusing:
        return ""
    return (
        f"{', '.join(refusing)} of volume group {state.name} refuse writes; look at the kernel's log, and "
        "make them writable (blockdev --setrw) when they are sound"
    )
