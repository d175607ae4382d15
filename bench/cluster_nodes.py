"""More nodes, without kubelets: each with its driver and its sidecars, which see what the others do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.kube_release import DRIVER, Plugin

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from support.kube_http import Object
    from support.kube_lab import Lab


def add(lab: Lab, number: int, settings: Mapping[str, Any]) -> Plugin:
    """Bring a node into the cluster that no pod is sent to, and start what the release runs on it."""
    name = f"node-{number}"
    for item in _objects(name):
        lab.api.apply(item)
    plugin = Plugin(lab, name, settings=settings)
    plugin.start()
    return plugin


def _objects(name: str) -> list[Object]:
    key = f"topology.{DRIVER}/node"
    return [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {key: name, "kubernetes.io/hostname": name}},
            "spec": {"unschedulable": True},
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSINode",
            "metadata": {"name": name},
            "spec": {"drivers": [{"name": DRIVER, "nodeID": name, "topologyKeys": [key]}]},
        },
    ]
