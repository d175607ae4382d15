"""PersistentVolumes and nodes as the API server has them, for tests of nodes that are gone."""

from __future__ import annotations

from typing import Any

from katacsi.kube.volumes import FINALIZER

DRIVER = "local.katacsi.io"
KEY = f"topology.{DRIVER}/node"
PROTECTION = "kubernetes.io/pv-protection"


def affinity(*nodes: str, key: str = KEY) -> dict[str, Any]:
    """Give the affinity of a volume that is on these nodes."""
    expressions = [{"key": key, "operator": "In", "values": list(nodes)}]
    return {"required": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}}


def volume(
    name: str = "pv-1",
    node: str = "node-1",
    *,
    phase: str = "Released",
    reclaim: str = "Delete",
    driver: str = DRIVER,
    provisioner: str = DRIVER,
    **spec: Any,
) -> dict[str, Any]:
    """Give a PersistentVolume."""
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-of-{name}",
            "resourceVersion": "7",
            "annotations": {"pv.kubernetes.io/provisioned-by": provisioner},
            "finalizers": [PROTECTION, FINALIZER],
        },
        "spec": {
            "csi": {"driver": driver, "volumeHandle": f"v1:default:abcdef01:{name}"},
            "persistentVolumeReclaimPolicy": reclaim,
            "claimRef": {"namespace": "default", "name": f"claim-of-{name}", "uid": "uid-of-claim"},
            "nodeAffinity": affinity(node),
            **spec,
        },
        "status": {"phase": phase},
    }


def node(name: str, **labels: str) -> dict[str, Any]:
    """Give a Node."""
    return {"metadata": {"name": name, "uid": f"uid-of-{name}", "labels": labels}}


def capacity(name: str, node: str, namespace: str) -> dict[str, Any]:
    """Give the object by which a node's provisioner tells how much room it has."""
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-of-{name}",
            "resourceVersion": "3",
            "labels": {"csi.storage.k8s.io/drivername": DRIVER},
        },
        "nodeTopology": {"matchLabels": {KEY: node}},
    }
