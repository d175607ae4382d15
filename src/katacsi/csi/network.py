"""What the door asks of a release whose volumes any node can reach: fencing, and growth without the node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from katacsi.model import Capability, SizeRange


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


class NetworkWorkflows(Protocol):
    """The workflows that only pools of scope NETWORK have."""

    async def publish(self, request: ControllerPublish, /) -> Mapping[str, str]:
        """Let this node, and no other, reach the volume; give what NodeStage needs there."""

    async def unpublish(self, volume_id: str, node_id: str, /) -> None:
        """Fence the node, or every node if it is empty, off the volume."""

    async def expand(self, request: ControllerExpand, /) -> int:
        """Grow the volume on its storage; give its size in bytes."""
