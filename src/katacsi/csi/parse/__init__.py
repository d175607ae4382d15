"""From protobuf to what the workflows are asked; everything a message can get wrong is refused here."""

from katacsi.csi.parse.controller import (
    controller_expand,
    controller_publish,
    controller_unpublish,
    create_snapshot,
    create_volume,
    get_capacity,
    list_snapshots,
    page,
    snapshot_id,
    validate,
    volume_id,
)
from katacsi.csi.parse.node import expand, get_health, get_stats, publish, stage, unpublish, unstage
from katacsi.csi.parse.values import capability

__all__ = [
    "capability",
    "controller_expand",
    "controller_publish",
    "controller_unpublish",
    "create_snapshot",
    "create_volume",
    "expand",
    "get_capacity",
    "get_health",
    "get_stats",
    "list_snapshots",
    "page",
    "publish",
    "snapshot_id",
    "stage",
    "unpublish",
    "unstage",
    "validate",
    "volume_id",
]
