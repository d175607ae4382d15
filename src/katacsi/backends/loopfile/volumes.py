"""Volumes on disk: compound steps, each run in one thread hop from its first look to its last fsync."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from katacsi.backends.api import Facts
from katacsi.backends.loopfile.records import VolumeRecord
from katacsi.backends.loopfile.settings import SECTOR_SIZE, Allocation
from katacsi.backends.tools import refusals, sizes
from katacsi.backends.tools.existing import check_volume
from katacsi.backends.tools.listing import page
from katacsi.errors import CorruptRecord, NotFound
from katacsi.host import sizedfiles
from katacsi.model import Condition, VolumeId, storage_name

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.backends.api import CreateRequest, Page, SizeRange, Volume
    from katacsi.backends.loopfile.copies import Copier
    from katacsi.backends.loopfile.objects import LoopfileObjects
    from katacsi.backends.loopfile.pool import LoopfilePool
    from katacsi.backends.loopfile.settings import LoopfileSettings
    from katacsi.backends.loopfile.snapshots import LoopfileSnapshots


class LoopfileVolumes:
    """The volumes of one pool."""

    def __init__(
        self,
        settings: LoopfileSettings,
        pool: LoopfilePool,
        volumes: LoopfileObjects[VolumeRecord],
        snapshots: LoopfileSnapshots,
        copier: Copier,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._volumes = volumes
        self._copier = copier
        self._snapshots = snapshots

    def create(self, request: CreateRequest) -> Volume:
        """Make a volume, or find the one that was made."""
        allocation = self._settings.allocation_for(request.parameters)
        name = storage_name(request.csi_name)
        if (existing := self.look(name)) is not None:
            check_volume(existing, request)
            self._volumes.ensure_durable(name)
            return existing
        template = self._snapshots.template(request.source) if request.source else None
        size_bytes = self._fitting(request.size, template.size_bytes if template else 0)

        def fill(image: Path) -> None:
            if template is None:
                sizedfiles.create_sized(image, size_bytes, thick=allocation is Allocation.THICK)
            else:
                self._copier.fill(template.disk, image, size_bytes, allocation)

        record = VolumeRecord(
            name=name,
            csi_name=request.csi_name,
            size_bytes=size_bytes,
            facts=template.facts.of_copy() if template else Facts(),
            created_at=time.time(),
            allocation=allocation,
            source=str(request.source.id) if request.source else "",
            parameters=dict(request.parameters),
            attributes=dict(request.attributes),
        )
        self._volumes.make(record, allocation, fill)
        return record.volume(self._id(name), size_bytes, Condition())

    def require(self, name: str) -> VolumeRecord:
        """Read the record of a volume that has to exist.

        Raises:
            NotFound: it is proven absent.
        """
        record = self._volumes.read(name)
        if record is None:
            raise NotFound(f"volume {self._id(name)}: there is none in {self._volumes.folder.directory}")
        return record

    def require_durable(self, name: str) -> VolumeRecord:
        """Do as `require`, for somebody who will rely on it: mkfs and guests come after an attachment."""
        record = self.require(name)
        self._volumes.ensure_durable(name)
        return record

    def look(self, name: str) -> Volume | None:
        """Give a volume as it is now; None means proven absent."""
        record = self._volumes.read(name)
        return None if record is None else self.shown(record)

    def shown(self, record: VolumeRecord) -> Volume:
        """Give what a record says, with what its disk shows now."""
        return record.volume(self._id(record.name), *self.measure(record))

    def find(self, csi_name: str) -> Volume | None:
        """Give the volume of this name; None means proven absent."""
        return self.look(storage_name(csi_name))

    def list(self, cursor: str, limit: int) -> Page[Volume]:
        """Give a page of volumes; one whose record is damaged is shown as abnormal."""
        return page(self._volumes.folder.names(), cursor, limit, self._look_tolerantly)

    def expand(self, name: str, size_bytes: int) -> int:
        """Grow a volume's file, then its record: the file is the truth, so a retry only has to follow it."""
        record = self.require(name)
        present = self._volumes.grow(name, sizes.in_units(size_bytes, SECTOR_SIZE), record.allocation)
        if record.size_bytes < present:
            self._volumes.write(record.model_copy(update={"size_bytes": present}))
        return present

    def compare_and_set_facts(self, name: str, expected: Facts, new: Facts) -> None:
        """Replace a volume's facts, if they are what the caller saw."""
        record = self.require(name)
        refusals.check_expected(self._id(name), record.facts, expected)
        if new != expected:
            changed = record.model_copy(update={"facts": new, "changes": record.changes + 1})
            self._volumes.overwrite(name, changed.change)

    def measure(self, record: VolumeRecord) -> tuple[int, Condition]:
        """Give a disk's size and health: the file is the truth, unless it lost something."""
        disk = self._volumes.folder.disk(record.name)
        try:
            present = disk.stat().st_size
        except OSError as error:
            fact = f"{disk}: cannot be looked at ({error.strerror}); restore it from a backup"
            return record.size_bytes, Condition(abnormal=True, message=fact)
        if present < record.size_bytes:
            fact = f"{disk}: has {present} bytes and should have {record.size_bytes}; its end was lost"
            return record.size_bytes, Condition(abnormal=True, message=fact)
        return present, Condition()

    def _look_tolerantly(self, name: str) -> Volume | None:
        try:
            return self.look(name)
        except CorruptRecord as error:
            try:
                size_bytes = self._volumes.folder.disk(name).stat().st_size
            except OSError:
                return None  # neither record nor disk: not katacsi's folder
            damaged = VolumeRecord(
                name=name, csi_name=name, size_bytes=size_bytes, created_at=0, allocation=Allocation.SPARSE
            )
            condition = Condition(abnormal=True, message=error.message)
            return damaged.volume(self._id(name), size_bytes, condition)

    def _fitting(self, wish: SizeRange, source: int) -> int:
        minimum = sizes.in_units(self._settings.minimum_volume_size, SECTOR_SIZE)
        steps = f"whole sectors of {SECTOR_SIZE} bytes, at least {minimum}"
        return sizes.fitting(wish, source, minimum, SECTOR_SIZE, steps)

    def _id(self, name: str) -> VolumeId:
        return VolumeId(self._pool.name, self._pool.uid, name)
