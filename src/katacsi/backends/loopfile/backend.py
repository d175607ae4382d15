# ruff: noqa: D102 -- katacsi.backends.protocols says what each method does
"""The loopfile backend: each call is one step in a thread of the host's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar, ParamSpec, TypeVar

from katacsi.backends.api import UNREMEMBERED, Capacity, Scope
from katacsi.backends.loopfile.accounting import Accounting
from katacsi.backends.loopfile.checks import CHECKS
from katacsi.backends.loopfile.copies import Copier
from katacsi.backends.loopfile.devices import LoopfileDevices
from katacsi.backends.loopfile.objects import LoopfileObjects
from katacsi.backends.loopfile.pool import LoopfilePool
from katacsi.backends.loopfile.records import SnapshotRecord, VolumeRecord
from katacsi.backends.loopfile.settings import PARAMETERS, LoopfileSettings
from katacsi.backends.loopfile.snapshots import LoopfileSnapshots
from katacsi.backends.loopfile.sweep import sweep
from katacsi.backends.loopfile.volumes import LoopfileVolumes
from katacsi.backends.loopfile.writeprobe import WriteProbe
from katacsi.host import directories, files
from katacsi.host.offloop import off_loop
from katacsi.model import storage_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
    from katacsi.backends.loopfile.layout import ObjectFolder
    from katacsi.model import Condition, SnapshotId, VolumeId

P = ParamSpec("P")
T = TypeVar("T")

#: Full copies keep a disk and a thread busy for minutes; more at once would end no sooner.
_FULL_COPIES_AT_ONCE = 2


class LoopfileBackend:
    """A pool of image files in a folder."""

    Settings: ClassVar[type[pydantic.BaseModel]] = LoopfileSettings
    parameters: ClassVar[Mapping[str, str]] = PARAMETERS
    scope = Scope.LOCAL
    counts_openers = True
    freezes = False

    def __init__(self, settings: pydantic.BaseModel, context: PoolContext) -> None:
        assert isinstance(settings, LoopfileSettings)
        self._settings = settings
        self._read_only = context.read_only
        self._pool = LoopfilePool(settings, context)
        self._accounting = Accounting(context.pool, settings)
        self._copier = Copier(settings.copies)
        volumes = LoopfileObjects(self._pool, self._pool.volumes, VolumeRecord, self._accounting)
        snapshots = LoopfileObjects(self._pool, self._pool.snapshots, SnapshotRecord, self._accounting)
        self._volume_objects, self._snapshot_objects = volumes, snapshots
        self._snapshots = LoopfileSnapshots(self._pool, snapshots, volumes, self._copier)
        self._volumes = LoopfileVolumes(settings, self._pool, volumes, self._snapshots, self._copier)
        self._devices = LoopfileDevices(settings, self._pool, self._volumes)
        self._writing = WriteProbe(self._pool)
        self._full_copies = asyncio.Semaphore(_FULL_COPIES_AT_ONCE)

    @classmethod
    def checks(cls) -> Sequence[BackendCheck]:
        return CHECKS.all

    @property
    def atomic_copies(self) -> bool:
        return self._copier.reflink

    @property
    def pool_uid(self) -> str:
        return self._pool.uid

    async def start(self) -> None:
        await self._look(self._open)

    async def close(self) -> None:
        await off_loop(self._pool.close)

    async def create(self, request: CreateRequest) -> Volume:
        if request.source is None or self._copier.reflink:
            return await self._change(self._volumes.create, request)
        async with self._full_copies:
            return await self._change(self._volumes.create, request)

    async def delete(self, volume_id: VolumeId) -> None:
        await self._change(self._delete, self._pool.own(volume_id))

    async def get(self, volume_id: VolumeId) -> Volume | None:
        return await self._look(self._volumes.look, self._pool.own(volume_id))

    async def find(self, csi_name: str) -> Volume | None:
        return await self._look(self._volumes.find, csi_name)

    async def list(self, cursor: str, limit: int) -> Page[Volume]:
        return await self._look(self._volumes.list, cursor, limit)

    async def capacity(self, parameters: Mapping[str, str]) -> Capacity:
        capacity = await self._look(self._capacity, parameters)
        if capacity.available_bytes and await self._writing.refusal():
            return Capacity(0, 0, capacity.minimum_volume_bytes)
        return capacity

    async def reserved(self, csi_name: str) -> bool:
        return self._accounting.has(self._pool.volumes.disk(storage_name(csi_name)))

    async def full(self, volume_id: VolumeId) -> str:
        return await self._look(self._devices.full, self._pool.own(volume_id))

    async def expand(self, volume_id: VolumeId, size_bytes: int) -> int:
        return await self._change(self._volumes.expand, self._pool.own(volume_id), size_bytes)

    async def attach(
        self, volume_id: VolumeId, publish_context: Mapping[str, str], secrets: Mapping[str, str]
    ) -> Device:
        return await self._change(self._devices.attach, self._pool.own(volume_id))

    async def attached(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> Device | None:
        return await self._look(self._devices.attached, self._pool.own(volume_id))

    async def detach(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> None:
        await self._change(self._devices.detach, self._pool.own(volume_id))

    async def release(self, volume_id: VolumeId, attachment: Attachment) -> None:
        await off_loop(self._devices.release, volume_id, attachment.device)

    async def refresh(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> int:
        return await self._change(self._devices.refresh, self._pool.own(volume_id))

    async def is_blank(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> bool | None:
        return await self._look(self._devices.is_blank, self._pool.own(volume_id))

    async def create_snapshot(self, csi_name: str, source: VolumeId) -> Snapshot:
        self._pool.own(source)
        if self._copier.reflink:
            return await self._change(self._snapshots.create, csi_name, source)
        async with self._full_copies:
            return await self._change(self._snapshots.create, csi_name, source)

    async def delete_snapshot(self, snapshot_id: SnapshotId) -> None:
        await self._change(self._snapshot_objects.remove, self._pool.own(snapshot_id))

    async def get_snapshot(self, snapshot_id: SnapshotId) -> Snapshot | None:
        return await self._look(self._snapshots.look, self._pool.own(snapshot_id))

    async def find_snapshot(self, csi_name: str) -> Snapshot | None:
        return await self._look(self._snapshots.find, csi_name)

    async def list_snapshots(self, cursor: str, limit: int, source: VolumeId | None = None) -> Page[Snapshot]:
        if source is not None:
            self._pool.own(source)
        return await self._look(self._snapshots.list, cursor, limit, source)

    async def compare_and_set_facts(self, volume_id: VolumeId, expected: Facts, new: Facts) -> None:
        await self._change(self._volumes.compare_and_set_facts, self._pool.own(volume_id), expected, new)

    async def condition(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> Condition:
        name = self._pool.own(volume_id)
        return await self._look(self._devices.condition, name, await self._writing.refusal())

    def _open(self) -> None:
        self._pool.open()
        if self._read_only:
            return
        try:
            self._accounting.measure_others(self._folders, directories.settled_room(self._pool.directory))
            for folder in self._folders:
                sweep(folder)
            files.remove_stale_temporaries(self._pool.directory, older_than_s=0)
            self._devices.clear_probe()
            self._copier.probe(self._pool.directory)
            self._accounting.count_promises(self._folders)
        except BaseException:
            self._pool.close()
            raise

    @property
    def _folders(self) -> tuple[ObjectFolder, ObjectFolder]:
        return self._pool.volumes, self._pool.snapshots

    def _delete(self, name: str) -> None:
        self._volume_objects.read(name)  # first: what has a damaged record keeps its device, too
        self._devices.detach(name)
        self._volume_objects.remove(name)

    def _capacity(self, parameters: Mapping[str, str]) -> Capacity:
        allocation = self._settings.allocation_for(parameters)
        if self._read_only:
            # Somebody else makes and removes volumes meanwhile.
            self._accounting.count(self._folders, directories.room(self._pool.directory))
        self._pool.verify()  # what is below a disk that was unmounted has other room
        room = directories.room(self._pool.directory)
        available = self._accounting.available(allocation, room)
        largest = self._accounting.largest(allocation, available)
        return Capacity(available, largest, self._settings.minimum_volume_size)

    async def _look(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await off_loop(self._pool.explained, step, *args, **kwargs)

    async def _change(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._pool.changing()
        return await self._look(step, *args, **kwargs)
