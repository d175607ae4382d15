"""Volumes: LVs that are made blank or from a source, found by their tags, grown, and removed."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from katacsi.backends.api import Facts, Volume
from katacsi.backends.lvm import layout as layouts
from katacsi.backends.lvm import names
from katacsi.backends.lvm.devices import known_condition
from katacsi.backends.lvm.layout import Layout
from katacsi.backends.lvm.objects import Entry, missing
from katacsi.backends.lvm.settings import VolumeType, Wipe, Zero
from katacsi.backends.lvm.tags import Kind, State
from katacsi.backends.tools import refusals, sizes
from katacsi.backends.tools.existing import check_volume, origin
from katacsi.backends.tools.listing import page
from katacsi.errors import (
    HostError,
    KatacsiError,
    OperationPending,
    OutOfSpace,
    Unsupported,
    VolumeInUse,
)
from katacsi.model import Condition, VolumeId, is_storage_name, storage_name

if TYPE_CHECKING:
    from katacsi.backends.api import CreateRequest, Page
    from katacsi.backends.lvm.copies import LvmCopies
    from katacsi.backends.lvm.objects import Index, LvmObjects
    from katacsi.backends.lvm.report import Group
    from katacsi.backends.lvm.settings import LvmSettings
    from katacsi.model import SizeRange

log = structlog.get_logger(__name__)


class LvmVolumes:
    """The volumes of one pool."""

    def __init__(self, settings: LvmSettings, objects: LvmObjects, copies: LvmCopies) -> None:
        self._settings = settings
        self._objects = objects
        self._group = objects.group
        self._devices = objects.devices
        self._copies = copies

    # -- looking ---------------------------------------------------------------------------------------

    async def entry(self, name: str) -> tuple[Group, Entry]:
        """Find a volume that has to exist.

        Raises:
            NotFound: it is proven absent.
        """
        state, index = await self._objects.look()
        return state, self.require(state, index, name)

    def require(self, state: Group, index: Index, name: str) -> Entry:
        """Find a volume that has to exist, in a report.

        Raises:
            NotFound: it is proven absent.
        """
        entry = _find(index, name)
        if entry is None or entry.record.state is not State.READY:
            raise missing("volume", self._id(name), state)
        return entry

    async def look(self, name: str) -> Volume | None:
        """Give a volume as it is now; None means proven absent."""
        state, index = await self._objects.look()
        entry = _find(index, name)
        if entry is None or entry.record.state is not State.READY:
            return None
        return self._volume(state, entry)

    async def is_begun(self, name: str) -> bool:
        """Whether a volume has its LV, and with it its room; its bytes may still be being written."""
        _, index = await self._objects.look()
        return _find(index, name) is not None

    async def list(self, cursor: str, limit: int) -> Page[Volume]:
        """Give a page of volumes; one whose tags cannot be used is shown as abnormal."""
        state, index = await self._objects.look()
        volumes = {
            name: self._volume(state, entry)
            for (kind, name), entry in index.entries.items()
            if kind is Kind.VOLUME and entry.record.state is State.READY
        }
        for lv_name, error in index.broken.items():
            name = lv_name.removeprefix(names.VOLUME)
            if lv_name.startswith(names.VOLUME) and is_storage_name(name):
                condition = Condition(abnormal=True, message=error.message)
                volumes[name] = Volume(
                    self._id(name), name, state.lvs[lv_name].size_bytes, condition=condition
                )
        return page(volumes, cursor, limit, volumes.get)

    # -- making ----------------------------------------------------------------------------------------

    async def create(self, request: CreateRequest) -> Volume:
        """Make a volume, or find the one that was made."""
        layout = layouts.parse(request.parameters, self._settings)
        name = storage_name(request.csi_name)
        async with self._group.changing() as state:
            index = self._objects.index(state)
            entry = _find(index, name)
            if entry is not None and entry.record.state is State.READY:
                existing = self._volume(state, entry)
                check_volume(existing, request)
                return existing
        if entry is not None and not (entry.record.state is State.CREATING and _resumable(entry, request)):
            # What a crash left of another request, or of a removal.
            await self.finish_removal(entry)
            entry = None
        if entry is None:
            async with self._group.changing() as state:
                entry = await self._begin(state, name, layout, request)
        if entry.record.state is not State.READY:
            entry = await self._fill(entry, layout, request)
        return self._volume(await self._group.read(), entry)

    async def _begin(self, state: Group, name: str, layout: Layout, request: CreateRequest) -> Entry:
        """Make the LV, and with it the volume, where nothing has to be written to it."""
        layouts.check_stripes(layout, state.extent_size)
        source = (
            self._copies.source(state, self._objects.index(state), request.source) if request.source else None
        )
        extents = _fitting_extents(state, layout, request.size, source.lv.size_bytes if source else 0)
        size_bytes = extents * state.extent_size
        shared = source is not None and layout.thin and source.lv.pool == layout.thin_pool
        whole = layout.thin and (source is None or (shared and source.lv.size_bytes == size_bytes))
        record = replace(
            self._objects.record(Kind.VOLUME, State.READY if whole else State.CREATING, request.csi_name),
            source=str(request.source.id) if request.source else "",
            facts=source.record.facts.of_copy() if source else Facts(),
            parameters=dict(request.parameters),
            attributes=dict(request.attributes),
            wipe=layout.wipe,
            layout=layout.text(),
        )
        lv_name = names.lv_name(names.VOLUME, name)
        self._objects.check_free(state, lv_name)
        await self._objects.space.check_room(state, layout, size_bytes)
        if shared and source is not None:
            return await self._objects.cut(state, lv_name, source.lv, record)
        return await self._objects.make(state, lv_name, layout, extents, record)

    async def _fill(self, entry: Entry, layout: Layout, request: CreateRequest) -> Entry:
        """Give a new LV its bytes; after that it is the volume."""
        try:
            if request.source is None:
                device = await self._devices.activate(entry.lv)
                await self._objects.contents.zero(device)
                await self._devices.deactivate(entry.lv)
            else:
                entry = await self._fill_from(entry, layout, request)
        except KatacsiError as error:
            # Asked before the LV goes, and with it what filled the pool.
            full = await self._objects.space.full(await self._group.read(), entry.lv)
            # What resists is removed by the next attempt, or by the next start.
            with contextlib.suppress(KatacsiError):
                await self._objects.remove(entry.lv)
            if full and isinstance(error, HostError):
                raise OutOfSpace(full) from error
            raise
        async with self._group.changing():
            return await self._objects.write(entry, entry.record.with_(state=State.READY))

    async def _fill_from(self, entry: Entry, layout: Layout, request: CreateRequest) -> Entry:
        assert request.source is not None
        async with self._group.changing() as state:
            source = self._copies.source(state, self._objects.index(state), request.source)
            if layout.thin and source.lv.pool == layout.thin_pool:
                extents = _fitting_extents(state, layout, request.size, source.lv.size_bytes)
                if entry.lv.size_bytes < extents * state.extent_size:
                    await self._extend(entry, extents)
                return await self._objects.expect(entry.lv.name)
        await self._copies.fill(entry, source, layout, request.csi_name)
        return entry

    # -- changing --------------------------------------------------------------------------------------

    async def compare_and_set_facts(self, name: str, expected: Facts, new: Facts) -> None:
        """Replace a volume's facts, if they are what the caller saw."""
        async with self._group.changing() as state:
            entry = self.require(state, self._objects.index(state), name)
            refusals.check_expected(self._id(name), entry.record.facts, expected)
            await self._objects.write(entry, entry.record.with_(facts=new))

    async def expand(self, name: str, size_bytes: int) -> int:
        """Grow a volume; the new part reads as zero before anybody can see it."""
        async with self._group.changing() as state:
            entry = self.require(state, self._objects.index(state), name)
            layout = self._objects.layout(entry)
            extents = layout.fitting(state.extents(size_bytes))
            present = entry.lv.size_bytes
            growth = extents * state.extent_size - present
            if growth <= 0:
                await self._devices.mend(entry.lv)
                return present
            self._check_growable(state, entry, layout)
            await self._objects.space.check_room(state, layout, growth)
            if layout.thin or self._settings.zero is Zero.EDGES:
                await self._extend(entry, extents)
                return extents * state.extent_size
            await self._drop_growth(name, state)
            reserved = await self._reserve(state, name, entry, layout, growth)
        device = await self._devices.activate(reserved.lv)
        await self._objects.contents.zero(device)
        async with self._group.changing() as state:
            await self._objects.remove(reserved.lv)
            # Exactly what was zeroed: LVM would choose others.
            await self._extend(entry, extents, *reserved.lv.ranges)
        return extents * state.extent_size

    def _check_growable(self, state: Group, entry: Entry, layout: Layout) -> None:
        if layout.integrity:
            raise Unsupported(
                f"volume {self._id(entry.record.name)}: a volume with integrity cannot grow; make a larger "
                "one and copy the data"
            )
        if copies := [lv.name for lv in state.snapshots_of(entry.lv.name)]:
            raise OperationPending(
                f"volume {self._id(entry.record.name)}: is being copied ({', '.join(copies)}); retry"
            )

    async def _reserve(self, state: Group, name: str, entry: Entry, layout: Layout, growth: int) -> Entry:
        """Take the extents that a thick volume is to grow into, so that they can be zeroed."""
        legs = layout.legs
        kind = VolumeType.STRIPED if legs > 1 else VolumeType.LINEAR
        plain = Layout(type=kind, stripes=legs, stripe_size=65536 if legs > 1 else 0)
        extents = growth // state.extent_size // layout.stripes * legs
        record = self._objects.record(Kind.GROWTH, State.CREATING, entry.record.csi_name)
        lv_name = names.lv_name(names.GROWTH, name)
        return await self._objects.make(await self._group.read(), lv_name, plain, extents, record)

    async def _drop_growth(self, name: str, state: Group) -> None:
        left = self._objects.index(state).entries.get((Kind.GROWTH, name))
        if left is not None:
            await self._objects.remove(left.lv)

    async def _extend(self, entry: Entry, extents: int, *ranges: str) -> None:
        path = self._group.path(entry.lv.name)
        await self._group.run("lvextend", "--yes", "--extents", str(extents), path, *ranges)

    # -- removing --------------------------------------------------------------------------------------

    async def delete(self, name: str) -> None:
        """Free a volume and its bytes; absent is success."""
        _, index = await self._objects.look()
        if (entry := _find(index, name)) is not None:
            # Waits for a moment, so not where others would wait, too.
            await self._devices.check_unused(entry.lv)
        async with self._group.changing() as state:
            entry = _find(self._objects.index(state), name)
            if entry is None:
                return
            if snapshots := [lv.name for lv in state.snapshots_of(entry.lv.name)]:
                raise VolumeInUse(
                    f"volume {self._id(name)}: would take its LVM snapshots with it "
                    f"({', '.join(snapshots)}); "
                    "wait for the copy that is being made, or lvremove them"
                )
            if entry.record.wipe is not Wipe.NONE and entry.record.state is State.READY:
                entry = await self._objects.give_up(entry)
        await self.finish_removal(entry)

    async def finish_removal(self, entry: Entry) -> None:
        """Wipe and remove a volume, or a snapshot, that is none any more."""
        if entry.record.state is State.DELETING:
            await self._objects.contents.wipe(entry)
        await self._objects.remove(entry.lv)

    # -- words -----------------------------------------------------------------------------------------

    def _id(self, name: str) -> VolumeId:
        return VolumeId(self._group.pool, self._group.uid, name)

    def _volume(self, state: Group, entry: Entry) -> Volume:
        record = entry.record
        return Volume(
            id=self._id(record.name),
            csi_name=record.csi_name,
            size_bytes=entry.lv.size_bytes,
            facts=record.facts,
            source=record.content_source(),
            parameters=record.parameters,
            attributes=record.attributes,
            condition=known_condition(state, entry.lv),
            created_at=record.created_at,
        )


def _find(index: Index, name: str) -> Entry | None:
    return index.get(Kind.VOLUME, name, names.lv_name(names.VOLUME, name))


def _fitting_extents(group: Group, layout: Layout, wish: SizeRange, source: int) -> int:
    """Give the smallest number of extents that meets a request and holds its source.

    Raises:
        SizeOutOfRange: there is none.
    """
    unit = group.extent_size * layout.stripes
    steps = f"a {layout.type.value} volume grows in steps of {unit} bytes in volume group {group.name}"
    return sizes.fitting(wish, source, unit, unit, steps) // group.extent_size


def _resumable(entry: Entry, request: CreateRequest) -> bool:
    record = entry.record
    return (
        request.size.admits(entry.lv.size_bytes)
        and dict(record.parameters) == dict(request.parameters)
        and dict(record.attributes) == dict(request.attributes)
        and record.csi_name == request.csi_name
        and origin(record.content_source()) == origin(request.source)
    )
