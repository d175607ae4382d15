"""The smallest backend that keeps the whole contract: whole disks, one for each volume.

The tests of the kit break it in one place after another, and see that the kit finds each.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from katacsi.backends.api import UNREMEMBERED, Capacity, Device, Facts, Scope, Volume
from katacsi.backends.tools import listing, refusals
from katacsi.backends.tools.existing import check_volume
from katacsi.errors import (
    CorruptRecord,
    HostError,
    InvalidRequest,
    NotFound,
    OutOfSpace,
    PoolUnavailable,
    SizeOutOfRange,
    Unsupported,
    VolumeInUse,
)
from katacsi.host import block, directories, files, holders, locks
from katacsi.host.offloop import off_loop
from katacsi.model import MIB, Condition, VolumeId, storage_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from katacsi.backends.api import Attachment, CreateRequest, Page, PoolContext

    Record = dict[str, Any]

_WIPE_STEP = 4 * MIB


def threaded(name: str) -> Callable[..., Any]:
    """Make the coroutine of the contract from the blocking method of the same name."""

    async def method(self: Disks, *args: Any, **named: Any) -> Any:
        return await off_loop(getattr(self, f"do_{name}"), *args, **named)

    return method


def threaded_alone(name: str) -> Callable[..., Any]:
    """Do as `threaded`, for a method that has no use for what the node remembers."""

    async def method(self: Disks, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> Any:
        del attachment
        return await off_loop(getattr(self, f"do_{name}"), volume_id)

    return method


class Disks:
    """A pool: the disks in a folder of links by identity, and a folder with a record for each volume."""

    class Settings(BaseModel):
        """A pool of disks."""

        model_config = ConfigDict(extra="forbid")

        disks: Path = Field(description="a folder of links, by identity, to disks that are katacsi's")
        state: Path = Field(description="a folder for what is remembered")

    parameters: ClassVar[Mapping[str, str]] = {}
    scope = Scope.LOCAL

    for _name in [
        "start",
        "close",
        "create",
        "delete",
        "get",
        "find",
        "list",
        "capacity",
        "compare_and_set_facts",
        "attach",
        "release",
    ]:
        locals()[_name] = threaded(_name)
    for _name in ["attached", "detach", "refresh", "is_blank", "condition"]:
        locals()[_name] = threaded_alone(_name)

    def __init__(self, settings: Settings, context: PoolContext) -> None:
        self.disks, self.state, self.context = settings.disks, settings.state, context
        self.pool_uid = ""
        self.lock = -1
        self.choosing = threading.Lock()

    # -- the pool

    def do_start(self) -> None:
        if not self.state.is_dir():
            raise PoolUnavailable(f"{self.state} is not a folder; create it, or mount its disk")
        identity = self.state / "pool"
        if not self.context.read_only:
            self.take_lock()
            if files.read(identity) is None:
                files.write_atomically(identity, self.new_uid().encode())
        self.pool_uid = (files.read(identity) or b"").decode()
        if not self.context.read_only:
            self.recover()

    def new_uid(self) -> str:
        return secrets.token_hex(4)

    def take_lock(self) -> None:
        try:
            self.lock = locks.lock_file(self.state / "lock", 0)
        except locks.Held as error:
            raise PoolUnavailable(f"{self.state} is served by another driver; stop that one") from error

    def recover(self) -> None:
        """Undo what was not made, and finish what was not wiped."""
        for name in self.names():
            if self.read(name)["state"] != "ready":
                self.remove(name)

    def do_close(self) -> None:
        if self.lock >= 0:
            locks.unlock(self.lock)
        self.lock = -1

    def do_capacity(self, parameters: Mapping[str, str]) -> Capacity:
        self.check_parameters(parameters)
        free = self.free().values()
        return Capacity(sum(free), max(free, default=0))

    def check_parameters(self, parameters: Mapping[str, str]) -> None:
        for key in parameters:
            raise InvalidRequest(key, "unknown parameter; there are none")

    # -- its records

    def verify(self) -> None:
        """Prove that the folder is the pool's: one whose disk is not mounted looks empty."""
        if files.read(self.state / "pool") != self.pool_uid.encode():
            raise PoolUnavailable(f"{self.state} does not hold pool {self.pool_uid}; was its disk unmounted?")

    def path(self, name: str) -> Path:
        return self.state / f"{name}.json"

    def names(self) -> list[str]:
        self.verify()
        return [Path(name).stem for name in directories.list_directory(self.state) if name.endswith(".json")]

    def find_record(self, name: str) -> Record | None:
        """Give what is written about a volume; None means proven absent."""
        data = files.read(self.path(name))
        if data is None:
            self.verify()
            return None
        try:
            return dict(json.loads(data))
        except ValueError as error:
            raise CorruptRecord(f"{self.path(name)}: not JSON; restore it from a backup") from error

    def read(self, name: str) -> Record:
        """Give what is written about a volume that has to exist."""
        record = self.find_record(name)
        if record is None:
            raise NotFound(f"volume {name}: there is none")
        return record

    def write(self, name: str, record: Record) -> None:
        files.write_atomically(self.path(name), json.dumps(record).encode())

    def remove(self, name: str) -> None:
        """Wipe a volume's disk and forget the volume: a crash in between leaves what `recover` finishes."""
        self.wipe(self.disk(self.read(name)))
        files.ensure_absent(self.path(name))
        directories.sync_directory(self.state)

    def ready(self, name: str) -> Record:
        record = self.read(name)
        if record["state"] != "ready":
            raise NotFound(f"volume {name}: there is none yet, or not any more")
        return record

    def own(self, volume_id: VolumeId) -> str:
        refusals.check_own(volume_id, self.context.pool, self.pool_uid, storage="disks", remedy="mount it")
        return volume_id.name

    def changing(self) -> None:
        refusals.check_writable(self.context.pool, read_only=self.context.read_only)

    # -- its disks

    def identity(self, link: Path) -> str:
        """Give the name that a disk keeps when the kernel calls it otherwise."""
        return str(link)

    def disk(self, record: Record) -> Path:
        """Give the device of a volume's disk, as it is called now."""
        return Path(record["disk"]).resolve()

    def free(self) -> dict[Path, int]:
        self.verify()
        taken = {self.read(name)["disk"] for name in self.names()}
        links = [link for link in sorted(self.disks.iterdir()) if self.identity(link) not in taken]
        return {link: self.size(link) for link in links}

    def size(self, disk: Path) -> int:
        return block.size_bytes(disk)

    def wipe(self, disk: Path) -> None:
        block.set_read_only(disk, False)
        self.zero(disk, 0, self.size(disk))

    def zero(self, disk: Path, start: int, length: int) -> None:
        for offset in range(start, start + length, _WIPE_STEP):
            block.zero_out(disk, offset, min(_WIPE_STEP, start + length - offset))

    # -- its volumes

    def do_create(self, request: CreateRequest) -> Volume:
        self.changing()
        self.check_parameters(request.parameters)
        if request.source:
            raise Unsupported("disks cannot be copied")
        name = storage_name(request.csi_name)
        record = self.find_record(name)
        if record and record["state"] == "ready":
            self.check_existing(self.volume(name, record), request)
            return self.volume(name, record)
        if record:
            self.remove(name)
        record = self.choose(name, request)
        self.wipe(self.disk(record))
        record["state"] = "ready"
        self.write(name, record)
        return self.volume(name, record)

    def check_existing(self, existing: Volume, request: CreateRequest) -> None:
        check_volume(existing, request)

    def choose(self, name: str, request: CreateRequest) -> Record:
        """Reserve the smallest disk that fits."""
        with self.choosing:
            free = self.free()
            links = [link for link, size in free.items() if self.fits(request, size)]
            if not links:
                if any(size >= request.size.required for size in free.values()):
                    raise SizeOutOfRange(f"{name}: no disk is as small as {request.size.limit} bytes")
                raise OutOfSpace(f"{name}: no disk of {request.size.required} bytes is free; add one")
            link = min(links, key=lambda link: (free[link], link))
            record = self.new_record(request, self.identity(link), free[link])
            self.write(name, record)
            return record

    def new_record(self, request: CreateRequest, disk: str, size: int) -> Record:
        return {
            "csi_name": request.csi_name,
            "disk": disk,
            "size": size,
            "state": "new",
            "attached": False,
            "facts": Facts().to_dict(),
            "attributes": dict(request.attributes),
            "created_at": self.now(),
        }

    def fits(self, request: CreateRequest, size: int) -> bool:
        return request.size.admits(size)

    def now(self) -> float:
        return time.time()

    def do_delete(self, volume_id: VolumeId) -> None:
        self.changing()
        name = self.own(volume_id)
        record = self.find_record(name)
        if record is None:
            return
        self.require_unheld(name, self.disk(record))
        self.write(name, {**record, "state": "dying"})
        self.remove(name)

    def do_get(self, volume_id: VolumeId) -> Volume | None:
        return self.look(self.own(volume_id))

    def do_find(self, csi_name: str) -> Volume | None:
        return self.look(storage_name(csi_name))

    def do_list(self, cursor: str, limit: int) -> Page[Volume]:
        return listing.page(self.names(), cursor, limit, self.look)

    def look(self, name: str) -> Volume | None:
        record = self.find_record(name)
        return self.volume(name, record) if record and record["state"] == "ready" else None

    def volume(self, name: str, record: Record) -> Volume:
        return Volume(
            id=VolumeId(self.context.pool, self.pool_uid, name),
            csi_name=record["csi_name"],
            size_bytes=record["size"],
            facts=Facts.from_dict(record["facts"]),
            attributes=record["attributes"],
            created_at=record["created_at"],
        )

    def do_compare_and_set_facts(self, volume_id: VolumeId, expected: Facts, new: Facts) -> None:
        self.changing()
        record = self.ready(self.own(volume_id))
        refusals.check_expected(volume_id, Facts.from_dict(record["facts"]), expected)
        self.write(volume_id.name, {**record, "facts": new.to_dict()})

    # -- its devices

    def do_attach(self, volume_id: VolumeId, *_: object) -> Device:
        self.changing()
        name = self.own(volume_id)
        record = self.ready(name)
        disk = self.disk(record)
        if not record["attached"]:
            block.set_read_only(disk, False)  # as a pod that had it read-only may have left it
        # Written again each time: what can be read may have been left unsynced by a process that was killed.
        self.write(name, {**record, "attached": True})
        return self.device(record)

    def do_attached(self, volume_id: VolumeId) -> Device | None:
        record = self.find_record(self.own(volume_id))
        if not record or not record["attached"]:
            return None
        return self.device(record)

    def device(self, record: Record) -> Device:
        disk = self.disk(record)
        return Device(disk, self.size(disk))

    def do_detach(self, volume_id: VolumeId) -> None:
        self.changing()
        name = self.own(volume_id)
        record = self.find_record(name)
        if record and record["attached"]:
            self.require_unheld(name, self.disk(record))
            self.write(name, {**record, "attached": False})

    def do_release(self, volume_id: VolumeId, attachment: Attachment) -> None:
        # A disk stays where it is; what there is to take away is a note, in storage that may be gone.
        if files.read(self.state / "pool") == volume_id.pool_uid.encode():
            self.pool_uid = volume_id.pool_uid
            self.do_detach(volume_id)
        elif attachment.device is not None and block.number_at(attachment.device):
            self.require_unheld(volume_id.name, attachment.device)

    def require_unheld(self, name: str, disk: Path) -> None:
        """Refuse to take away what is mounted or claimed, or open as a virtual machine has it."""
        try:
            os.close(os.open(disk, os.O_RDONLY | os.O_EXCL))
        except OSError as error:
            raise VolumeInUse(f"volume {name}: {disk} is in use ({error.strerror})") from error
        if found := holders.lasting(disk):
            raise VolumeInUse(f"volume {name}: {disk} is held by {found[0]}; end that first")

    def do_refresh(self, volume_id: VolumeId) -> int:
        return self.size(self.disk(self.ready(self.own(volume_id))))

    def do_is_blank(self, volume_id: VolumeId) -> bool | None:
        self.ready(self.own(volume_id))
        return None  # a disk keeps no account of what was written to it

    def do_condition(self, volume_id: VolumeId) -> Condition:
        record = self.ready(self.own(volume_id))
        try:
            self.size(self.disk(record))
        except HostError as error:
            return Condition(abnormal=True, message=error.message)
        return Condition()
