"""Devices of LVs: activated, proven, taken away; and what the kernel says of their health."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog

from katacsi.backends.api import Device
from katacsi.backends.lvm import capacity
from katacsi.errors import HostError, KatacsiError, VolumeInUse
from katacsi.host import block, devicemapper, holders
from katacsi.host.offloop import off_loop
from katacsi.model import Condition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from katacsi.backends.lvm.capacity import PoolUsage
    from katacsi.backends.lvm.group import VolumeGroup
    from katacsi.backends.lvm.report import Group, Lv
    from katacsi.backends.lvm.settings import LvmSettings
    from katacsi.host.devicemapper import Mapped

log = structlog.get_logger(__name__)

#: udev looks into a device for a moment after it was written; who has it open for longer uses it.
_HELD_S: Final = 2.0
#: How long udev may take to make a node.
_NODE_S: Final = 5.0


class LvmDevices:
    """The devices of a volume group's LVs."""

    def __init__(self, settings: LvmSettings, group: VolumeGroup) -> None:
        self._settings = settings
        self._group = group
        #: LVs that are active for the sake of a copy of them alone, by UUID.
        self._only_for_copies: set[str] = set()
        self._users: Counter[str] = Counter()

    async def mapped(self, lv: Lv, layer: str = "") -> Mapped | None:
        """Say what the kernel has of an LV; None: it is not active."""
        uuid = f"LVM-{self._group.uuid.replace('-', '')}{lv.uuid.replace('-', '')}{layer}"
        return await off_loop(devicemapper.find, uuid)

    async def activate(self, lv: Lv) -> Device:
        """Give an LV its device, the same however often."""
        mapped = await self.mapped(lv)
        new = mapped is None
        if mapped is None:
            await self._group.activate(lv.name, active=True)
            mapped = await self.mapped(lv)
            if mapped is None:
                raise HostError(
                    f"{self._group.path(lv.name)}: LVM activated it, but the kernel has no such device"
                )
        elif _is_half_changed(mapped, lv):
            mapped = await self._refresh(lv)
        path = await off_loop(devicemapper.node, mapped, _NODE_S)
        return Device(path, mapped.size_bytes, new=new)

    async def mend(self, lv: Lv) -> None:
        """See that an active LV's device is as LVM's metadata has it."""
        mapped = await self.mapped(lv)
        if mapped is not None and _is_half_changed(mapped, lv):
            await self._refresh(lv)

    async def _refresh(self, lv: Lv) -> Mapped:
        await self._group.refresh(lv.name)
        mapped = await self.mapped(lv)
        if mapped is None or _is_half_changed(mapped, lv):
            raise HostError(
                f"{self._group.path(lv.name)}: its device is suspended or has another size than LVM "
                "says, and refreshing did not help; see dmsetup info"
            )
        log.warning("a half-changed device was refreshed", lv=self._group.path(lv.name))
        return mapped

    async def deactivate(self, lv: Lv) -> None:
        """Take an LV's device away, proven.

        Raises:
            VolumeInUse: somebody has it open.
        """
        await self.check_unused(lv)
        if await self.mapped(lv) is None:
            return
        try:
            await self._group.activate(lv.name, active=False)
        except HostError:
            # Somebody may have been faster than LVM; that is another answer than a broken LVM.
            await self.check_unused(lv)
            raise
        if await self.mapped(lv) is not None:
            raise HostError(
                f"{self._group.path(lv.name)}: LVM deactivated it, but the kernel still has the device"
            )

    async def check_unused(self, lv: Lv) -> None:
        """Refuse an LV that somebody has open.

        Raises:
            VolumeInUse: with whom, as far as can be told.
        """
        deadline = time.monotonic() + _HELD_S
        while (mapped := await self.mapped(lv)) is not None and mapped.open_count:
            if time.monotonic() >= deadline:
                raise VolumeInUse(
                    f"{self._group.path(lv.name)}: /dev/mapper/{mapped.name} is held by "
                    f"{await _holders(mapped)}"
                )
            await asyncio.sleep(0.05)

    # -- devices of volumes, which callers attach ------------------------------------------------------

    async def attach(self, lv: Lv) -> Device:
        """Give a volume its device."""
        self._only_for_copies.discard(lv.uuid)
        return await self.activate(lv)

    async def attached(self, lv: Lv) -> Device | None:
        """Say which device a volume has, if anybody attached it."""
        mapped = await self.mapped(lv)
        if mapped is None or (lv.uuid in self._only_for_copies and not mapped.open_count):
            return None
        return Device(await off_loop(devicemapper.node, mapped, _NODE_S), mapped.size_bytes)

    async def detach(self, group: Group, lv: Lv) -> None:
        """Take a volume's device away; while a copy is made of it only its users go, and the device later."""
        if any(group.snapshots_of(lv.name)) and await self.mapped(lv) is not None:
            await self.check_unused(lv)
            self._only_for_copies.add(lv.uuid)
        else:
            await self.deactivate(lv)

    async def hold_for_copy(self, lv: Lv) -> None:
        """Take note of an LV that a copy is going to activate."""
        if await self.mapped(lv) is None:
            self._only_for_copies.add(lv.uuid)

    async def release_after_copy(self, lv: Lv) -> None:
        """Deactivate an LV that was active for a copy alone."""
        if lv.uuid in self._only_for_copies:
            self._only_for_copies.discard(lv.uuid)
            await self.deactivate(lv)

    @asynccontextmanager
    async def used(self, lv: Lv) -> AsyncIterator[Device]:
        """Have an LV active as long as anybody here needs it."""
        self._users[lv.uuid] += 1
        try:
            yield await self.activate(lv)
        finally:
            self._users[lv.uuid] -= 1
            if not self._users[lv.uuid]:
                del self._users[lv.uuid]
                await self.deactivate(lv)

    # -- what the kernel knows -------------------------------------------------------------------------

    async def pool_usage(self, pool: Lv) -> PoolUsage | None:
        """Say how full a thin pool is; None: it is not active, so nobody can tell."""
        # A pool that volumes use lies one layer below the device of its own name.
        mapped = await self.mapped(pool, "-tpool")
        return None if mapped is None else capacity.pool_usage(mapped)

    async def blank(self, lv: Lv) -> bool:
        """Prove that a thin volume has no block at all."""
        mapped = await self.mapped(lv)
        if mapped is None:
            return False
        # What was written may still be in the device's cache, and not in the pool.
        path = await off_loop(devicemapper.node, mapped, _NODE_S)
        await off_loop(block.drop_caches, path)
        mapped = await self.mapped(lv)
        # thin-provisioning.rst: "<nr mapped sectors> <highest mapped sector>", or "Fail".
        return mapped is not None and [target.status.split()[:1] for target in mapped.targets] == [["0"]]

    async def condition(self, group: Group, lv: Lv) -> Condition:
        """Examine an LV: what LVM knows, what the kernel knows, and its thin pool."""
        condition = known_condition(group, lv)
        if condition.abnormal:
            return condition
        mapped = await self.mapped(lv)
        if mapped is not None and mapped.suspended:
            return Condition(abnormal=True, message=f"{mapped.name} is suspended; dmsetup resume it")
        if lv.pool:
            usage = await self.pool_usage(group.lvs[lv.pool])
            if usage is not None and (limit := usage.over_limit(self._settings)):
                return Condition(abnormal=True, message=f"thin pool {self._group.path(lv.pool)}: {limit}")
        for target in mapped.targets if mapped is not None else ():
            if target.type in {"thin", "snapshot"} and target.status.split()[:1] in (
                ["Fail"],
                ["Error"],
                ["Invalid"],
            ):
                fact = f"{self._group.path(lv.name)}: the kernel gave it up ({target.status})"
                return Condition(abnormal=True, message=fact)
            if target.type == "raid":
                return raid_condition(self._group.path(lv.name), target.status)
        return condition


