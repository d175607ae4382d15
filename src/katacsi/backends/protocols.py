"""What a backend has to do: the methods of the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pydantic

    from katacsi.backends.facts import Facts
    from katacsi.backends.values import (
        Capacity,
        CreateRequest,
        Device,
        Features,
        Page,
        PoolContext,
        Scope,
        Snapshot,
        Volume,
    )
    from katacsi.model import Condition, SnapshotId, VolumeId

#: The entry-point group in which backends are found.
ENTRY_POINT_GROUP = "katacsi.backends"


class Backend(Protocol):
    """One pool. See the module's rules; an author need not inherit from this class."""

    scope: Scope

    @property
    def features(self) -> Features:
        """What this pool can do, known after `start`."""

    async def start(self) -> None:
        """Open the pool; finish or undo what a crash left half done.

        Raises:
            PoolUnavailable: the storage is missing, not mounted, or not the one that was set up.
        """

    async def close(self) -> None:
        """Let go of the pool; attached devices stay attached."""

    @property
    def pool_uid(self) -> str:
        """Eight hex digits that identify this pool's storage; another storage has others."""

    async def create(self, request: CreateRequest) -> Volume:
        """Make a volume whose device is blank, or a copy of its source.

        Equal name and compatible request: the volume that exists.

        Raises:
            AlreadyExists: the name is taken by another size, other parameters or another source.
            OutOfSpace: no room.
            SizeOutOfRange: no size meets the request.
            InvalidRequest: an unknown or malformed parameter, by its full key.
        """

    async def delete(self, volume_id: VolumeId) -> None:
        """Free the volume and its bytes; absent is success.

        Raises:
            VolumeInUse: its device is attached and held.
        """

    async def get(self, volume_id: VolumeId) -> Volume | None:
        """Look a volume up; None means proven absent."""

    async def find(self, csi_name: str) -> Volume | None:
        """Look a volume up by the name it was created under; None means proven absent."""

    async def list(self, cursor: str, limit: int) -> Page[Volume]:
        """List volumes in a stable order, at most `limit` (0: no limit), from a cursor of a former page."""

    async def capacity(self, parameters: Mapping[str, str]) -> Capacity:
        """Say what the pool can still give to volumes with these parameters."""

    async def expand(self, volume_id: VolumeId, size_bytes: int) -> int:
        """Grow the volume to at least this many bytes and give its size; large enough already is success.

        A device that is attached shows the new size after `refresh`. Never shrinks.
        """

    async def attach(
        self, volume_id: VolumeId, publish_context: Mapping[str, str], secrets: Mapping[str, str]
    ) -> Device:
        """Give the volume a device on this node: the same one, however often asked."""

    async def attached(self, volume_id: VolumeId) -> Device | None:
        """Say which device the volume has on this node now, without making one."""

    async def detach(self, volume_id: VolumeId) -> None:
        """Take the device away, proven; absent is success.

        Raises:
            VolumeInUse: somebody still holds it.
        """

    async def refresh(self, volume_id: VolumeId) -> int:
        """Make an attached device show the volume's present size; give that size in bytes."""

    async def is_blank(self, volume_id: VolumeId) -> bool | None:
        """Prove or disprove that the whole device reads as zero; None where only a probe can tell.

        True replaces the probe before mkfs, so it must be a proof (a file without data extents, a thin
        volume without mapped blocks), never an assumption.
        """

    async def publish(self, volume_id: VolumeId, node_id: str, *, read_only: bool) -> Mapping[str, str]:
        """Let this node, and no other, reach the volume; give what `attach` needs there. NETWORK only."""

    async def unpublish(self, volume_id: VolumeId, node_id: str) -> None:
        """Fence this node (every node, if empty) off the volume. NETWORK only; absent is success."""

    async def create_snapshot(self, csi_name: str, source: VolumeId) -> Snapshot:
        """Keep the volume's bytes and facts as they are now.

        Raises:
            AlreadyExists: the name is taken by a snapshot of another volume.
            NotFound: the source is proven absent.
            OutOfSpace: no room.
        """

    async def delete_snapshot(self, snapshot_id: SnapshotId) -> None:
        """Free the snapshot; absent is success."""

    async def get_snapshot(self, snapshot_id: SnapshotId) -> Snapshot | None:
        """Look a snapshot up; None means proven absent."""

    async def find_snapshot(self, csi_name: str) -> Snapshot | None:
        """Look a snapshot up by the name it was created under; None means proven absent."""

    async def list_snapshots(self, cursor: str, limit: int, source: VolumeId | None = None) -> Page[Snapshot]:
        """List snapshots (of one volume) in a stable order; cursor and limit as in `list`."""

    async def compare_and_set_facts(self, volume_id: VolumeId, expected: Facts, new: Facts) -> None:
        """Replace the volume's facts durably, in one transaction.

        Raises:
            OperationPending: they are no longer what was expected.
        """

    async def condition(self, volume_id: VolumeId) -> Condition:
        """Examine the volume's health on this node (device, redundancy, room in a thin pool)."""


class BackendFactory(Protocol):
    """What an entry point in group `katacsi.backends` names: usually the backend's class.

    It may bring checks for `katacsi doctor`, too: `Examined`.
    """

    #: A pydantic model of the pool's settings, with `extra="forbid"`; its `backend` key is katacsi's.
    Settings: type[pydantic.BaseModel]
    #: The legal StorageClass parameters, without prefix: key to a line of description.
    parameters: Mapping[str, str]
    scope: Scope

    def __call__(self, settings: pydantic.BaseModel, context: PoolContext) -> Backend:
        """Make the pool; nothing is touched before `start`."""
