"""The account of the snapshot-controller, which is the cluster's own and no part of a release."""

from __future__ import annotations

from typing import Any

ACCOUNT = "snapshot-controller"
ACCOUNT_NAMESPACE = "kube-system"
RBAC = "rbac.authorization.k8s.io"
SNAPSHOTS = "snapshot.storage.k8s.io"
READ = "get list watch"

#: Group, resource, verbs.
RULES = (
    ("", "persistentvolumes", READ),
    ("", "persistentvolumeclaims", f"{READ} update"),
    ("", "nodes", READ),
    ("", "events", "create patch"),
    (SNAPSHOTS, "volumesnapshotclasses", READ),
    (SNAPSHOTS, "volumesnapshotcontents", f"{READ} create update delete patch"),
    (SNAPSHOTS, "volumesnapshotcontents/status", "patch"),
    (SNAPSHOTS, "volumesnapshots", f"{READ} update patch delete"),
    (SNAPSHOTS, "volumesnapshots/status", "update patch"),
)


def snapshot_controller_objects() -> list[dict[str, Any]]:
    """Return its ServiceAccount, its ClusterRole, and what binds them."""
    rules = [
        {"apiGroups": [group], "resources": [resource], "verbs": verbs.split()}
        for group, resource, verbs in RULES
    ]
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": ACCOUNT_NAMESPACE}
    role = {"apiGroup": RBAC, "kind": "ClusterRole", "name": ACCOUNT}
    metadata = {"name": ACCOUNT}
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": ACCOUNT, "namespace": ACCOUNT_NAMESPACE},
        },
        {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "subjects": [subject],
            "roleRef": role,
        },
    ]
