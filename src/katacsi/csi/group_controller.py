"""The GroupController service: not offered."""

from __future__ import annotations

from katacsi._gen.csi import v1 as csi


class GroupController(csi.GroupControllerBase):
    """Registered so that its methods answer UNIMPLEMENTED: no backend cuts several volumes at once."""
