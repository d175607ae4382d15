"""Snapshots: thin ones at once, thick ones by a cut whose bytes are copied in the background.

A thick snapshot is a cut (`kcs-…`, a COW snapshot that says what it becomes) until its bytes lie in an LV
of their own (`ks-…`), which is then marked ready in one commit; only after that the cut goes, and with it
what binds the snapshot to its volume. So a crash at any point leaves either a cut from which the copy is made
again, or the snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from katacsi.backends.api import Snapshot
from katacsi.backends.lvm import names
from katacsi.backends.lvm.settings import Wipe
from katacsi.backends.lvm.tags import Kind, State
from katacsi.backends.tools.existing import check_snapshot
from katacsi.backends.tools.listing import page
from katacsi.errors import CorruptRecord, KatacsiError
from katacsi.model import SnapshotId, VolumeId, storage_name

if TYPE_CHECKING:
    from katacsi.backends.api import Page
    from katacsi.backends.lvm.copies import LvmCopies
    from katacsi.backends.lvm.objects import Entry, Index, LvmObjects
    from katacsi.backends.lvm.report import Group
    from katacsi.backends.lvm.volumes import LvmVolumes

log = structlog.get_logger(__name__)


class LvmSnapshots:
    """The snapshots of one pool."""

    def __init__(self, objects: LvmObjects, copies: LvmCopies, volumes: LvmVolumes) -> None:
        self._objects = objects
        self._group = objects.group
        self._devices = objects.devices
        self._copies = copies
        self._volumes = volumes
        self._copying: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Stop copying; the next start begins again from the cuts."""
        tasks = list(self._copying.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._copying.clear()

    # -- looking ---------------------------------------------------------------------------------------

    async def look(self, name: str) -> Snapshot | None:
        """Give a snapshot; None means proven absent."""
        state, index = await self._objects.look()
        entry = _existing(index, name)
        return None if entry is None else self._snapshot(state, entry)

    async def list(self, cursor: str, limit: int, source: VolumeId | None) -> Page[Snapshot]:
        """Give a page of snapshots."""
        state, index = await self._objects.look()
        snapshots = {}
        for name in {name for kind, name in index.entries if kind in {Kind.SNAPSHOT, Kind.SNAPSHOT_CUT}}:
            with contextlib.suppress(CorruptRecord):  # whose it is, is unknown
                entry = _existing(index, name)
                if entry is not None and (source is None or _source(entry).name == source.name):
                    snapshots[name] = self._snapshot(state, entry)
        return page(snapshots, cursor, limit, snapshots.get)

    # -- making ----------------------------------------------------------------------------------------

    async def create(self, csi_name: str, source: VolumeId) -> Snapshot:
        """Cut a snapshot, or find the one that was cut."""
        name = storage_name(csi_name)
        async with self._group.changing() as state:
            index = self._objects.index(state)
            existing = _existing(index, name)
        if existing is None:
            await self._clear(index, name)
            existing = await self._cut(name, csi_name, source)
        snapshot = self._snapshot(await self._group.read(), existing)
        check_snapshot(snapshot, source)
        if not snapshot.ready:
            self._copy_in_background(existing)
        return snapshot

    async def _cut(self, name: str, csi_name: str, source: VolumeId) -> Entry:
        async with self._group.changing() as state:
            origin = self._volumes.require(state, self._objects.index(state), source.name)
            layout = self._objects.layout(origin)
            # Thick: room for the copy, and as much again for what is written to the origin meanwhile.
            size = origin.lv.size_bytes
            await self._objects.space.check_room(state, layout, size if layout.thin else 2 * size)
            if not layout.thin:
                return await self._copies.cut(state, Kind.SNAPSHOT_CUT, name, csi_name, origin)
            record = self._objects.copied_record(Kind.SNAPSHOT, State.READY, csi_name, origin)
            return await self._objects.cut(state, names.lv_name(names.SNAPSHOT, name), origin.lv, record)

    def _copy_in_background(self, cut: Entry) -> None:
        """See that a cut is being copied.

        Raises:
            KatacsiError: what ended the last attempt; the next call tries again.
        """
        name = cut.record.name
        task = self._copying.get(name)
        if task is not None and task.done():
            del self._copying[name]
            if not task.cancelled() and isinstance(error := task.exception(), KatacsiError):
                raise error
            task = None
        if task is None:
            task = self._copying[name] = asyncio.create_task(self._copy(cut))
            task.add_done_callback(_told)

    async def _copy(self, cut: Entry) -> None:
        name = cut.record.name
        layout = self._objects.layout(cut)
        lv_name = names.lv_name(names.SNAPSHOT, name)
        async with self._copies.room:
            async with self._group.changing() as state:
                target = self._objects.index(state).get(Kind.SNAPSHOT, name, lv_name)
                if target is None:
                    record = replace(cut.record, kind=Kind.SNAPSHOT, state=State.CREATING)
                    origin = state.lvs[cut.lv.origin]
                    extents = origin.size_bytes // state.extent_size
                    target = await self._objects.make(state, lv_name, layout, extents, record)
            if target.record.state is not State.READY:
                device = await self._devices.activate(cut.lv)
                await self._copies.transfer(device, target, target.lv.size_bytes, layout)
                async with self._group.changing():
                    await self._objects.write(target, target.record.with_(state=State.READY))
            await self._copies.drop(cut)
        log.info("snapshot copied", snapshot=str(self._id(name)))

    async def copied(self, name: str) -> None:
        """Wait until a snapshot's bytes are its own; whoever restores one before that waits here.

        Raises:
            KatacsiError: they could not be copied.
        """
        _, index = await self._objects.look()
        entry = _existing(index, name)
        if entry is not None and entry.record.kind is Kind.SNAPSHOT_CUT:
            self._group.check_writable()
            self._copy_in_background(entry)
            await asyncio.shield(self._copying[name])

    # -- removing --------------------------------------------------------------------------------------

    async def delete(self, name: str) -> None:
        """Free a snapshot; absent is success."""
        if (task := self._copying.pop(name, None)) is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, KatacsiError):
                await task
        _, index = await self._objects.look()
        _existing(index, name)  # a broken one stays
        await self._clear(index, name)

    async def _clear(self, index: Index, name: str) -> None:
        """Remove whatever there is of a snapshot, so that no crash meanwhile makes it whole again."""
        self._group.check_writable()
        if (cut := index.entries.get((Kind.SNAPSHOT_CUT, name))) is not None:
            await self._copies.drop(cut)
        if (entry := index.entries.get((Kind.SNAPSHOT, name))) is not None:
            await self._finish_removal(entry)

    async def _finish_removal(self, entry: Entry) -> None:
        await self._devices.check_unused(entry.lv)
        if entry.record.wipe is not Wipe.NONE and entry.record.state is not State.CREATING:
            async with self._group.changing():
                entry = await self._objects.give_up(entry)
            await self._objects.contents.wipe(entry)
        await self._objects.remove(entry.lv)

    # -- starting --------------------------------------------------------------------------------------

    def resume(self, cut: Entry) -> None:
        """Go on with a copy that a restart interrupted."""
        self._copy_in_background(cut)

    # -- words -----------------------------------------------------------------------------------------

    def _id(self, name: str) -> SnapshotId:
        return SnapshotId(self._group.pool, self._group.uid, name)

    def _snapshot(self, state: Group, entry: Entry) -> Snapshot:
        record = entry.record
        cut = record.kind is Kind.SNAPSHOT_CUT
        # Of a cut LVM gives the size of what changed; its origin cannot grow or go meanwhile.
        lv = state.lvs.get(entry.lv.origin, entry.lv) if cut else entry.lv
        return Snapshot(
            id=self._id(record.name),
            csi_name=record.csi_name,
            source=_source(entry),
            size_bytes=lv.size_bytes,
            created_at=record.created_at,
            ready=not cut,
            facts=record.facts,
        )


def _existing(index: Index, name: str) -> Entry | None:
    """Find a snapshot: its cut, which binds its volume, as long as there is one; else the whole."""
    cut = index.get(Kind.SNAPSHOT_CUT, name, names.lv_name(names.SNAPSHOT_CUT, name))
    # Without an origin it is what LVM left of a snapshot that it could not make.
    if cut is not None and cut.lv.origin:
        return cut
    entry = index.get(Kind.SNAPSHOT, name, names.lv_name(names.SNAPSHOT, name))
    return entry if entry is not None and entry.record.state is State.READY else None


def _source(entry: Entry) -> VolumeId:
    return VolumeId.parse(entry.record.source)


def _told(task: asyncio.Task[None]) -> None:
    """Log an error at once; the caller learns of it when it asks again."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a snapshot could not be copied", error=str(error))
