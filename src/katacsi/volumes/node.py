"""Who this node is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.backends.api import Identifying, Node, Scope
from katacsi.errors import Precondition
from katacsi.model import Topology
from katacsi.volumes import nodes
from katacsi.volumes.requests import NodeInfo

if TYPE_CHECKING:
    from katacsi.volumes.context import Context


class NodeIdentity:
    """The node's name and place, as the scheduler sees them."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def info(self) -> NodeInfo:
        """Give name, place and how many volumes the node takes.

        Raises:
            Precondition: what its pools report of it does not fit together, or not into a node id.
        """
        local = self._context.pools.scope is Scope.LOCAL
        node = Node(self._context.node_id, {} if local else await self._reported())
        return NodeInfo(
            node_id=nodes.encoded(node),
            topology=self._context.topology if local else Topology(),
            max_volumes=self._context.settings.max_volumes_per_node,
        )

    async def _reported(self) -> dict[str, str]:
        """Give what storage in the network has to know of this node."""
        facts: dict[str, str] = {}
        for pool in self._context.pools:
            backend = pool.unasked()
            if not isinstance(backend, Identifying):
                continue
            for key, value in (await backend.node_facts()).items():
                if facts.setdefault(key, value) != value:
                    raise Precondition(
                        f"node {self._context.node_id}: pool {pool.name} reports {key} {value!r}, and "
                        f"another pool {facts[key]!r}; one release has one node id. Give them the same, or "
                        "install a release for each"
                    )
        return facts
