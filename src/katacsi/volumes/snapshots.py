"""Creating, finding, listing and deleting snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from katacsi import tracing
from katacsi.backends.api import Page, Snapshotting
from katacsi.errors import AlreadyExists, InvalidRequest, NotFound, PoolUnavailable, Precondition, Unsupported
from katacsi.model import MalformedId, SnapshotId, VolumeId, storage_name
from katacsi.volumes import listing, parameters
from katacsi.volumes.locks import snapshot_lock, volume_lock
from katacsi.volumes.pools import parse_id
from katacsi.volumes.requests import SnapshotPage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from katacsi.backends.api import Backend, Snapshot
    from katacsi.volumes.context import Context
    from katacsi.volumes.copies import Copies
    from katacsi.volumes.requests import ListSnapshots

log = structlog.get_logger(__name__)


class Snapshots:
    """The controller's side of snapshots."""

    def __init__(self, context: Context, copies: Copies) -> None:
        self._context = context
        self._copies = copies

    async def create(self, name: str, source_volume_id: str, raw_parameters: Mapping[str, str]) -> Snapshot:
        """Keep the volume's bytes as they are now, or give the snapshot that an earlier call made.

        Raises:
            NotFound: the volume is proven absent.
            AlreadyExists: the name is taken by a snapshot of another volume.
            VolumeInUse: the volume is written, and this pool cannot copy it as of one moment.
        """
        _check_parameters(raw_parameters)
        parsed = parse_id(VolumeId, source_volume_id)
        with self._context.locks.hold(snapshot_lock(storage_name(name)), volume_lock(parsed.name)):
            existing = await self._existing(name)
            if existing is not None and existing.source != parsed:
                raise AlreadyExists(f"snapshot {name!r}: exists, and is of volume {existing.source}")
            if existing is not None and existing.ready:
                return existing
            backend, _ = await self._context.pools.find(source_volume_id)
            if not isinstance(backend, Snapshotting):
                able = [pool.name for pool in self._context.pools if pool.features.snapshots]
                raise Unsupported(
                    f"pool {parsed.pool}: has no snapshots; pools that have: {', '.join(able) or 'none'}"
                )
            async with self._copies.still(backend, parsed) as stillness:
                with tracing.span("create snapshot"):
                    snapshot = await backend.create_snapshot(name, parsed)
            if stillness.broken:
                await backend.delete_snapshot(snapshot.id)
                raise stillness.error(f"snapshot {name!r}")
        log.debug("snapshot created", snapshot=str(snapshot.id), volume=source_volume_id)
        return snapshot

    async def delete(self, snapshot_id: str) -> None:
        """Free the snapshot; absent is success.

        Raises:
            Precondition: it lives in a pool that this node does not have.
        """
        try:
            parsed = SnapshotId.parse(snapshot_id)
        except MalformedId:
            return
        with self._context.locks.hold(snapshot_lock(parsed.name)):
            await (await self._holding(parsed)).delete_snapshot(parsed)
        log.debug("snapshot deleted", snapshot=snapshot_id)

    async def get(self, snapshot_id: str) -> Snapshot:
        """Give one snapshot.

        Raises:
            NotFound: it is proven absent, or not on this node.
        """
        parsed = parse_id(SnapshotId, snapshot_id)
        try:
            backend = await self._holding(parsed)
        except Precondition as elsewhere:
            raise NotFound(elsewhere.message) from elsewhere
        snapshot = await backend.get_snapshot(parsed)
        if snapshot is None:
            raise NotFound(f"snapshot {snapshot_id}: does not exist")
        return snapshot

    async def list(self, request: ListSnapshots) -> SnapshotPage:
        """Give part of the list of snapshots: all, of one volume, or the one with an id.

        A filter that names nothing gives an empty list.

        Raises:
            InvalidPageToken: not a token of a former page.
        """
        if request.snapshot_id:
            return await self._only(request)
        source: VolumeId | None = None
        if request.source_volume_id:
            try:
                source = VolumeId.parse(request.source_volume_id)
            except MalformedId:
                return SnapshotPage(())

        async def fetch(backend: Backend, cursor: str, limit: int) -> Page[Snapshot]:
            if source is not None and source.pool_uid != backend.pool_uid:
                return Page(())  # another storage cannot have snapshots of it, and may say so by raising
            if not isinstance(backend, Snapshotting):
                return Page(())
            return await backend.list_snapshots(cursor, limit, source)

        found, following = await listing.page(self._context.pools, request.token, request.max_entries, fetch)
        return SnapshotPage(tuple(found), following)

    async def _only(self, request: ListSnapshots) -> SnapshotPage:
        try:
            snapshot = await self.get(request.snapshot_id)
        except NotFound:
            return SnapshotPage(())
        if request.source_volume_id and str(snapshot.source) != request.source_volume_id:
            return SnapshotPage(())
        return SnapshotPage((snapshot,))

    async def _holding(self, snapshot_id: SnapshotId) -> Snapshotting:
        """Give the backend whose storage an id speaks of.

        Raises:
            Precondition: it is not on this node, or has no snapshots.
        """
        backend = await self._context.pools.holding(snapshot_id)
        if not isinstance(backend, Snapshotting):
            raise Unsupported(f"snapshot {snapshot_id}: pool {snapshot_id.pool} has no snapshots")
        return backend

    async def _existing(self, name: str) -> Snapshot | None:
        """Find a snapshot of this name in any pool: names are unique in a release."""
        for pool in self._context.pools:
            try:
                backend = await pool.open()
                found = await backend.find_snapshot(name) if isinstance(backend, Snapshotting) else None
            except PoolUnavailable:
                continue  # of the volume's own pool it is said when the volume is looked up
            if found is not None:
                return found
        return None


def _check_parameters(raw: Mapping[str, str]) -> None:
    for key in raw:
        if not key.startswith(parameters.INJECTED_PREFIXES):
            raise InvalidRequest(f"parameters[{key}]", "unknown parameter; snapshots have none")
