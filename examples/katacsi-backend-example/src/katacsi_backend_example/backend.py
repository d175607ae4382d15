"""The backend. What each method has to do is said in katacsi.backends.protocols; here is only the how."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from katacsi.backends.api import UNREMEMBERED, Attachment, Capacity, Device, Facts, Page, Scope, Volume
from katacsi.backends.tools import (
    RecordFolder,
    check_expected,
    check_known,
    check_own,
    check_volume,
    check_writable,
    find_by_identity,
    identity_of,
    off_loop,
    page,
    require_unheld,
    set_writable,
    size_of,
    zero,
)
from katacsi.errors import HostError, NotFound, OutOfSpace, SizeOutOfRange, StillWorking, Unsupported
from katacsi.model import Condition, VolumeId, storage_name
from pydantic import BaseModel, ConfigDict, Field

from katacsi_backend_example.checks import CHECKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from katacsi.backends.api import BackendCheck, CreateRequest, PoolContext

Record = dict[str, Any]

# What becomes of a disk: it is zeroed, then a volume, then zeroed again. A crash leaves it where it was.
_MAKING, _READY, _DYING = "making", "ready", "dying"


class DisksSettings(BaseModel):
    """A pool of disks."""

    model_config = ConfigDict(extra="forbid")

    devices: list[Path] = Field(
        description="The disks to give out; whatever is on them is lost.", min_length=1
    )
    state_directory: Path = Field(description="Where the pool remembers which disk is which volume.")


class DisksBackend:
    """Gives out whole disks. They cannot grow and have no snapshots, so the methods for that are left out."""

    Settings = DisksSettings
    parameters: Mapping[str, str] = {}
    scope = Scope.LOCAL

    def __init__(self, settings: DisksSettings, context: PoolContext) -> None:
        self._devices = settings.devices
        self._context = context
        self._storage = str(settings.state_directory)
        self._records = RecordFolder(settings.state_directory, context.pool)
        self._choosing = threading.Lock()
        self._resumed: set[asyncio.Task[None]] = set()

    @classmethod
    def checks(cls) -> Sequence[BackendCheck]:
        return CHECKS.all

    # -- the pool ----------------------------------------------------------------------------------

    @property
    def pool_uid(self) -> str:
        return self._records.uid

    async def start(self) -> None:
        await off_loop(self._records.open, read_only=self._context.read_only)
        if self._context.read_only:
            return
        for name, record in (await off_loop(self._all)).items():
            if record["state"] == _MAKING:
                # Nobody was told of the volume, and perhaps nobody asks for it again.
                await off_loop(self._records.remove, name)
            elif record["state"] == _DYING:
                # Zeroing takes hours, and pods wait for the start. A repeated delete goes on with it, too.
                self._resumed.add(asyncio.create_task(self._resume(name)))

    async def close(self) -> None:
        for task in self._resumed:
            task.cancel()
        await asyncio.gather(*self._resumed, return_exceptions=True)
        await off_loop(self._records.close)

    async def capacity(self, parameters: Mapping[str, str]) -> Capacity:
        check_known(parameters, self.parameters, "disks.katacsi.io/")
        free = await off_loop(self._free)
        return Capacity(sum(free.values()), max(free.values(), default=0))

    # -- its volumes -------------------------------------------------------------------------------

    async def create(self, request: CreateRequest) -> Volume:
        check_writable(self._context.pool, read_only=self._context.read_only)
        check_known(request.parameters, self.parameters, "disks.katacsi.io/")
        if request.source:
            raise Unsupported(f"pool {self._context.pool!r} cannot copy {request.source.id}")
        name = storage_name(request.csi_name)
        record = await off_loop(self._records.read, name)
        if record is not None and record["state"] == _DYING:
            await self._finish_deletion(name)
            record = None
        if record is None:
            record = await off_loop(self._choose, name, request)
        check_volume(self._volume(name, record), request)
        if record["state"] == _MAKING:
            # The disk was nobody's until now, so nobody can say what is on it.
            record = await self._zeroed(name, record)
            record = await off_loop(self._write, name, {**record, "state": _READY})
        return self._volume(name, record)

    async def delete(self, volume_id: VolumeId) -> None:
        check_writable(self._context.pool, read_only=self._context.read_only)
        name = self._own(volume_id)
        if await off_loop(self._begin_deletion, name):
            await self._finish_deletion(name)

    async def get(self, volume_id: VolumeId) -> Volume | None:
        return await off_loop(self._look, self._own(volume_id))

    async def find(self, csi_name: str) -> Volume | None:
        return await off_loop(self._look, storage_name(csi_name))

    async def list(self, cursor: str, limit: int) -> Page[Volume]:
        return await off_loop(lambda: page(self._records.names(), cursor, limit, self._look))

    async def compare_and_set_facts(self, volume_id: VolumeId, expected: Facts, new: Facts) -> None:
        check_writable(self._context.pool, read_only=self._context.read_only)
        await off_loop(self._set_facts, volume_id, expected, new)

    # -- their devices -----------------------------------------------------------------------------

    async def attach(
        self, volume_id: VolumeId, publish_context: Mapping[str, str], secrets: Mapping[str, str]
    ) -> Device:
        check_writable(self._context.pool, read_only=self._context.read_only)
        return await off_loop(self._attach, self._own(volume_id))

    async def attached(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> Device | None:
        return await off_loop(self._attached, self._own(volume_id))

    async def detach(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> None:
        check_writable(self._context.pool, read_only=self._context.read_only)
        await off_loop(self._detach, self._own(volume_id))

    async def release(self, volume_id: VolumeId, attachment: Attachment) -> None:
        await off_loop(self._release, volume_id, attachment.device)

    async def refresh(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> int:
        record = await off_loop(self._require, self._own(volume_id))
        return int(record["size"])

    async def is_blank(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> bool | None:
        return None  # a disk keeps no account of what was written to it

    async def condition(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> Condition:
        record = await off_loop(self._require, self._own(volume_id))
        try:
            await off_loop(self._disk, record)
        except HostError as error:
            return Condition(abnormal=True, message=error.message)
        return Condition()

    # -- in a thread -------------------------------------------------------------------------------

    def _choose(self, name: str, request: CreateRequest) -> Record:
        """Reserve the smallest disk that fits; what is reserved in the records is reserved for good."""
        with self._choosing:
            if not any(request.size.admits(size_of(disk)) for disk in self._devices):
                raise SizeOutOfRange(
                    f"{name}: the pool has no disk of {request.size.required} bytes, used or free"
                )
            fitting = [(size, disk) for disk, size in self._free().items() if request.size.admits(size)]
            if not fitting:
                raise OutOfSpace(f"{name}: all disks of {request.size.required} bytes are taken; add one")
            size, disk = min(fitting)
            record = {
                "csi_name": request.csi_name,
                "disk": identity_of(disk),
                "size": size,
                "state": _MAKING,
                "zeroed": 0,
                "attached": False,
                "facts": Facts().to_dict(),
                "attributes": dict(request.attributes),
                "created_at": time.time(),
            }
            return self._write(name, record)

    def _begin_deletion(self, name: str) -> bool:
        """Make the volume one that is going, if nobody has it; False: there is none."""
        record = self._records.read(name)
        if record is None:
            return False
        if record["state"] != _DYING:
            self._detach(name)
            require_unheld(f"volume {name}", self._disk(record))
            self._write(name, {**record, "state": _DYING, "zeroed": 0, "attached": False})
        return True

    def _attach(self, name: str) -> Device:
        record = self._require(name)
        disk = self._disk(record)
        if not record["attached"]:
            set_writable(disk)
        # Written each time: who wrote what can be read may have been killed before it was on the disk.
        self._write(name, {**record, "attached": True})
        return Device(disk, record["size"], volume=self._volume(name, record))

    def _attached(self, name: str) -> Device | None:
        record = self._records.read(name)
        return Device(self._disk(record), record["size"]) if record and record["attached"] else None

    def _detach(self, name: str) -> None:
        record = self._records.read(name)
        if record is not None and record["attached"]:
            require_unheld(f"volume {name}", self._disk(record))
            self._write(name, {**record, "attached": False})

    def _release(self, volume_id: VolumeId, remembered: Path | None) -> None:
        # A disk stays where it is. What there is to take away is a note, which may be gone with its own disk.
        try:
            if self._records.identity() == volume_id.pool_uid:
                self._detach(volume_id.name)
                return
        except HostError:
            if remembered is None:
                raise
        if remembered is not None and remembered in self._devices:
            require_unheld(f"volume {volume_id}", remembered)

    def _set_facts(self, volume_id: VolumeId, expected: Facts, new: Facts) -> None:
        name = self._own(volume_id)
        record = self._require(name)
        check_expected(volume_id, Facts.from_dict(record["facts"]), expected)
        self._write(name, {**record, "facts": new.to_dict()})

    def _look(self, name: str) -> Volume | None:
        record = self._records.read(name)
        return self._volume(name, record) if record and record["state"] == _READY else None

    def _require(self, name: str) -> Record:
        record = self._records.read(name)
        if record is None or record["state"] != _READY:
            raise NotFound(f"volume {name}: pool {self._context.pool!r} has none of that name")
        return record

    def _all(self) -> dict[str, Record]:
        records = {name: self._records.read(name) for name in self._records.names()}
        return {name: record for name, record in records.items() if record is not None}

    def _free(self) -> dict[Path, int]:
        taken = {record["disk"] for record in self._all().values()}
        return {disk: size_of(disk) for disk in self._devices if identity_of(disk) not in taken}

    def _disk(self, record: Record) -> Path:
        """Find a volume's disk by what its maker calls it: the kernel's names change at a reboot."""
        disk = find_by_identity(record["disk"], self._devices)
        if (present := size_of(disk)) != record["size"]:
            raise HostError(f"{disk}: has {present} bytes and had {record['size']}; is it the same disk?")
        return disk

    def _write(self, name: str, record: Record) -> Record:
        self._records.write(name, record)
        return record

    # -- both --------------------------------------------------------------------------------------

    async def _zeroed(self, name: str, record: Record) -> Record:
        """Zero a disk, from where a former call stopped."""
        disk = await off_loop(self._disk, record)
        await off_loop(set_writable, disk)

        async def noted(position: int) -> None:
            await off_loop(self._write, name, {**record, "zeroed": position})

        about = f"volume {name}: zeroing"
        await zero(
            about, disk, record["zeroed"], record["size"], stopping=self._context.stopping, noted=noted
        )
        return {**record, "zeroed": record["size"]}

    async def _finish_deletion(self, name: str) -> None:
        record = await off_loop(self._records.read, name)
        if record is not None and record["state"] == _DYING:
            await self._zeroed(name, record)
            await off_loop(self._records.remove, name)

    async def _resume(self, name: str) -> None:
        try:
            await self._finish_deletion(name)
        except (HostError, StillWorking):
            return  # who deletes the volume again is told why

    def _own(self, volume_id: VolumeId) -> str:
        """Give an id's storage name; about another pool's volumes nothing is known here, not even absence."""
        check_own(
            volume_id,
            self._context.pool,
            self._records.uid,
            storage=self._storage,
            remedy="mount its former state_directory",
        )
        return volume_id.name

    def _volume(self, name: str, record: Record) -> Volume:
        return Volume(
            id=VolumeId(self._context.pool, self._records.uid, name),
            csi_name=record["csi_name"],
            size_bytes=record["size"],
            facts=Facts.from_dict(record["facts"]),
            attributes=record["attributes"],
            created_at=record["created_at"],
        )
