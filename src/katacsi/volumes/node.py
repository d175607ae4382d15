"""Who this node is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.backends.api import Scope
from katacsi.model import Topology
from katacsi.volumes.requests import NodeInfo

if TYPE_CHECKING:
    from katacsi.volumes.context import Context


class NodeIdentity:
    """The node's name and place, as the scheduler sees them."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def info(self) -> NodeInfo:
        """Give name, place and how many volumes the node takes."""
        local = self._context.pools.scope is Scope.LOCAL
        return NodeInfo(
            node_id=self._context.node_id,
            topology=self._context.topology if local else Topology(),
            max_volumes=self._context.settings.max_volumes_per_node,
        )
