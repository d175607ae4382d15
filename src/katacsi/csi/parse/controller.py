"""The requests of the Controller service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi._gen.csi import v1 as csi
from katacsi.csi.parse import fields, values
from katacsi.errors import InvalidRequest
from katacsi.volumes.requests import (
    ControllerExpand,
    ControllerPublish,
    CreateVolume,
    GetCapacity,
    ListSnapshots,
    ValidateCapabilities,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Entries of one page, however many are asked for: encoding one volume takes some 60 µs, and while a page is
#: encoded nobody else is answered. CSI lets a plugin give fewer entries and a token.
MAX_PAGE: Final = 500


def create_volume(message: csi.CreateVolumeRequest) -> CreateVolume:
    """Read CreateVolumeRequest."""
    name = fields.name("name", message.name)
    capabilities = values.capabilities("volume_capabilities", message.volume_capabilities)
    _no_mutable_parameters(message.mutable_parameters)
    requirement = fields.optional_part(
        "accessibility_requirements", message.accessibility_requirements, csi.TopologyRequirement
    )
    if requirement is None:
        requirement = csi.TopologyRequirement()
    return CreateVolume(
        name,
        values.size_range("capacity_range", message.capacity_range),
        capabilities,
        fields.stored_mapping("parameters", message.parameters),
        values.source("volume_content_source", message.volume_content_source),
        values.topologies("accessibility_requirements.requisite", requirement.requisite),
    )


def volume_id(
    message: csi.DeleteVolumeRequest | csi.ControllerGetVolumeRequest | csi.ControllerGetVolumeHealthRequest,
) -> str:
    """Read a request that says no more than which volume."""
    return fields.required("volume_id", message.volume_id)


def validate(message: csi.ValidateVolumeCapabilitiesRequest) -> ValidateCapabilities:
    """Read ValidateVolumeCapabilitiesRequest."""
    identifier = fields.required("volume_id", message.volume_id)
    capabilities = values.capabilities("volume_capabilities", message.volume_capabilities)
    _no_mutable_parameters(message.mutable_parameters)
    return ValidateCapabilities(
        identifier,
        capabilities,
        fields.mapping("volume_context", message.volume_context),
        fields.mapping("parameters", message.parameters),
    )


def page(message: csi.ListVolumesRequest | csi.ControllerListVolumeHealthRequest) -> tuple[str, int]:
    """Read which page of a list is wanted: its token, and the most entries it may have."""
    return fields.text("starting_token", message.starting_token), _entries(message.max_entries)


def get_capacity(message: csi.GetCapacityRequest) -> GetCapacity:
    """Read GetCapacityRequest."""
    return GetCapacity(
        values.optional_capabilities("volume_capabilities", message.volume_capabilities),
        fields.mapping("parameters", message.parameters),
        values.topology("accessible_topology", message.accessible_topology),
    )


def create_snapshot(message: csi.CreateSnapshotRequest) -> tuple[str, str, Mapping[str, str]]:
    """Read CreateSnapshotRequest: the snapshot's name, its source's id, the parameters."""
    source = fields.required("source_volume_id", message.source_volume_id)
    name = fields.name("name", message.name)
    return name, source, fields.stored_mapping("parameters", message.parameters)


def snapshot_id(message: csi.DeleteSnapshotRequest | csi.GetSnapshotRequest) -> str:
    """Read a request that says no more than which snapshot."""
    return fields.required("snapshot_id", message.snapshot_id)


def list_snapshots(message: csi.ListSnapshotsRequest) -> ListSnapshots:
    """Read ListSnapshotsRequest."""
    return ListSnapshots(
        fields.text("starting_token", message.starting_token),
        _entries(message.max_entries),
        fields.text("source_volume_id", message.source_volume_id),
        fields.text("snapshot_id", message.snapshot_id),
    )


def controller_publish(message: csi.ControllerPublishVolumeRequest) -> ControllerPublish:
    """Read ControllerPublishVolumeRequest."""
    return ControllerPublish(
        fields.required("volume_id", message.volume_id),
        fields.required("node_id", message.node_id),
        values.capability("volume_capability", message.volume_capability),
        fields.flag("readonly", message.readonly),
        fields.mapping("volume_context", message.volume_context),
        fields.mapping("secrets", message.secrets),
    )


def controller_unpublish(message: csi.ControllerUnpublishVolumeRequest) -> tuple[str, str]:
    """Read ControllerUnpublishVolumeRequest: the volume's id, and the node's or "" for all nodes."""
    return fields.required("volume_id", message.volume_id), fields.text("node_id", message.node_id)


def controller_expand(message: csi.ControllerExpandVolumeRequest) -> ControllerExpand:
    """Read ControllerExpandVolumeRequest."""
    identifier = fields.required("volume_id", message.volume_id)
    fields.part("capacity_range", message.capacity_range, csi.CapacityRange)
    return ControllerExpand(
        identifier,
        values.size_range("capacity_range", message.capacity_range),
        values.optional_capability("volume_capability", message.volume_capability),
        fields.mapping("secrets", message.secrets),
    )


def _entries(value: object) -> int:
    return min(fields.number("max_entries", value) or MAX_PAGE, MAX_PAGE)


def _no_mutable_parameters(parameters: Mapping[str, str]) -> None:
    if parameters:
        raise InvalidRequest(
            "mutable_parameters", "this driver has none; take the VolumeAttributesClass away"
        )
