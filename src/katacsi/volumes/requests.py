"""What the workflows are asked and what they answer: frozen values, already free of wire format.

The door has checked that required fields are there; ids are still text, because what a malformed id means
differs from call to call.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from katacsi.model import Capability, Condition, SizeRange, Topology

if TYPE_CHECKING:
    from collections.abc import Mapping

    from katacsi.backends.api import Snapshot, Volume


class SourceKind(enum.Enum):
    """What a new volume may start from."""

    SNAPSHOT = "snapshot"
    VOLUME = "volume"


@dataclass(frozen=True, slots=True)
class SourceRef:
    """A content source as the caller names it."""

    kind: SourceKind
    id: str


@dataclass(frozen=True, slots=True)
class CreateVolume:
    """CSI CreateVolumeRequest; an empty `requisite` means "no topology was given".

    What is preferred of several topologies is not read: a volume is made here, or not at all.
    """

    name: str
    size: SizeRange
    capabilities: tuple[Capability, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)
    source: SourceRef | None = None
    requisite: tuple[Topology, ...] = ()


@dataclass(frozen=True, slots=True)
class ControllerPublish:
    """CSI ControllerPublishVolumeRequest."""

    volume_id: str
    node_id: str
    capability: Capability
    read_only: bool = False
    volume_context: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class ControllerExpand:
    """CSI ControllerExpandVolumeRequest; `capability` is None where the caller did not say."""

    volume_id: str
    size: SizeRange
    capability: Capability | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class ValidateCapabilities:
    """CSI ValidateVolumeCapabilitiesRequest."""

    volume_id: str
    capabilities: tuple[Capability, ...]
    volume_context: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Validation:
    """Whether all capabilities can be had; if not, the reason in words."""

    confirmed: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class GetCapacity:
    """CSI GetCapacityRequest."""

    capabilities: tuple[Capability, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    topology: Topology | None = None


@dataclass(frozen=True, slots=True)
class ListSnapshots:
    """CSI ListSnapshotsRequest."""

    token: str = ""
    max_entries: int = 0
    source_volume_id: str = ""
    snapshot_id: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """CSI NodeStageVolumeRequest."""

    volume_id: str
    staging_path: str
    capability: Capability
    volume_context: Mapping[str, str] = field(default_factory=dict)
    publish_context: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Publish:
    """CSI NodePublishVolumeRequest."""

    volume_id: str
    staging_path: str
    target_path: str
    capability: Capability
    read_only: bool = False
    volume_context: Mapping[str, str] = field(default_factory=dict)
    publish_context: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Expand:
    """CSI NodeExpandVolumeRequest; `capability` is None where the caller did not say."""

    volume_id: str
    volume_path: str
    size: SizeRange
    staging_path: str = ""
    capability: Capability | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class GetStats:
    """CSI NodeGetVolumeStatsRequest."""

    volume_id: str
    volume_path: str
    staging_path: str = ""


class Unit(enum.Enum):
    """What a usage counts."""

    BYTES = "bytes"
    INODES = "inodes"


@dataclass(frozen=True, slots=True)
class Usage:
    """One line of usage; None means "not known", which is not zero."""

    unit: Unit
    total: int
    available: int | None = None
    used: int | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """How full a volume is, and how well."""

    usage: tuple[Usage, ...]
    condition: Condition


@dataclass(frozen=True, slots=True)
class VolumeView:
    """A volume with what a caller outside sees of it."""

    volume: Volume
    context: Mapping[str, str]
    topology: tuple[Topology, ...]
    condition: Condition


@dataclass(frozen=True, slots=True)
class VolumePage:
    """Part of the list of volumes; the token is empty at its end."""

    volumes: tuple[VolumeView, ...]
    next_token: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """Part of the list of snapshots; the token is empty at its end."""

    snapshots: tuple[Snapshot, ...]
    next_token: str = ""


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """CSI NodeGetInfoResponse; `max_volumes` 0 means "the scheduler decides"."""

    node_id: str
    topology: Topology
    max_volumes: int = 0
