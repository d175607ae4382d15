"""What a backend has to do: the methods of the contract, and what it may do besides.

Every backend has `Storage` and `OnNode`. What it can do besides it says by having the methods of `Growing`,
`Overcommitting`, `Reserving`, `Copying`, `Snapshotting` or `Fencing`; what it cannot do it leaves out. None
of them need be inherited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from katacsi.backends.values import UNREMEMBERED, Features

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pydantic

    from katacsi.backends.facts import Facts
    from katacsi.backends.values import (
        Attachment,
        Capacity,
        CreateRequest,
        Device,
        Node,
        Page,
        PoolContext,
        Scope,
        Snapshot,
        Volume,
    )
    from katacsi.model import Condition, SnapshotId, VolumeId

#: The entry-point group in which backends are found.
ENTRY_POINT_GROUP = "katacsi.backends"


class Storage(Protocol):
    """One pool: its volumes, what is stored about them, and the room for more."""

    scope: Scope

    async def start(self) -> None:
        """Open the pool; finish or undo what a crash left half done.

        Raises:
            PoolUnavailable: the storage is missing, not mounted, or not the one that was set up.

        Any other method may find the same later, or that the storage takes no writes any more, and raises it.
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
            StillWorking: it takes longer than the call; the next call goes on. To give a volume that is not
                `ready` means the same.
        """

    async def delete(self, volume_id: VolumeId) -> None:
        """Free the volume and its bytes; absent is success.

        Raises:
            VolumeInUse: its device is attached and held, or a node has access to it.
        """

    async def get(self, volume_id: VolumeId) -> Volume | None:
        """Look a volume up; None means proven absent."""

    async def find(self, csi_name: str) -> Volume | None:
        """Look a volume up by the name it was created under; None means proven absent."""

    async def list(self, cursor: str, limit: int) -> Page[Volume]:
        """List volumes in a stable order, at most `limit` (0: no limit), from a cursor of a former page."""

    async def capacity(self, parameters: Mapping[str, str]) -> Capacity:
        """Say what the pool can still give to volumes with these parameters; 0 where it cannot be written."""

    async def compare_and_set_facts(self, volume_id: VolumeId, expected: Facts, new: Facts) -> None:
        """Replace the volume's facts durably, in one transaction.

        Storage in the network is written by several processes at the same time, and of those that expect the
        same facts one may win. Facts take less than 1 KiB as JSON.

        Raises:
            OperationPending: they are no longer what was expected.
        """


class OnNode(Protocol):
    """The devices of a pool's volumes on this node.

    All but `attach` are given the attachment that the node remembers of the volume: the device, and what
    `publish` had given. Storage in the network needs it, since it may be away, and the process may be another
    one by now. Local storage may leave it alone.
    """

    async def attach(
        self, volume_id: VolumeId, publish_context: Mapping[str, str], secrets: Mapping[str, str]
    ) -> Device:
        """Give the volume a device on this node: the same one, however often asked.

        Args:
            volume_id: the volume.
            publish_context: what `publish` gave for this node; empty for local storage.
            secrets: those of the call; never stored, never logged.

        Raises:
            NotFound: the volume is proven absent.
            Precondition: the storage does not let this node have it (any more).
        """

    async def attached(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> Device | None:
        """Say which device the volume has on this node now, without making one."""

    async def detach(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> None:
        """Take the device away, proven; absent is success.

        Raises:
            VolumeInUse: somebody still holds it.
        """

    async def release(self, volume_id: VolumeId, attachment: Attachment) -> None:
        """Take the device away, proven, without asking the storage; no device is success.

        For teardown when `detach` cannot answer: the storage is gone, unmounted or broken, and `start` may
        have failed or was never called. The id, what the node remembers and what the kernel knows have to do.
        A device that is not provably this volume's stays, whatever the node remembers.

        Raises:
            VolumeInUse: somebody still holds it.
            HostError: the kernel cannot be asked, or the device may be this volume's and nothing proves it.
        """

    async def refresh(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> int:
        """Make an attached device show the volume's present size; give that size in bytes."""

    async def is_blank(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> bool | None:
        """Prove or disprove that the whole device reads as zero; None where only a probe can tell.

        True replaces the probe before mkfs, so it must be a proof (a file without data extents, a thin
        volume without mapped blocks), never an assumption.
        """

    async def condition(self, volume_id: VolumeId, attachment: Attachment = UNREMEMBERED) -> Condition:
        """Examine the volume's health on this node (device, redundancy, room in a thin pool)."""


class Backend(Storage, OnNode, Protocol):
    """What every backend has."""


@runtime_checkable
class Counting(Protocol):
    """Devices whose openers the kernel counts, as those of loop devices and device-mapper.

    Attributes:
        counts_openers: the kernel itself refuses `detach`, and the detaching in `delete`, while anybody has
            the device open, a guest too. Without it katacsi looks among the processes of the node before it
            calls them, which takes longer.
    """

    @property
    def counts_openers(self) -> bool: ...  # noqa: D102 -- see Attributes


@runtime_checkable
class Growing(Protocol):
    """Volumes that can grow."""

    async def expand(self, volume_id: VolumeId, size_bytes: int) -> int:
        """Grow the volume to at least this many bytes and give its size; large enough already is success.

        A device that is attached shows the new size after `refresh`. Never shrinks.
        """


@runtime_checkable
class Overcommitting(Protocol):
    """Volumes that take their bytes from the pool as they are written, so that a write may find none left."""

    async def full(self, volume_id: VolumeId) -> str:
        """Say what is full, and the remedy, where a write to the volume's device finds no room; else nothing.

        Asked after a write failed, or a tool that writes: a device answers EIO then, whatever the reason was,
        and only its pool knows. The caller raises `OutOfSpace` with these words.
        """


@runtime_checkable
class Reserving(Protocol):
    """Volumes whose room is taken before they exist, while their bytes are being written."""

    async def reserved(self, csi_name: str) -> bool:
        """Say whether `capacity` counts the volume of this name, which `create` may still be making.

        A call of `create` that waits for its turn has taken no room yet; katacsi takes its size off what
        `capacity` says until this is true, or without this method until `find` knows the volume.
        """


@runtime_checkable
class Copying(Protocol):
    """Volumes that begin as copies: `create` takes a volume as its source.

    Attributes:
        atomic_copies: a copy of a volume that is being written is of one point in time.
        freezes: making a copy holds a mounted filesystem still by itself, as device-mapper does when it
            suspends a device; one that is frozen already would make it fail.

    Both may change until `start` is over, and are asked only after it.
    """

    @property
    def atomic_copies(self) -> bool: ...  # noqa: D102 -- see Attributes
    @property
    def freezes(self) -> bool: ...  # noqa: D102


@runtime_checkable
class Snapshotting(Copying, Protocol):
    """Snapshots, and volumes that begin as copies of them."""

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


@runtime_checkable
class Fencing(Protocol):
    """Volumes that any node can reach, one at a time: what `Scope.NETWORK` needs.

    The storage sees to it, not the backend's good manners: a node that is believed dead may live on. Several
    processes call these at the same time, so the storage has to compare and change in one step.
    """

    async def publish(self, volume_id: VolumeId, node: Node, *, read_only: bool) -> Mapping[str, str]:
        """Let this node, and no other, reach the volume; give what `attach` needs there.

        Published to it already: the same answer. Kubernetes stores the answer where many may read it, so it
        holds no secret.

        Raises:
            NotFound: the volume is proven absent, or the storage does not know the node.
            VolumeInUse: another node has access; the message names it.
            AlreadyExists: this node has access, with the other `read_only`.
            InvalidRequest: the node did not report what the storage needs to know of it.
            PoolUnavailable: the storage does not answer. Nobody is let in, as far as it can be told.
        """

    async def unpublish(self, volume_id: VolumeId, node_id: str) -> None:
        """Fence this node (every node, if empty) off the volume, at once; no access is success.

        From then on nothing that the node writes reaches the volume, also if a guest there lives on. A volume
        that is absent, and a node that nobody knows, have no access.

        Raises:
            PoolUnavailable: the storage does not answer, so nobody can say that the node is fenced off.
        """


@runtime_checkable
class Identifying(Protocol):
    """Nodes that the storage tells apart by more than their name."""

    async def node_facts(self) -> Mapping[str, str]:
        """Say what storage has to know of this node, such as its IQN, its NQN, its addresses.

        `publish` is given it on the controller. It travels in the CSI node id, which takes 192 bytes in all
        in Kubernetes and is read when the driver registers, so it has to stay true until the next start.
        """


def features_of(backend: Storage) -> Features:
    """Say what a pool can do besides what every pool does; final once it is started."""
    copies = backend if isinstance(backend, Copying) else None
    return Features(
        snapshots=isinstance(backend, Snapshotting),
        clones=copies is not None,
        expand=isinstance(backend, Growing),
        atomic_copies=copies is not None and copies.atomic_copies,
        freezes=copies is not None and copies.freezes,
    )


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