def _is_half_changed(mapped: Mapped, lv: Lv) -> bool:
    """Whether an LVM that was killed between its commit and the device's resumption left the device so."""
    # Of a COW snapshot LVM says how much room its changes have.
    cow = lv.origin and not lv.pool
    return mapped.suspended or (not cow and mapped.size_bytes < lv.size_bytes)


def known_condition(group: Group, lv: Lv) -> Condition:
    """Say what LVM's report knows of an LV's health."""
    health = lv.health or (group.lvs[lv.pool].health if lv.pool in group.lvs else "")
    if not health:
        return Condition()
    path = f"{group.name}/{lv.name}"
    if health == "partial":
        redundant = lv.segment_type.startswith("raid")
        fact = (
            "a disk is missing; its data is still whole. Bring the disk back and lvchange --refresh it, or "
            "add a disk (vgextend) and lvconvert --repair it"
            if redundant
            else "a disk with part of it is missing; bring the disk back, or restore it from a backup"
        )
        return Condition(abnormal=True, message=f"{path}: {fact}")
    remedies = {
        "refresh needed": "a disk failed for a time; lvchange --refresh it",
        "mismatches exist": "its copies differ; lvchange --syncaction repair it",
    }
    return Condition(abnormal=True, message=f"{path}: {remedies.get(health, f'LVM calls it {health}')}")


def raid_condition(path: str, status: str) -> Condition:
    """Read the kernel's words on a RAID volume (dm-raid.rst): type, legs, a letter each, progress, action."""
    words = status.split()
    if len(words) < 5 or not words[3].partition("/")[2].isdigit():
        return Condition(
            abnormal=True, message=f"{path}: the kernel's words on it are not understood ({status})"
        )
    letters, (done, whole), action = words[2], map(int, words[3].split("/")), words[4]
    if "D" in letters:
        fact = f"{letters.count('D')} of {len(letters)} disks failed; vgextend, then lvconvert --repair it"
        return Condition(abnormal=True, message=f"{path}: {fact}")
    if done < whole or "a" in letters:
        # A first synchronisation is no illness; a disk that is being filled again means that another may
        # not fail.
        progress = f"{path}: {action}, {100 * done // max(whole, 1)} % done"
        return Condition(abnormal=action == "recover", message=progress)
    return Condition()


async def _holders(mapped: Mapped) -> str:
    """Say who has a device open, for people."""
    try:
        path = await off_loop(devicemapper.node, mapped, 0.0)
        held = await off_loop(holders.now, path)
    except KatacsiError:
        held = []
    return ", ".join(map(str, held)) or f"{mapped.open_count} unknown (a mount, or another PID namespace)"
