"""The CSI node id: a node's name, and with it what storage in the network has to know of the node.

CSI gives ControllerPublishVolume nothing of the node but the id that NodeGetInfo had named, so this is the
only way without an object of our own in the cluster.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlencode

from katacsi.backends.api import Node
from katacsi.errors import NotFound, Precondition

#: What Kubernetes takes in a CSINode (kubernetes, pkg/apis/storage/validation); CSI itself allows 256.
MOST_BYTES: Final = 192


def encoded(node: Node) -> str:
    """Give the CSI node id of a node: `<name>`, or `<name>?<key>=<value>&…` with the keys in order.

    Raises:
        Precondition: it would be too long for Kubernetes.
    """
    facts = urlencode(sorted(node.facts.items()), safe=":,/[]")
    text = f"{node.id}?{facts}" if facts else node.id
    if len(text.encode()) > MOST_BYTES:
        raise Precondition(
            f"node {node.id}: its CSI node id would have {len(text.encode())} bytes, and Kubernetes takes "
            f"{MOST_BYTES}: {text}; give the node a shorter name (--node-id), or its pools less to report"
        )
    return text


def decoded(text: str) -> Node:
    """Read what `encoded` gave.

    Raises:
        NotFound: no driver of ours gave it.
    """
    name, mark, query = text.partition("?")
    try:
        facts = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(mark)))
    except ValueError as error:
        raise NotFound(f"node {text!r}: not a node id that this driver gave out ({error})") from error
    if not name:
        raise NotFound(f"node {text!r}: not a node id that this driver gave out; it has no name")
    return Node(name, facts)
