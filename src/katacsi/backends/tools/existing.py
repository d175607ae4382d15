"""Whether what exists under a name is what is asked for: a repeated request finds it, another is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.errors import AlreadyExists
from katacsi.model import ContentSource, SnapshotId, VolumeId

if TYPE_CHECKING:
    from katacsi.backends.api import CreateRequest, Snapshot, Volume


def stored_source(text: str) -> ContentSource | None:
    """Read the stored id of what a volume began as a copy of; empty: of nothing.

    Raises:
        MalformedId: it is no id.
    """
    if not text:
        return None
    kind = SnapshotId if text.startswith(f"{SnapshotId.PREFIX}:") else VolumeId
    return ContentSource(kind.parse(text))


def origin(source: ContentSource | None) -> tuple[bool, str, str] | None:
    """Give what tells sources apart, without the pool's name, which an operator may change."""
    if source is None:
        return None
    return isinstance(source.id, SnapshotId), source.id.pool_uid, source.id.name


def check_volume(existing: Volume, request: CreateRequest) -> None:
    """Refuse to take the volume that has the name for another one.

    Raises:
        AlreadyExists: it is of another size, with other parameters or from another source.
    """
    differences = []
    if not request.size.admits(existing.size_bytes):
        differences.append(f"{existing.size_bytes} bytes")
    if dict(existing.parameters) != dict(request.parameters):
        differences.append(f"parameters {dict(existing.parameters)}")
    if origin(existing.source) != origin(request.source):
        differences.append(f"source {existing.source.id if existing.source else 'none'}")
    if differences:
        raise AlreadyExists(
            f"volume {existing.id}: exists with {', '.join(differences)}, unlike what is asked for; delete "
            "it, or choose another name"
        )


def check_snapshot(existing: Snapshot, source: VolumeId) -> None:
    """Refuse to take the snapshot that has the name for one of another volume.

    Raises:
        AlreadyExists: it is of another volume.
    """
    if (existing.source.pool_uid, existing.source.name) != (source.pool_uid, source.name):
        raise AlreadyExists(f"snapshot {existing.id}: exists, of {existing.source}, not of {source}")
