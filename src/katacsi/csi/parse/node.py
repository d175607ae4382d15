"""The requests of the Node service. Required fields come first, in the order of the message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.csi.parse import fields, values
from katacsi.errors import Precondition
from katacsi.volumes.requests import Expand, GetStats, Publish, Stage

if TYPE_CHECKING:
    from katacsi._gen.csi import v1 as csi


def stage(message: csi.NodeStageVolumeRequest) -> Stage:
    """Read NodeStageVolumeRequest."""
    return Stage(
        fields.required("volume_id", message.volume_id),
        fields.path("staging_target_path", message.staging_target_path),
        values.capability("volume_capability", message.volume_capability),
        fields.mapping("volume_context", message.volume_context),
        fields.mapping("publish_context", message.publish_context),
        fields.mapping("secrets", message.secrets),
    )


def unstage(message: csi.NodeUnstageVolumeRequest) -> tuple[str, str]:
    """Read NodeUnstageVolumeRequest: the volume's id and the staging path."""
    return (
        fields.required("volume_id", message.volume_id),
        fields.path("staging_target_path", message.staging_target_path),
    )


def publish(message: csi.NodePublishVolumeRequest) -> Publish:
    """Read NodePublishVolumeRequest."""
    volume_id = fields.required("volume_id", message.volume_id)
    target_path = fields.path("target_path", message.target_path)
    capability = values.capability("volume_capability", message.volume_capability)
    staging_path = fields.optional_path("staging_target_path", message.staging_target_path)
    if not staging_path:
        # CSI, NodePublishVolume errors: this missing field alone has this code.
        raise Precondition(
            "staging_target_path: is required, since this driver stages volumes, and was empty"
        )
    return Publish(
        volume_id,
        staging_path,
        target_path,
        capability,
        fields.flag("readonly", message.readonly),
        fields.mapping("volume_context", message.volume_context),
        fields.mapping("publish_context", message.publish_context),
        fields.mapping("secrets", message.secrets),
    )


def unpublish(message: csi.NodeUnpublishVolumeRequest) -> tuple[str, str]:
    """Read NodeUnpublishVolumeRequest: the volume's id and the target path."""
    return (
        fields.required("volume_id", message.volume_id),
        fields.path("target_path", message.target_path),
    )


def get_stats(message: csi.NodeGetVolumeStatsRequest) -> GetStats:
    """Read NodeGetVolumeStatsRequest."""
    return GetStats(
        fields.required("volume_id", message.volume_id),
        fields.path("volume_path", message.volume_path),
        fields.optional_path("staging_target_path", message.staging_target_path),
    )


def get_health(message: csi.NodeGetVolumeHealthRequest) -> GetStats:
    """Read NodeGetVolumeHealthRequest; the paths are empty for a volume that has none on this node."""
    return GetStats(
        fields.required("volume_id", message.volume_id),
        fields.optional_path("volume_publish_path", message.volume_publish_path),
        fields.optional_path("staging_target_path", message.staging_target_path),
    )


def expand(message: csi.NodeExpandVolumeRequest) -> Expand:
    """Read NodeExpandVolumeRequest."""
    return Expand(
        fields.required("volume_id", message.volume_id),
        fields.path("volume_path", message.volume_path),
        values.size_range("capacity_range", message.capacity_range),
        fields.optional_path("staging_target_path", message.staging_target_path),
        values.optional_capability("volume_capability", message.volume_capability),
        fields.mapping("secrets", message.secrets),
    )
