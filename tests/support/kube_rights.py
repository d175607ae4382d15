"""What the driver and its sidecars may do in a cluster, and who they are: the objects of a small release."""

from __future__ import annotations

from typing import Any

NAMESPACE = "katacsi"
RBAC = "rbac.authorization.k8s.io"
SNAPSHOTS = "snapshot.storage.k8s.io"
STORAGE = "storage.k8s.io"

READ = "get list watch"
#: Of each account, cluster-wide: group, resource, verbs.
CLUSTER_RULES: dict[str, list[tuple[str, str, str]]] = {
    "csi-provisioner": [
        ("", "persistentvolumes", f"{READ} create patch delete"),
        ("", "persistentvolumeclaims", f"{READ} update"),
        (STORAGE, "storageclasses", READ),
        ("", "events", "create patch"),
        (SNAPSHOTS, "volumesnapshots", f"{READ} update"),
        (SNAPSHOTS, "volumesnapshotcontents", READ),
        (STORAGE, "csinodes", READ),
        ("", "nodes", READ),
    ],
    "csi-snapshotter": [
        ("", "events", "create patch"),
        (SNAPSHOTS, "volumesnapshotclasses", READ),
        (SNAPSHOTS, "volumesnapshotcontents", f"{READ} update patch"),
        (SNAPSHOTS, "volumesnapshotcontents/status", "update patch"),
    ],
    "csi-resizer": [
        ("", "persistentvolumes", f"{READ} patch"),
        ("", "persistentvolumeclaims", READ),
        ("", "persistentvolumeclaims/status", "patch"),
        ("", "pods", READ),
        ("", "events", "create patch"),
    ],
    "snapshot-controller": [
        ("", "persistentvolumes", READ),
        ("", "persistentvolumeclaims", f"{READ} update"),
        ("", "nodes", READ),
        ("", "events", "create patch"),
        (SNAPSHOTS, "volumesnapshotclasses", READ),
        (SNAPSHOTS, "volumesnapshotcontents", f"{READ} create update delete patch"),
        (SNAPSHOTS, "volumesnapshotcontents/status", "patch"),
        (SNAPSHOTS, "volumesnapshots", f"{READ} update patch delete"),
        (SNAPSHOTS, "volumesnapshots/status", "update patch"),
    ],
    "katacsi": [
        ("", "persistentvolumeclaims", "get"),
        ("", "persistentvolumes", "get list"),
        ("", "pods", "get"),
        ("node.k8s.io", "runtimeclasses", "get list"),
        ("", "events", "create patch"),
        ("events.k8s.io", "events", "create patch"),
    ],
}
#: Of each account, in its own namespace.
RULES: dict[str, list[tuple[str, str, str]]] = {
    "csi-provisioner": [(STORAGE, "csistoragecapacities", f"{READ} create update patch delete")],
    "csi-resizer": [("coordination.k8s.io", "leases", f"{READ} create update patch delete")],
}


def release_objects(driver: str) -> list[dict[str, Any]]:
    """Return the namespace, the CSIDriver, the RuntimeClass, and the accounts with their roles."""
    items: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": f"{STORAGE}/v1",
            "kind": "CSIDriver",
            "metadata": {"name": driver},
            "spec": {
                "attachRequired": False,
                "storageCapacity": True,
                "podInfoOnMount": True,
                "fsGroupPolicy": "File",
                "volumeLifecycleModes": ["Persistent"],
            },
        },
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": "kata"},
            "handler": "kata",
        },
    ]
    for account, rules in CLUSTER_RULES.items():
        metadata = {"name": account, "namespace": NAMESPACE}
        items.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        items += _bound(account, rules, cluster=True)
        items += _bound(account, RULES.get(account, []), cluster=False)
    return items


def _bound(account: str, rules: list[tuple[str, str, str]], *, cluster: bool) -> list[dict[str, Any]]:
    if not rules:
        return []
    kind = "ClusterRole" if cluster else "Role"
    metadata = {"name": f"katacsi-{account}", **({} if cluster else {"namespace": NAMESPACE})}
    return [
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": kind,
            "metadata": metadata,
            "rules": [
                {"apiGroups": [group], "resources": [resource], "verbs": verbs.split()}
                for group, resource, verbs in rules
            ],
        },
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": f"{kind}Binding",
            "metadata": metadata,
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
            "roleRef": {"apiGroup": RBAC, "kind": kind, "name": metadata["name"]},
        },
    ]
