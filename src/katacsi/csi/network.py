"""What the door asks of a release whose volumes any node can reach: fencing, and growth without the node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from katacsi.volumes.requests import ControllerExpand, ControllerPublish


class NetworkWorkflows(Protocol):
    """The workflows that only pools of scope NETWORK have."""

    async def publish(self, request: ControllerPublish, /) -> Mapping[str, str]:
        """Let this node, and no other, reach the volume; give what NodeStage needs there."""

    async def unpublish(self, volume_id: str, node_id: str, /) -> None:
        """Fence the node, or every node if it is empty, off the volume."""

    async def expand(self, request: ControllerExpand, /) -> int:
        """Grow the volume on its storage; give its size in bytes."""
