"""What a backend and its callers tell each other, in frozen dataclasses."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from katacsi.backends.facts import Facts
from katacsi.backends.stopping import StopSignal
from katacsi.model import Condition, ContentSource, SizeRange, SnapshotId, VolumeId

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

T = TypeVar("T")


class Scope(enum.Enum):
    """Where a pool's volumes can be used."""

    LOCAL = "local"  #: on the node that made them
    NETWORK = "network"  #: on any node, one at a time, after `publish`


class Role(enum.Enum):
    """Which CSI services a process serves besides Identity."""

    ALL = "all"
    CONTROLLER = "controller"  #: it makes and fences volumes, and attaches none
    NODE = "node"  #: it attaches volumes, and makes none


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster, as storage in the network has to know it.

    Attributes:
        id: its name, the one in `PoolContext.node_id` there.
        facts: what its pools there said of it; see `Identifying`.
    """

    id: str
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Features:
    """What a pool can do beyond creating, attaching and deleting volumes; see `features_of`."""

    snapshots: bool = False
    clones: bool = False  #: a volume as the source of another
    expand: bool = False
    #: A snapshot or clone of a volume that is being written is one point in time.
    atomic_copies: bool = False
    #: Making a copy holds a mounted filesystem still by itself, as device-mapper does when it suspends a
    #: device; one that is frozen already would make it fail.
    freezes: bool = False


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as the backend knows it.

    Attributes:
        id: what callers name it by.
        csi_name: the name it was created under.
        size_bytes: the size of its device.
        facts: see `Facts`.
        source: the snapshot or volume it started from.
        parameters: the backend's own parameters it was created with, as given.
        attributes: katacsi's own StorageClass choices, stored for later calls (such as the mode asked for).
        condition: its health, as far as known without probing.
        created_at: seconds since the epoch.
        ready: it can be attached; false while it is still being made. Then its caller is told to come again,
            and `create` goes on with it, or says how far it is.
    """

    id: VolumeId
    csi_name: str
    size_bytes: int
    facts: Facts = field(default_factory=Facts)
    source: ContentSource | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    condition: Condition = field(default_factory=Condition)
    created_at: float = 0.0
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot as the backend knows it.

    `created_at` (seconds since the epoch) is the stored moment of the cut; `ready` is false while its bytes
    are still being copied.
    """

    id: SnapshotId
    csi_name: str
    source: VolumeId
    size_bytes: int
    created_at: float
    ready: bool = True
    facts: Facts = field(default_factory=Facts)


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A volume to create.

    Attributes:
        csi_name: the caller's name; equal names mean the same volume.
        size: what the caller accepts; a backend rounds up to its own granularity, within the limit.
        parameters: the backend's own StorageClass parameters, without their prefix.
        attributes: katacsi's choices, to be stored and given back unchanged.
        source: start as a copy of this; the copy inherits the source's facts.
    """

    csi_name: str
    size: SizeRange
    parameters: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    source: ContentSource | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A block device attached to this node.

    Attributes:
        path: its node, in the host's mount namespace.
        size_bytes: its size.
        new: this very call made it, so nobody can have it yet. Where a backend cannot tell, who holds the
            device is looked for.
        blank: a new one that is proven to read as zero, as `is_blank` proves it; spares that question.
        volume: the volume as it was when the device was given, of `attach` alone; spares a `get`.
    """

    path: Path
    size_bytes: int
    new: bool = field(default=False, compare=False)
    blank: bool = field(default=False, compare=False)
    volume: Volume | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Attachment:
    """What a node remembers of a volume that it attached, from stage to unstage, never beyond a reboot.

    Attributes:
        device: the path of the device that `attach` gave; None: nobody remembers.
        publish_context: what `attach` was given, which holds no secret.
    """

    device: Path | None = None
    publish_context: Mapping[str, str] = field(default_factory=dict)


#: What a process remembers that never attached the volume, or not since the node was started.
UNREMEMBERED: Final = Attachment()


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a pool can still give: bytes in all, and the largest single volume."""

    available_bytes: int
    maximum_volume_bytes: int
    minimum_volume_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list; `next_cursor` is empty at its end."""

    items: tuple[T, ...]
    next_cursor: str = ""


@dataclass(frozen=True, slots=True)
class PoolContext:
    """What a pool is told about the place it runs in.

    Attributes:
        pool: its name in the configuration.
        driver_name: the CSI driver name.
        node_id: the node's name.
        read_only: it is a view: list and get work, nothing is created, repaired, locked or attached.
        role: what the process serves. A controller is not asked to attach, a node not to create.
        state_directory: a folder for what this pool has to remember of this node beyond a reboot. A node of
            storage in the network has one, with mode 0700, before `start`; others have none. What belongs to
            a volume belongs into its facts: the folder is gone when the node is made anew.
        stopping: set when the process is to end.
    """

    pool: str
    driver_name: str
    node_id: str
    read_only: bool = False
    role: Role = Role.ALL
    state_directory: Path | None = None
    stopping: StopSignal = field(default_factory=StopSignal, compare=False)
