"""The smallest backend with scope NETWORK that keeps the contract: an appliance whose volumes are files.

The appliance is a folder that all nodes see. A lock of each volume stands for the appliance's own
transactions. It fences by giving a volume's bytes to a new file: what an old device still writes to is the
old one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, ClassVar

import pytest

from katacsi.backends.api import Capacity, Device, Scope
from katacsi.errors import (
    AlreadyExists,
    HostError,
    NotFound,
    OutOfSpace,
    Precondition,
    SizeOutOfRange,
    VolumeInUse,
)
from katacsi.host import block, directories, files, locks, loop, looprelease, sizedfiles
from katacsi.host.offloop import off_loop
from katacsi.model import MIB, Condition
from support.kit_disks import OnDisks
from support.kit_reference import Disks, threaded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from katacsi.backends.api import Attachment, CreateRequest, Node, VolumeId
    from support.kit_reference import Record

_SECTOR = 4096
_ROOM = 256 * MIB
NODES = ("node-1", "node-2")


class Appliance(Disks):
    """A pool whose records and images lie in the appliance's folder."""

    scope = Scope.NETWORK

    async def publish(self, volume_id: VolumeId, node: Node, *, read_only: bool) -> Mapping[str, str]:
        return await off_loop(self.do_publish, volume_id, node.id, read_only=read_only)

    unpublish = threaded("unpublish")

    def take_lock(self) -> None:
        """Have none: each node serves the pool, and the controller too."""

    def recover(self) -> None:
        """Leave alone what another node may be making: a record is the last thing that is written."""

    @contextlib.contextmanager
    def transaction(self, name: str) -> Iterator[None]:
        held = locks.lock_file(self.state / f"{name}.lock", 30)
        try:
            yield
        finally:
            locks.unlock(held)

    # -- its volumes

    def image(self, name: str) -> Path:
        return self.state / f"{name}.img"

    def free(self) -> dict[Path, int]:
        taken = sum(self.read(name)["size"] for name in self.names())
        return {self.state: max(0, _ROOM - taken)}

    def do_capacity(self, parameters: Mapping[str, str]) -> Capacity:
        self.check_parameters(parameters)
        (free,) = self.free().values()
        return Capacity(free, free)

    def choose(self, name: str, request: CreateRequest) -> Record:
        with self.choosing:
            size = max(-(-request.size.required // _SECTOR), 1) * _SECTOR
            if not request.size.admits(size):
                raise SizeOutOfRange(f"{name}: no multiple of {_SECTOR} is below {request.size.limit} bytes")
            (free,) = self.free().values()
            if size > free:
                raise OutOfSpace(f"{name}: {size} bytes were asked for, {free} are free; delete volumes")
            files.ensure_absent(self.image(name))
            sizedfiles.create_sized(self.image(name), size, thick=False)
            with self.image(name).open("rb") as image:
                os.fsync(image.fileno())
            record = self.new_record(request, "", size)
            self.write(name, {**record, "state": "ready", "access": None, "generation": 0})
            return self.read(name)

    def wipe(self, disk: Path) -> None:
        """Do nothing: a new file is blank."""

    def disk(self, record: Record) -> Path:
        return self.state

    def remove(self, name: str) -> None:
        files.ensure_absent(self.path(name))
        files.ensure_absent(self.image(name))
        directories.sync_directory(self.state)

    def do_delete(self, volume_id: VolumeId) -> None:
        self.changing()
        name = self.own(volume_id)
        record = self.find_record(name)
        if record is None:
            return
        if record["access"]:
            raise VolumeInUse(f"volume {volume_id}: is published to {record['access']['node']}")
        with self.transaction(name):
            self.remove(name)

    def do_compare_and_set_facts(self, volume_id: VolumeId, *facts: object) -> None:
        with self.transaction(self.own(volume_id)):
            super().do_compare_and_set_facts(volume_id, *facts)

    # -- who may reach them

    def do_publish(self, volume_id: VolumeId, node_id: str, *, read_only: bool) -> Mapping[str, str]:
        name = self.own(volume_id)
        if node_id not in NODES:
            raise NotFound(f"node {node_id}: the appliance does not know it; register it")
        with self.transaction(name):
            record = self.ready(name)
            access = record["access"]
            if access and access["node"] != node_id:
                raise VolumeInUse(f"volume {volume_id}: is published to {access['node']}; unpublish it there")
            if access and access["read_only"] != read_only:
                raise AlreadyExists(f"volume {volume_id}: is published to {node_id} with other access")
            if not access:
                generation = record["generation"] + 1
                access = {"node": node_id, "read_only": read_only}
                self.write(name, {**record, "access": access, "generation": generation})
                return {"generation": str(generation)}
            return {"generation": str(record["generation"])}

    def do_unpublish(self, volume_id: VolumeId, node_id: str) -> None:
        name = self.own(volume_id)
        with self.transaction(name):
            record = self.find_record(name)
            if record and record["access"] and node_id in {"", record["access"]["node"]}:
                self.fence(name)
                self.write(name, {**record, "access": None})

    def fence(self, name: str) -> None:
        moved = self.state / f"{name}.moved"
        shutil.copyfile(self.image(name), moved)
        moved.rename(self.image(name))

    # -- its devices

    def label(self, volume_id: VolumeId) -> str:
        return f"{volume_id.pool_uid} {volume_id.name} {self.context.node_id}"[:63]

    def loops(self, volume_id: VolumeId) -> list[looprelease.Found]:
        return [found for found in looprelease.every() if found.label == self.label(volume_id)]

    def do_attach(
        self, volume_id: VolumeId, publish_context: Mapping[str, str], secrets: Mapping[str, str]
    ) -> Device:
        del secrets
        self.changing()
        name = self.own(volume_id)
        with self.transaction(name):
            record = self.ready(name)
            self.check_access(volume_id, record, publish_context)
            self.write(name, record)  # as it is read, and now durable
            made = loop.attach(self.image(name), direct_io=False, label=self.label(volume_id))
        return Device(made.path, made.size_bytes, new=made.new)

    def check_access(self, volume_id: VolumeId, record: Record, context: Mapping[str, str]) -> None:
        mine = record["access"] and record["access"]["node"] == self.context.node_id
        if not mine or context.get("generation") != str(record["generation"]):
            raise Precondition(f"volume {volume_id}: is not published to {self.context.node_id} any more")

    def do_attached(self, volume_id: VolumeId) -> Device | None:
        self.find_record(self.own(volume_id))
        for found in self.loops(volume_id):
            return Device(found.path, block.size_bytes(found.path))
        return None

    def do_detach(self, volume_id: VolumeId) -> None:
        self.changing()
        self.own(volume_id)
        for found in self.loops(volume_id):
            looprelease.release(found)

    def do_release(self, volume_id: VolumeId, attachment: Attachment) -> None:
        del attachment
        for found in self.loops(volume_id):
            looprelease.release(found)

    def do_refresh(self, volume_id: VolumeId) -> int:
        return int(self.ready(self.own(volume_id))["size"])

    def do_condition(self, volume_id: VolumeId) -> Condition:
        record = self.ready(self.own(volume_id))
        with contextlib.suppress(OSError, HostError):
            if self.image(volume_id.name).stat().st_size == record["size"]:
                return Condition()
        return Condition(abnormal=True, message=f"{self.image(volume_id.name)} is not whole")


class OnAppliance(OnDisks):
    """Fixtures for the kit's suite."""

    backend: ClassVar[type[Disks]] = Appliance

    @pytest.fixture
    def disks(self, scratch):
        """A folder with `state`, which is the appliance's."""
        for folder in ("by-id", "state"):
            (scratch / folder).mkdir()
        return scratch

    @pytest.fixture
    def break_disk(self, disks):
        @contextlib.contextmanager
        def lost(volume):
            image = disks / "state" / f"{volume.id.name}.img"
            image.rename(disks / "lost.img")
            try:
                yield
            finally:
                (disks / "lost.img").rename(image)

        return lost

    @pytest.fixture
    def rename_devices(self):
        pytest.skip("no hook rename_devices")
