"""The backend. What each method has to do is said in katacsi.backends.protocols; here is only the how."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from katacsi.backends.api import (
    UNREMEMBERED,
    Attachment,
    Capacity,
    Device,
    Facts,
    Page,
    Scope,
    Volume,
)
from katacsi.errors import (
    AlreadyExists,
    HostError,
    InvalidPageToken,
    InvalidRequest,
    NotFound,
    OperationPending,
    OutOfSpace,
    PoolUnavailable,
    Precondition,
    SizeOutOfRange,
    Unsupported,
    VolumeInUse,
)
from katacsi.host import block, holders
from katacsi.model import Condition, VolumeId, is_storage_name, storage_name
from pydantic import BaseModel, ConfigDict, Field

from katacsi_backend_example.checks import CHECKS
from katacsi_backend_example.state import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from katacsi.backends.api import BackendCheck, CreateRequest, PoolContext

    from katacsi_backend_example.state import Record


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
        self._state = State(settings.state_directory)
        self._choosing = threading.Lock()

    @classmethod
    def checks(cls) -> Sequence[BackendCheck]:
        return CHECKS.all

    @property
    def pool_uid(self) -> str:
        return self._state.uid

    # The event loop must not wait for a disk, so each method hops into a thread, once.

    async def start(self) -> None:
        await asyncio.to_thread(self._start)

    async def close(self) -> None:
        self._state.close()

    async def create(self, request: CreateRequest) -> Volume:
        return await asyncio.to_thread(self._create, request)

    async def delete(self, volume_id: VolumeId) -> None:
        await asyncio.to_thread(self._delete, self._own(volume_id))

    async def get(self, volume_id: VolumeId) -> Volume | None:
        return await asyncio.to_thread(self._look, self._own(volume_id))

    async def find(self, csi_name: str) -> Volume | None:
        return await asyncio.to_thread(self._look, storage_name(csi_name))

    async def list(self, cursor: str, limit: int) -> Page[Volume]:
        if cursor and not is_storage_name(cursor):
            raise InvalidPageToken(f"{cursor!r} is no cursor of this pool")
        records = await asyncio.to_thread(self._state.all)
        names = [name for name, record in records.items() if record["ready"] and name > cursor]
        page = names[:limit] if limit else names
        items = tuple(self._volume(name, records[name]) for name in page)
        return Page(items, next_cursor=page[-1] if len(page) < len(names) else "")

    async def capacity(self, parameters: Mapping[str, str]) -> Capacity:
        _require_no_parameters(parameters)
        free = await asyncio.to_thread(self._free)
        return Capacity(sum(free.values()), max(free.values(), default=0))

    async def attach(
        self, volume_id: VolumeId, publish_context: Mapping[str, str], secrets: Mapping[str, str]
    ) -> Device:
        return await asyncio.to_thread(self._attach, self._own(volume_id))

    async def attached(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> Device | None:
        record = await asyncio.to_thread(self._state.read, self._own(volume_id))
        return _device(record) if record and record["attached"] else None

    async def detach(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> None:
        await asyncio.to_thread(self._detach, self._own(volume_id))

    async def release(self, volume_id: VolumeId, attachment: Attachment) -> None:
        await asyncio.to_thread(self._release, volume_id, attachment.device)

    async def refresh(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> int:
        record = await asyncio.to_thread(self._require, self._own(volume_id))
        return _size_of(Path(record["disk"]))

    async def is_blank(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> bool | None:
        return None  # a disk keeps no account of what was written to it

    async def compare_and_set_facts(self, volume_id: VolumeId, expected: Facts, new: Facts) -> None:
        await asyncio.to_thread(self._set_facts, self._own(volume_id), expected, new)

    async def condition(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> Condition:
        record = await asyncio.to_thread(self._require, self._own(volume_id))
        try:
            present = await asyncio.to_thread(_size_of, Path(record["disk"]))
        except HostError as error:
            return Condition(abnormal=True, message=error.message)
        if present < record["size"]:
            return Condition(
                abnormal=True, message=f"{record['disk']}: has {present} bytes, not {record['size']}"
            )
        return Condition()

    # -- in a thread -------------------------------------------------------------------------------

    def _start(self) -> None:
        self._state.open(read_only=self._context.read_only)
        if self._context.read_only:
            return
        for name, record in self._state.all().items():
            if not record["ready"]:
                # A crash cut the wipe short. Nobody was told of the volume, and the next one is wiped again.
                self._state.remove(name)

    def _create(self, request: CreateRequest) -> Volume:
        self._changing()
        _require_no_parameters(request.parameters)
        name = storage_name(request.csi_name)
        if request.source:
            raise Unsupported(f"pool {self._context.pool!r} cannot copy {request.source.id}")
        if record := self._state.read(name):
            if not request.size.admits(record["size"]):
                raise AlreadyExists(f"volume {name}: exists with {record['size']} bytes; choose another name")
        else:
            record = self._choose(name, request)
        if not record["ready"]:
            # The last tenant's bytes. A crash in here leaves the record as it is, and a retry begins again.
            _make_writable(Path(record["disk"]))
            _run("blkdiscard", "--force", "--zeroout", record["disk"])
            record["ready"] = True
            self._state.write(name, record)
        return self._volume(name, record)

    def _choose(self, name: str, request: CreateRequest) -> Record:
        """Reserve the smallest disk that fits; what is reserved in the state is reserved for good."""
        with self._choosing:
            sizes = {disk: _size_of(disk) for disk in self._devices}
            if not any(map(request.size.admits, sizes.values())):
                raise SizeOutOfRange(
                    f"{name}: the pool has no disk of {request.size.required} bytes, used or free"
                )
            free = self._free()
            fitting = [(size, disk) for disk, size in free.items() if request.size.admits(size)]
            if not fitting:
                raise OutOfSpace(f"{name}: all disks of {request.size.required} bytes are taken; add one")
            size, disk = min(fitting)
            record: Record = {
                "csi_name": request.csi_name,
                "disk": str(disk),
                "size": size,
                "ready": False,
                "attached": False,
                "facts": Facts().to_dict(),
                "attributes": dict(request.attributes),
                "created_at": time.time(),
            }
            self._state.write(name, record)
            return record

    def _delete(self, name: str) -> None:
        self._changing()
        self._detach(name)
        self._state.remove(name)

    def _look(self, name: str) -> Volume | None:
        record = self._state.read(name)
        # One that is still being wiped is not made yet.
        return self._volume(name, record) if record and record["ready"] else None

    def _require(self, name: str) -> Record:
        record = self._state.read(name)
        if record is None or not record["ready"]:
            raise NotFound(f"volume {name}: pool {self._context.pool!r} has none of that name")
        return record

    def _attach(self, name: str) -> Device:
        self._changing()
        record = self._require(name)
        if not record["attached"]:
            _make_writable(Path(record["disk"]))
        # Written each time: who wrote what can be read may have been killed before it was on the disk.
        self._state.write(name, {**record, "attached": True})
        return _device(record)

    def _detach(self, name: str) -> None:
        self._changing()
        record = self._state.read(name)
        if record is None or not record["attached"]:
            return
        _require_unused(name, Path(record["disk"]))
        self._state.write(name, {**record, "attached": False})

    def _release(self, volume_id: VolumeId, remembered: Path | None) -> None:
        # A disk stays where it is. What there is to take away is a note, which may be gone with its own disk.
        if self._state.identity() == volume_id.pool_uid:
            self._detach(volume_id.name)
        elif remembered is not None and remembered in self._devices:
            _require_unused(volume_id.name, remembered)

    def _set_facts(self, name: str, expected: Facts, new: Facts) -> None:
        self._changing()
        record = self._require(name)
        if Facts.from_dict(record["facts"]) != expected:
            raise OperationPending(f"volume {name}: its facts changed meanwhile; retry")
        self._state.write(name, {**record, "facts": new.to_dict()})

    def _free(self) -> dict[Path, int]:
        taken = {record["disk"] for record in self._state.all().values()}
        return {disk: _size_of(disk) for disk in self._devices if str(disk) not in taken}

    def _own(self, volume_id: VolumeId) -> str:
        """Give an id's storage name; about another pool's volumes nothing is known here, not even absence."""
        if volume_id.pool_uid != self._state.uid:
            raise PoolUnavailable(f"volume {volume_id}: lies in another pool; this one is {self._state.uid}")
        return volume_id.name

    def _changing(self) -> None:
        if self._context.read_only:
            raise Precondition(f"pool {self._context.pool!r} was opened for viewing")

    def _volume(self, name: str, record: Record) -> Volume:
        return Volume(
            id=VolumeId(self._context.pool, self._state.uid, name),
            csi_name=record["csi_name"],
            size_bytes=record["size"],
            facts=Facts.from_dict(record["facts"]),
            attributes=record["attributes"],
            created_at=record["created_at"],
        )


def _require_no_parameters(parameters: Mapping[str, str]) -> None:
    for key in parameters:
        raise InvalidRequest(f"disks.katacsi.io/{key}", "unknown parameter; this backend has none")


def _make_writable(disk: Path) -> None:
    """Take off the flag that a pod which had the disk read-only may have left on it."""
    block.set_read_only(disk, False)


def _require_unused(name: str, disk: Path) -> None:
    try:
        # Refused while the disk is mounted, or claimed by device-mapper for example.
        os.close(os.open(disk, os.O_RDONLY | os.O_EXCL))
        # A virtual machine claims nothing: it is among the processes that have the disk open.
        if found := holders.lasting(disk):
            raise VolumeInUse(f"volume {name}: {disk} is held by {found[0]}; end that first")
    except FileNotFoundError:
        return  # the disk was taken out
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise VolumeInUse(f"volume {name}: {disk} is in use; unmount it first") from error
        raise HostError(f"volume {name}: {disk}: {error.strerror}") from error


def _device(record: Record) -> Device:
    disk = Path(record["disk"])
    return Device(disk, _size_of(disk))


def _size_of(disk: Path) -> int:
    try:
        fd = os.open(disk, os.O_RDONLY)
        try:
            return os.lseek(fd, 0, os.SEEK_END)
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError(f"{disk}: {error.strerror}; check the pool's `devices`") from error


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostError(f"{argv[0]} failed with {done.returncode}: {done.stderr.strip()}")
