"""Snapshots, and what else a new volume can start from."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from katacsi.backends.loopfile.records import SnapshotRecord
from katacsi.backends.loopfile.settings import Allocation
from katacsi.backends.tools import refusals
from katacsi.backends.tools.existing import check_snapshot
from katacsi.backends.tools.listing import page
from katacsi.errors import CorruptRecord, NotFound
from katacsi.model import ContentSource, SnapshotId, storage_name

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.backends.api import Facts, Page, Snapshot
    from katacsi.backends.loopfile.copies import Copier
    from katacsi.backends.loopfile.objects import LoopfileObjects
    from katacsi.backends.loopfile.pool import LoopfilePool
    from katacsi.backends.loopfile.records import VolumeRecord
    from katacsi.model import VolumeId


@dataclass(frozen=True, slots=True)
class Template:
    """The disk that a copy starts from."""

    disk: Path
    size_bytes: int
    facts: Facts


class LoopfileSnapshots:
    """The snapshots of one pool."""

    def __init__(
        self,
        pool: LoopfilePool,
        snapshots: LoopfileObjects[SnapshotRecord],
        volumes: LoopfileObjects[VolumeRecord],
        copier: Copier,
    ) -> None:
        self._pool = pool
        self._snapshots = snapshots
        self._volumes = volumes
        self._copier = copier

    def create(self, csi_name: str, source: VolumeId) -> Snapshot:
        """Cut a snapshot, or find the one that was cut."""
        name = storage_name(csi_name)
        if (existing := self.look(name)) is not None:
            check_snapshot(existing, source)
            self._snapshots.ensure_durable(name)
            return existing
        template = self.template(ContentSource(source))
        record = SnapshotRecord(
            name=name,
            csi_name=csi_name,
            size_bytes=template.size_bytes,
            facts=template.facts,
            created_at=time.time(),
            source=str(source),
        )
        # A snapshot is never thick: it is never written, so what it shares it keeps sharing.
        self._snapshots.make(record, Allocation.SPARSE, lambda image: self._copier.cut(template.disk, image))
        return record.snapshot(self._id(name))

    def look(self, name: str) -> Snapshot | None:
        """Give a snapshot; None means proven absent."""
        record = self._snapshots.read(name)
        return None if record is None else record.snapshot(self._id(name))

    def find(self, csi_name: str) -> Snapshot | None:
        """Give the snapshot of this name; None means proven absent."""
        return self.look(storage_name(csi_name))

    def list(self, cursor: str, limit: int, source: VolumeId | None) -> Page[Snapshot]:
        """Give a page of snapshots; one whose record is damaged is left out, for its source is unknown."""

        def look(name: str) -> Snapshot | None:
            with contextlib.suppress(CorruptRecord):
                snapshot = self.look(name)
                if snapshot is not None and (source is None or snapshot.source.name == source.name):
                    return snapshot
            return None

        return page(self._snapshots.folder.names(), cursor, limit, look)

    def template(self, source: ContentSource) -> Template:
        """Find what a copy starts from.

        Raises:
            OutOfSpace: it lies in other storage; the node that has it can make the copy.
            NotFound: there is none.
        """
        origin = source.id
        refusals.check_source(origin, self._pool.name, self._pool.uid)
        objects: LoopfileObjects[SnapshotRecord] | LoopfileObjects[VolumeRecord] = (
            self._snapshots if isinstance(origin, SnapshotId) else self._volumes
        )
        record = objects.read(origin.name)
        if record is None:
            raise NotFound(f"{origin.KIND} {origin}: there is none in {objects.folder.directory}")
        disk = objects.folder.disk(origin.name)
        return Template(disk, disk.stat().st_size, record.facts)

    def _id(self, name: str) -> SnapshotId:
        return SnapshotId(self._pool.name, self._pool.uid, name)
