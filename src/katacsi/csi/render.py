"""From what the workflows answer to protobuf."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from katacsi._gen.csi import v1 as csi
from katacsi.csi import condition
from katacsi.model import SnapshotId
from katacsi.volumes.requests import Unit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from katacsi import model
    from katacsi.backends.api import Capacity, Snapshot
    from katacsi.volumes import requests

_UNITS: Final = {Unit.BYTES: csi.VolumeUsageUnit.BYTES, Unit.INODES: csi.VolumeUsageUnit.INODES}


def volume(view: requests.VolumeView) -> csi.Volume:
    """Give a volume."""
    return csi.Volume(
        capacity_bytes=view.volume.size_bytes,
        volume_id=str(view.volume.id),
        volume_context=dict(view.context),
        content_source=_source(view.volume.source),
        accessible_topology=[topology(place) for place in view.topology],
    )


def volume_entry(view: requests.VolumeView) -> csi.ListVolumesResponseEntry:
    """Give a volume as an entry of ListVolumes."""
    return csi.ListVolumesResponseEntry(volume=volume(view), status=condition.listed(view.condition))


def topology(place: model.Topology) -> csi.Topology:
    """Give a topology."""
    return csi.Topology(segments=dict(place.segments))


def confirmed(message: csi.ValidateVolumeCapabilitiesRequest) -> csi.ValidateVolumeCapabilitiesResponse:
    """Give the yes of ValidateVolumeCapabilities: what was asked, repeated."""
    return csi.ValidateVolumeCapabilitiesResponse(
        confirmed=csi.ValidateVolumeCapabilitiesResponseConfirmed(
            volume_context=message.volume_context,
            volume_capabilities=message.volume_capabilities,
            parameters=message.parameters,
        )
    )


def capacity(found: Capacity) -> csi.GetCapacityResponse:
    """Give a capacity; the largest volume is always said, also where it is nothing."""
    return csi.GetCapacityResponse(
        available_capacity=found.available_bytes,
        maximum_volume_size=found.maximum_volume_bytes,
        # Unset means "no minimum".
        minimum_volume_size=found.minimum_volume_bytes or None,
    )


def snapshot(found: Snapshot) -> csi.Snapshot:
    """Give a snapshot."""
    return csi.Snapshot(
        size_bytes=found.size_bytes,
        snapshot_id=str(found.id),
        source_volume_id=str(found.source),
        creation_time=datetime.fromtimestamp(found.created_at, UTC),
        ready_to_use=found.ready,
    )


def usage(lines: Iterable[requests.Usage]) -> list[csi.VolumeUsage]:
    """Give the lines of a usage; what is not known is left out, which on the wire is zero."""
    return [
        csi.VolumeUsage(
            unit=_UNITS[line.unit],
            total=line.total,
            available=line.available or 0,
            used=line.used or 0,
        )
        for line in lines
    ]


def health(volume_id: str, found: model.Condition) -> csi.VolumeHealth:
    """Give a condition in the form of CSI 1.13; a healthy volume has no entry."""
    if not found.abnormal:
        return csi.VolumeHealth(volume_id=volume_id)
    # A condition does not tell how bad it is, so this is the mildest that a caller acts upon.
    entry = csi.VolumeHealthVolumeHealthEntry(
        status=csi.VolumeHealthErrorType.DEGRADED, reason="Abnormal", message=found.message
    )
    return csi.VolumeHealth(volume_id=volume_id, health_statuses=[entry])


def node(info: requests.NodeInfo) -> csi.NodeGetInfoResponse:
    """Give what a node is."""
    return csi.NodeGetInfoResponse(
        node_id=info.node_id,
        max_volumes_per_node=info.max_volumes,
        accessible_topology=topology(info.topology) if info.topology.segments else None,
    )


def _source(source: model.ContentSource | None) -> csi.VolumeContentSource | None:
    if source is None:
        return None
    identifier = str(source.id)
    if isinstance(source.id, SnapshotId):
        return csi.VolumeContentSource(snapshot=csi.VolumeContentSourceSnapshotSource(snapshot_id=identifier))
    return csi.VolumeContentSource(volume=csi.VolumeContentSourceVolumeSource(volume_id=identifier))
