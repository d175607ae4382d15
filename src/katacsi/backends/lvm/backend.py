# ruff: noqa: D102 -- katacsi.backends.protocols says what each method does
"""The lvm backend: a volume group of this node, whose metadata is the only database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar, Final

import structlog

from katacsi.backends.api import UNREMEMBERED, Capacity, Scope
from katacsi.backends.lvm import abandoned
from katacsi.backends.lvm import layout as layouts
from katacsi.backends.lvm.checks import CHECKS
from katacsi.backends.lvm.commands import Lvm
from katacsi.backends.lvm.copies import LvmCopies
from katacsi.backends.lvm.devices import LvmDevices
from katacsi.backends.lvm.group import VolumeGroup
from katacsi.backends.lvm.objects import LvmObjects
from katacsi.backends.lvm.settings import PARAMETERS, LvmSettings
from katacsi.backends.lvm.snapshots import LvmSnapshots
from katacsi.backends.lvm.sweep import sweep
from katacsi.backends.lvm.volumes import LvmVolumes
from katacsi.errors import KatacsiError, NotFound, Precondition, StillWorking
from katacsi.host.offloop import off_loop
from katacsi.model import SnapshotId, storage_name

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    import pydantic

    from katacsi.backends.api import (
        Attachment,
        CreateRequest,
        Device,
        Facts,
        Page,
        PoolContext,
        Snapshot,
        Volume,
    )
    from katacsi.backends.examination import BackendCheck
    from katacsi.model import Condition, VolumeId

log = structlog.get_logger(__name__)

#: Seconds between two looks at a thin pool that is to be enlarged in time.
WATCH_S: Final = 10.0


class LvmBackend:
    """A pool of logical volumes."""

    Settings: ClassVar[type[pydantic.BaseModel]] = LvmSettings
    parameters: ClassVar[Mapping[str, str]] = PARAMETERS
    scope = Scope.LOCAL
    counts_openers = True
    atomic_copies = True
    freezes = True

    def __init__(self, settings: pydantic.BaseModel, context: PoolContext) -> None:
        assert isinstance(settings, LvmSettings)
        self._settings = settings
        self._read_only = context.read_only
        self._group = VolumeGroup(settings, context, Lvm(settings))
        self._devices = LvmDevices(settings, self._group)
        self._objects = LvmObjects(settings, self._group, self._devices)
        copies = LvmCopies(self._objects)
        self._volumes = LvmVolumes(settings, self._objects, copies)
        self._snapshots = LvmSnapshots(self._objects, copies, self._volumes)
        self._background: set[asyncio.Task[None]] = set()

    @classmethod
    def checks(cls) -> Sequence[BackendCheck]:
        return CHECKS.all

    @property
    def pool_uid(self) -> str:
        return self._group.uid

    async def start(self) -> None:
        await self._group.open()
        if self._read_only:
            return
        try:
            await self._prepare_thin_pool()
            unfinished, dying = await sweep(self._objects)
        except BaseException:
            self._group.close()
            raise
        for cut in unfinished:
            self._snapshots.resume(cut)
        for entry in dying:
            # Wiping may take hours; whoever asks for the removal again waits for it.
            self._in_background(self._volumes.finish_removal(entry))
        if self._settings.thin_pool and self._settings.thin_autoextend_threshold < 100:
            self._in_background(self._watch(self._settings.thin_pool))

    async def close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._snapshots.close()
        self._group.close()

    async def create(self, request: CreateRequest) -> Volume:
        source = request.source.id if request.source else None
        if isinstance(source, SnapshotId) and source.pool_uid == self._group.uid:
            await self._snapshots.copied(source.name)
        return await self._volumes.create(request)

    async def delete(self, volume_id: VolumeId) -> None:
        await self._volumes.delete(self._group.own(volume_id))

    async def get(self, volume_id: VolumeId) -> Volume | None:
        return await self._volumes.look(self._group.own(volume_id))

    async def find(self, csi_name: str) -> Volume | None:
        return await self._volumes.look(storage_name(csi_name))

    async def list(self, cursor: str, limit: int) -> Page[Volume]:
        return await self._volumes.list(cursor, limit)

    async def capacity(self, parameters: Mapping[str, str]) -> Capacity:
        layout = layouts.parse(parameters, self._settings)
        state = await self._group.read()
        return await self._objects.space.capacity(state, layout)

    async def reserved(self, csi_name: str) -> bool:
        return await self._volumes.is_begun(storage_name(csi_name))

    async def expand(self, volume_id: VolumeId, size_bytes: int) -> int:
        return await self._volumes.expand(self._group.own(volume_id), size_bytes)

    async def attach(
        self, volume_id: VolumeId, publish_context: Mapping[str, str], secrets: Mapping[str, str]
    ) -> Device:
        name = self._group.own(volume_id)
        async with self._group.changing() as state:
            entry = self._volumes.require(state, self._objects.index(state), name)
            return await self._devices.attach(entry.lv)

    async def attached(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> Device | None:
        try:
            _, entry = await self._volumes.entry(self._group.own(volume_id))
        except NotFound:
            return None  # an LV that is removed has no device
        return await self._devices.attached(entry.lv)

    async def detach(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> None:
        name = self._group.own(volume_id)
        self._group.check_writable()
        try:
            _, entry = await self._volumes.entry(name)
            # Waits for a moment, so not where others would wait, too.
            await self._devices.check_unused(entry.lv)
            async with self._group.changing() as state:
                entry = self._volumes.require(state, self._objects.index(state), name)
                await self._devices.detach(state, entry.lv)
        except NotFound:
            return

    async def release(self, volume_id: VolumeId, attachment: Attachment) -> None:
        await off_loop(abandoned.release, volume_id, attachment.device)

    async def refresh(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> int:
        device = await self.attached(volume_id)
        if device is None:
            raise Precondition(f"volume {volume_id}: is not attached; attach it first")
        return device.size_bytes  # LVM gave the device its new size when the LV grew

    async def is_blank(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> bool | None:
        _, entry = await self._volumes.entry(self._group.own(volume_id))
        # A thick volume was zeroed, but whoever had its device since may have written: only a probe can tell.
        return True if entry.lv.pool and await self._devices.blank(entry.lv) else None

    async def full(self, volume_id: VolumeId) -> str:
        state, entry = await self._volumes.entry(self._group.own(volume_id))
        return await self._objects.space.full(state, entry.lv)

    async def create_snapshot(self, csi_name: str, source: VolumeId) -> Snapshot:
        self._group.own(source)
        return await self._snapshots.create(csi_name, source)

    async def delete_snapshot(self, snapshot_id: SnapshotId) -> None:
        await self._snapshots.delete(self._group.own(snapshot_id))

    async def get_snapshot(self, snapshot_id: SnapshotId) -> Snapshot | None:
        return await self._snapshots.look(self._group.own(snapshot_id))

    async def find_snapshot(self, csi_name: str) -> Snapshot | None:
        return await self._snapshots.look(storage_name(csi_name))

    async def list_snapshots(self, cursor: str, limit: int, source: VolumeId | None = None) -> Page[Snapshot]:
        if source is not None:
            self._group.own(source)
        return await self._snapshots.list(cursor, limit, source)

    async def compare_and_set_facts(self, volume_id: VolumeId, expected: Facts, new: Facts) -> None:
        await self._volumes.compare_and_set_facts(self._group.own(volume_id), expected, new)

    async def condition(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> Condition:
        name = self._group.own(volume_id)
        state = await self._group.read()
        entry = self._volumes.require(state, self._objects.index(state), name)
        return await self._devices.condition(state, entry.lv)

    # -- thin pools ------------------------------------------------------------------------------------

    async def _prepare_thin_pool(self) -> None:
        """See that the pool's thin pool is fit, and active: only the kernel knows how full it is.

        Raises:
            PoolUnavailable: it is absent, or would show former tenants' bytes.
        """
        if self._settings.thin_pool is None:
            return
        pool = self._objects.space.thin_pool(await self._group.read(), self._settings.thin_pool)
        if await self._devices.pool_usage(pool) is None:
            await self._group.activate(pool.name, active=True)

    async def _watch(self, name: str) -> None:
        """Enlarge the thin pool whenever it is fuller than the settings want."""
        while True:
            try:
                await self._extend_if_full(name)
            except KatacsiError as error:
                log.error(
                    "a thin pool cannot be enlarged", thin_pool=self._group.path(name), error=error.message
                )
            await asyncio.sleep(WATCH_S)

    async def _extend_if_full(self, name: str) -> None:
        pool = self._objects.space.thin_pool(await self._group.read(), name)
        usage = await self._devices.pool_usage(pool)
        threshold = self._settings.thin_autoextend_threshold
        if usage is None or max(usage.data_percent, usage.metadata_percent) < threshold:
            return
        async with self._group.changing():
            # LVM extends what is over the threshold, data or metadata, by the percentage in its
            # configuration.
            await self._group.run("lvextend", "--yes", "--use-policies", self._group.path(name))
        log.info("thin pool enlarged", thin_pool=self._group.path(name), data_percent=usage.data_percent)

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if task.cancelled() or isinstance(task.exception(), StillWorking):
            return  # the process ends; the next start goes on
        if (error := task.exception()) is not None:
            log.error("work in the background failed", error=str(error))
