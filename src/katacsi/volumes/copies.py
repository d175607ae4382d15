"""Making a volume from a snapshot or another volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from katacsi import tracing
from katacsi.backends.api import ContentSource, Copying, FormatState, Snapshotting
from katacsi.errors import (
    InvalidRequest,
    NotFound,
    SizeOutOfRange,
    Unsupported,
    WrongNode,
)
from katacsi.model import SnapshotId, VolumeId
from katacsi.volumes.pools import parse_id
from katacsi.volumes.requests import SourceKind
from katacsi.volumes.stillness import still

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from katacsi.backends.api import Backend, CreateRequest, Snapshot, Volume
    from katacsi.model import SizeRange
    from katacsi.volumes.context import Context
    from katacsi.volumes.requests import SourceRef
    from katacsi.volumes.stillness import Stillness

log = structlog.get_logger(__name__)


class Copies:
    """What snapshots and clones have in common."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def source_of(self, ref: SourceRef, backend: Backend, pool_name: str) -> Volume | Snapshot:
        """Find what a new volume is to start from.

        Raises:
            NotFound: it is proven absent.
            WrongNode: it is on another node, where the copy has to be made.
            InvalidRequest: it is in another pool.
            Unsupported: the pool cannot copy.
        """
        parsed: SnapshotId | VolumeId
        if ref.kind is SourceKind.SNAPSHOT:
            parsed = parse_id(SnapshotId, ref.id)
        else:
            parsed = parse_id(VolumeId, ref.id)
        if parsed.pool != pool_name:
            raise InvalidRequest(
                "volume_content_source",
                f"{parsed.KIND} {ref.id} is in pool {parsed.pool}; make its copy there, not in {pool_name}",
            )
        if parsed.pool_uid != backend.pool_uid:
            raise WrongNode(
                f"{parsed.KIND} {ref.id}: is not on node {self._context.node_id}; copy it where it is"
            )
        found: Volume | Snapshot | None
        if isinstance(parsed, SnapshotId) and isinstance(backend, Snapshotting):
            found = await backend.get_snapshot(parsed)
        elif isinstance(parsed, VolumeId) and isinstance(backend, Copying):
            found = await backend.get(parsed)
        else:
            raise Unsupported(f"pool {pool_name}: its backend cannot make volumes from a {parsed.KIND}")
        if found is None:
            raise NotFound(f"{parsed.KIND} {ref.id}: does not exist")
        return found

    def check_copy(self, source: Volume | Snapshot, wished: SizeRange, fs_type: str) -> None:
        """Refuse a copy that could not be what the caller wants.

        Raises:
            SizeOutOfRange: smaller than its source.
            InvalidRequest: another filesystem than its source's.
            Unsupported: a larger copy of an xfs that only a host mount could grow, where that is refused.
        """
        what = f"{source.id.KIND} {source.id}"
        if (wished.required and wished.required < source.size_bytes) or (
            wished.limit and wished.limit < source.size_bytes
        ):
            raise SizeOutOfRange(
                f"{what}: has {source.size_bytes} bytes, and a copy cannot be smaller; ask for at least as "
                "much"
            )
        facts = source.facts
        if fs_type and facts.raw_written:
            raise InvalidRequest(
                "volume_capabilities",
                f"{what} was a raw block device, and a copy of it has the same bytes; ask for volumeMode "
                "Block, and copy the data from there",
            )
        if not fs_type and facts.format is not FormatState.UNFORMATTED:
            raise InvalidRequest(
                "volume_capabilities",
                f"{what} holds {facts.fs_type}, and a copy of it does, too; ask for volumeMode Filesystem",
            )
        if fs_type and facts.format is not FormatState.UNFORMATTED and facts.fs_type != fs_type:
            raise InvalidRequest(
                "volume_capabilities", f"{what} holds {facts.fs_type}, and {fs_type} was asked for"
            )
        grows = wished.required > source.size_bytes
        if (
            grows
            and facts.fs_type == "xfs"
            and facts.guest_written
            and self._context.settings.guest_filesystems == "refuse"
        ):
            raise Unsupported(
                f"{what}: a Kata guest wrote its xfs, which only a host mount can grow, and "
                "`guest_filesystems: "
                "refuse` rules that out; ask for the size of the source, or set `guest_filesystems: allow`"
            )

    @tracing.phase("copy")
    async def copy(self, backend: Backend, request: CreateRequest, source: Volume | Snapshot) -> Volume:
        """Create the volume from its source; a volume as source is held still meanwhile."""
        if isinstance(source.id, SnapshotId):
            return await backend.create(request)
        async with self.still(backend, source.id) as stillness:
            volume = await backend.create(request)
        if stillness.broken:
            await backend.delete(volume.id)
            raise stillness.error(f"volume {request.csi_name!r}")
        return volume

    def still(self, backend: Backend, volume_id: VolumeId) -> AbstractAsyncContextManager[Stillness]:
        """Hold a volume's bytes still while its backend copies them; see `stillness.still`."""
        return still(self._context, backend, volume_id)


def content_source(source: Volume | Snapshot) -> ContentSource:
    """Name a source the way a backend wants it."""
    return ContentSource(source.id)
