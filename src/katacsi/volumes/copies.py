"""Making a volume from a snapshot or another volume, and holding a source still while it is copied."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from katacsi.backends.api import ContentSource, Copying, FormatState, Snapshotting, features_of
from katacsi.errors import (
    HostError,
    InvalidRequest,
    NotFound,
    OutOfSpace,
    SizeOutOfRange,
    Unsupported,
    VolumeInUse,
)
from katacsi.host import mount
from katacsi.host.offloop import off_loop
from katacsi.model import SnapshotId, VolumeId
from katacsi.volumes import unused
from katacsi.volumes.pools import parse_id
from katacsi.volumes.requests import SourceKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from katacsi.backends.api import Backend, CreateRequest, Snapshot, Volume
    from katacsi.model import SizeRange
    from katacsi.volumes.context import Context
    from katacsi.volumes.requests import SourceRef

log = structlog.get_logger(__name__)

#: A frozen filesystem stops its pod; a copy that takes longer is given up. Reflinks take milliseconds.
FREEZE_LIMIT_S = 20.0


class Copies:
    """What snapshots and clones have in common."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def source_of(self, ref: SourceRef, backend: Backend, pool_name: str) -> Volume | Snapshot:
        """Find what a new volume is to start from.

        Raises:
            NotFound: it is proven absent.
            OutOfSpace: it is on another node, where the copy has to be made.
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
            raise OutOfSpace(
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

    @asynccontextmanager
    async def still(self, backend: Backend, volume_id: VolumeId) -> AsyncIterator[Stillness]:
        """Hold a volume's bytes still: freeze its host mount, or make sure that nobody writes.

        A volume that a guest or a raw-device workload writes is copied as of one moment by a pool with
        atomic copies (the filesystem in it replays its journal, as after a power cut).

        Raises:
            VolumeInUse: it is published, and this pool's copies are not of one moment.
        """
        targets = self._context.marks.targets_of(str(volume_id))
        features = features_of(backend)
        if targets and not features.atomic_copies:
            raise VolumeInUse(
                f"volume {volume_id}: is published at {targets[0].path}, and a copy in this pool is not of "
                "one "
                "moment; stop the pod first, or keep the pool on XFS or btrfs (reflinks)"
            )
        stack = self._context.volumes.devices_of(backend, volume_id)
        if not features.atomic_copies and (devices := await stack.look()):
            places = [Path(staged.path) for staged in self._context.marks.stagings_of(str(volume_id))]
            await off_loop(unused.require_unpublished, self._context.writer, volume_id, devices, places)
        stillness = Stillness()
        stagings = [] if features.freezes else self._context.marks.stagings_of(str(volume_id))
        frozen = [Path(s.path) for s in stagings if await off_loop(mount.at, Path(s.path))]
        # Without a target nobody waits for the thaw, however long the copy takes.
        timer = (
            asyncio.get_running_loop().call_later(FREEZE_LIMIT_S, stillness.give_up, frozen)
            if frozen and targets
            else None
        )
        try:
            for path in frozen:
                await off_loop(mount.freeze, path)
            yield stillness
        finally:
            if timer is not None:
                timer.cancel()
            for path in frozen:
                await off_loop(mount.thaw, path)


class Stillness:
    """Whether a freeze held until the copy was done."""

    def __init__(self) -> None:
        self.broken = False

    def give_up(self, frozen: list[Path]) -> None:
        """Thaw now: the pod must not stand still for longer, even if the copy is lost."""
        self.broken = True
        for path in frozen:
            log.error("a freeze took too long; thawing", path=str(path), limit_s=FREEZE_LIMIT_S)
            mount.thaw(path)

    @staticmethod
    def error(what: str) -> HostError:
        """The error of a copy whose source moved meanwhile."""
        return HostError(
            f"{what}: copying took more than {FREEZE_LIMIT_S:g} s with the filesystem frozen; the copy was "
            "removed"
        )


def content_source(source: Volume | Snapshot) -> ContentSource:
    """Name a source the way a backend wants it."""
    return ContentSource(source.id)
