"""What copies start from, and filling an LV with another one's bytes as they were at one moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from katacsi.backends.lvm import names
from katacsi.backends.lvm.objects import missing
from katacsi.backends.lvm.tags import Kind, State
from katacsi.backends.tools import refusals
from katacsi.errors import StillWorking, Unsupported
from katacsi.model import SnapshotId

if TYPE_CHECKING:
    from katacsi.backends.api import ContentSource, Device
    from katacsi.backends.lvm.layout import Layout
    from katacsi.backends.lvm.objects import Entry, Index, LvmObjects
    from katacsi.backends.lvm.report import Group

#: Copies keep disks busy for minutes; more at once would end no sooner.
_AT_ONCE: Final = 2


class LvmCopies:
    """The sources of copies, and their bytes."""

    def __init__(self, objects: LvmObjects) -> None:
        self._objects = objects
        self._group = objects.group
        self._devices = objects.devices
        self._room = asyncio.Semaphore(_AT_ONCE)

    def source(self, state: Group, index: Index, source: ContentSource) -> Entry:
        """Find what a copy starts from.

        Raises:
            OutOfSpace: it lies in other storage; the node that has it can make the copy.
            NotFound: there is none.
            StillWorking: it is a snapshot whose own bytes are still being copied.
        """
        origin = source.id
        refusals.check_source(origin, self._group.pool, self._group.uid)
        snapshot = isinstance(origin, SnapshotId)
        kind, prefix = (Kind.SNAPSHOT, names.SNAPSHOT) if snapshot else (Kind.VOLUME, names.VOLUME)
        entry = index.get(kind, origin.name, names.lv_name(prefix, origin.name))
        if entry is not None and entry.record.state is State.READY:
            return entry
        if snapshot and (Kind.SNAPSHOT_CUT, origin.name) in index.entries:
            raise StillWorking(f"{origin.KIND} {origin}: its bytes are still being copied; retry")
        raise missing(origin.KIND, origin, state)

    async def cut(self, state: Group, kind: Kind, name: str, csi_name: str, origin: Entry) -> Entry:
        """Keep an LV as it is now, until `drop`. For callers within `changing`.

        Raises:
            Unsupported: LVM has no snapshots of LVs of this kind.
            OutOfSpace: what is written meanwhile could find no room.
        """
        layout = self._objects.layout(origin)
        if layout.integrity:
            raise Unsupported(
                f"{self._group.path(origin.lv.name)}: LVM has no snapshots of volumes with integrity; copy "
                "its data in the workload, or use a class without integrity"
            )
        prefix = names.SNAPSHOT_CUT if kind is Kind.SNAPSHOT_CUT else names.VOLUME_CUT
        record = self._objects.copied_record(kind, State.READY, csi_name, origin)
        if not origin.lv.pool:
            await self._devices.hold_for_copy(origin.lv)
        return await self._objects.cut(state, names.lv_name(prefix, name), origin.lv, record)

    async def drop(self, cut: Entry) -> None:
        """Remove a cut, and let go of its origin if it was active for the copy alone."""
        async with self._group.changing() as state:
            origin = state.lvs.get(cut.lv.origin)
            await self._objects.remove(cut.lv)
            if origin is not None and not cut.lv.pool:
                await self._devices.release_after_copy(origin)

    async def fill(self, target: Entry, source: Entry, layout: Layout, csi_name: str) -> None:
        """Give a new LV the bytes of a snapshot, or of a volume as it is now; the rest of it is zeroed."""
        if source.record.kind is Kind.SNAPSHOT:
            async with self._room, self._devices.used(source.lv) as device:
                await self.transfer(device, target, source.lv.size_bytes, layout)
            return
        async with self._group.changing() as state:
            left = self._objects.index(state).entries.get((Kind.VOLUME_CUT, target.record.name))
            if left is not None:
                await self._objects.remove(left.lv)
        async with self._group.changing() as state:
            cut = await self.cut(state, Kind.VOLUME_CUT, target.record.name, csi_name, source)
        try:
            async with self._room:
                await self.transfer(
                    await self._devices.activate(cut.lv), target, source.lv.size_bytes, layout
                )
        finally:
            await self.drop(cut)

    async def transfer(self, device: Device, target: Entry, length: int, layout: Layout) -> None:
        """Copy a device to an LV, zero what follows, and let go of the LV."""
        into = await self._devices.activate(target.lv)
        await self._objects.contents.copy(device, into, length, blank=layout.thin)
        if not layout.thin:
            await self._objects.contents.zero(into, start=length)
        await self._devices.deactivate(target.lv)

    @property
    def room(self) -> asyncio.Semaphore:
        """What limits how many copies are made at once."""
        return self._room
