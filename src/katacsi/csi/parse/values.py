"""Values that several calls share: capabilities, size ranges, content sources, topologies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi._gen.csi import v1 as csi
from katacsi.csi.parse import fields
from katacsi.errors import InvalidRequest
from katacsi.model import AccessMode, AccessType, Capability, SizeRange, Topology
from katacsi.volumes.requests import SourceKind, SourceRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MODES: Final[Mapping[int, AccessMode]] = {
    csi.VolumeCapabilityAccessModeMode[mode.value].value: mode for mode in AccessMode
}


def capability(field: str, value: object) -> Capability:
    """Read a volume capability that has to be there."""
    message = fields.part(field, value, csi.VolumeCapability)
    # Both members of the oneof arrive when a peer sends both; neither when it forgets.
    if (message.block is None) == (message.mount is None):
        raise InvalidRequest(field, "needs exactly one of block and mount")
    mode = _access_mode(f"{field}.access_mode", message.access_mode)
    if message.mount is None:
        fields.part(f"{field}.block", message.block, csi.VolumeCapabilityBlockVolume)
        return Capability(AccessType.BLOCK, mode)
    mount = fields.part(f"{field}.mount", message.mount, csi.VolumeCapabilityMountVolume)
    return Capability(
        AccessType.MOUNT,
        mode,
        fs_type=fields.text(f"{field}.mount.fs_type", mount.fs_type),
        mount_flags=fields.texts(f"{field}.mount.mount_flags", mount.mount_flags),
        mount_group=fields.text(f"{field}.mount.volume_mount_group", mount.volume_mount_group),
    )


def optional_capability(field: str, value: object) -> Capability | None:
    """Read a volume capability that may be unset."""
    return None if value is None else capability(field, value)


def capabilities(field: str, values: Sequence[object]) -> tuple[Capability, ...]:
    """Read a list of volume capabilities that must not be empty."""
    if not values:
        raise InvalidRequest(field, "needs at least one capability")
    return optional_capabilities(field, values)


def optional_capabilities(field: str, values: Sequence[object]) -> tuple[Capability, ...]:
    """Read a list of volume capabilities."""
    return tuple(capability(f"{field}[{index}]", value) for index, value in enumerate(values))


def size_range(field: str, value: object) -> SizeRange:
    """Read the sizes a caller accepts; unset means any."""
    message = fields.optional_part(field, value, csi.CapacityRange)
    if message is None:
        return SizeRange()
    required = fields.number(f"{field}.required_bytes", message.required_bytes)
    limit = fields.number(f"{field}.limit_bytes", message.limit_bytes)
    if 0 < limit < required:
        raise InvalidRequest(field, f"limit_bytes {limit} is below required_bytes {required}")
    return SizeRange(required, limit)


def source(field: str, value: object) -> SourceRef | None:
    """Read what a new volume starts from; unset means: from nothing."""
    message = fields.optional_part(field, value, csi.VolumeContentSource)
    if message is None:
        return None
    if (message.snapshot is None) == (message.volume is None):
        raise InvalidRequest(field, "needs exactly one of snapshot and volume")
    if message.volume is None:
        snapshot = fields.part(f"{field}.snapshot", message.snapshot, csi.VolumeContentSourceSnapshotSource)
        return SourceRef(
            SourceKind.SNAPSHOT, fields.required(f"{field}.snapshot.snapshot_id", snapshot.snapshot_id)
        )
    volume = fields.part(f"{field}.volume", message.volume, csi.VolumeContentSourceVolumeSource)
    return SourceRef(SourceKind.VOLUME, fields.required(f"{field}.volume.volume_id", volume.volume_id))


def topology(field: str, value: object) -> Topology | None:
    """Read a topology; unset means anywhere."""
    message = fields.optional_part(field, value, csi.Topology)
    return None if message is None else Topology(fields.mapping(f"{field}.segments", message.segments))


def topologies(field: str, values: Sequence[object]) -> tuple[Topology, ...]:
    """Read a list of topologies."""
    return tuple(
        Topology(fields.mapping(f"{field}.segments", message.segments))
        for message in fields.parts(field, values, csi.Topology)
    )


def _access_mode(field: str, value: object) -> AccessMode:
    message = fields.part(field, value, csi.VolumeCapabilityAccessMode)
    number = fields.number(f"{field}.mode", message.mode)
    if number == 0:
        raise InvalidRequest(f"{field}.mode", "is required and was not set")
    if (mode := _MODES.get(number)) is None:
        raise InvalidRequest(f"{field}.mode", f"{number} is not an access mode that this driver knows")
    return mode
