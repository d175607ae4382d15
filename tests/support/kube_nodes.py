"""Nodes that are only objects: the scheduler places pods on them, and nobody runs those."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.kube_chart import DRIVER, NAMESPACE
from support.kube_http import until

if TYPE_CHECKING:
    from support.kube_lab import Lab

KEY = f"topology.{DRIVER}/node"
LABEL = "only-an-object"


def make_node(lab: Lab, name: str) -> None:
    """Make a node that is ready, and on which the driver is registered as the kubelet does it."""
    labels = {KEY: name, LABEL: "yes", "kubernetes.io/os": "linux", "kubernetes.io/hostname": name}
    lab.api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
    room = {"cpu": "8", "memory": "16Gi", "pods": "100", "ephemeral-storage": "10Gi"}
    ready = {"type": "Ready", "status": "True", "reason": "Test", "message": ""}
    status = {"capacity": room, "allocatable": room, "conditions": [ready]}
    change = {"status": status}
    lab.api.request("PATCH", f"api/v1/nodes/{name}/status", change, kind="application/merge-patch+json")
    lab.api.apply(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSINode",
            "metadata": {"name": name},
            "spec": {"drivers": [{"name": DRIVER, "nodeID": name, "topologyKeys": [KEY]}]},
        }
    )
    until(f"{name} takes pods", lambda: not (lab.api.get("Node", name) or {})["spec"].get("taints"))


def remove_node(lab: Lab, name: str) -> None:
    """Remove a node, with its pods and what is known of its room."""
    lab.api.delete("Node", name)
    lab.api.delete("CSINode", name)
    for pod in lab.api.list("Pod"):
        if pod["spec"].get("nodeName") == name:
            lab.api.delete("Pod", pod["metadata"]["name"], pod["metadata"]["namespace"], force=True)
    for capacity in lab.api.list("CSIStorageCapacity"):
        if (capacity.get("nodeTopology") or {}).get("matchLabels") == {KEY: name}:
            lab.api.delete("CSIStorageCapacity", capacity["metadata"]["name"], NAMESPACE)
