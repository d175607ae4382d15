"""The SnapshotMetadata service: not offered."""

from __future__ import annotations

from katacsi._gen.csi import v1 as csi


class SnapshotMetadata(csi.SnapshotMetadataBase):
    """Registered so that its methods answer UNIMPLEMENTED: no backend tells which blocks changed."""
