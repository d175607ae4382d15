"""Which nodes there are: by their names, and by the labels that the kubelet gave them for the driver.

A driver's `--node-id` is the Node's name, unless an operator chose another one for a node with a long name.
Such a node carries it only as a label, so absence is never concluded from names alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.errors import NotFound, Unavailable
from katacsi.kube import paths
from katacsi.kube.objects import part

if TYPE_CHECKING:
    from katacsi.kube.client import ClusterApi


async def present_nodes(api: ClusterApi, topology_key: str) -> set[str]:
    """Give the names of all Nodes, and what they are called in the topology; one request for each 500.

    Raises:
        Unavailable: there is not a single one: the server has lost them, or does not have them yet.
        KatacsiError: as `ClusterApi`.
    """
    present: set[str] = set()
    async for found in api.list(paths.nodes(), only_metadata=True, what="the list of Nodes"):
        metadata = part(found, "metadata")
        present.add(str(metadata.get("name") or ""))
        present.add(str(part(metadata, "labels").get(topology_key) or ""))
    if not present:
        raise Unavailable("the list of Nodes is empty, which no cluster's is; nothing is concluded from it")
    return present


async def is_absent(api: ClusterApi, topology_key: str, node: str) -> bool:
    """Prove that a node does not exist now: two requests, which no cache answers.

    Raises:
        KatacsiError: the API could not be asked; that proves nothing.
    """
    try:
        await api.get(paths.node(node), what=f"Node {node}")
    except NotFound:
        labels, what = f"{topology_key}={node}", f"the Nodes labelled {topology_key}={node}"
        async for _ in api.list(paths.nodes(), labels=labels, page=1, only_metadata=True, what=what):
            return False
        return True
    return False
