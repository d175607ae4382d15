"""Objects as people write them: claims and pods, with what a test wants of them."""

from __future__ import annotations

from typing import Any

from kube_settings import IMAGE

#: What a pod does that only holds its volume; it ends at once when it is told to.
HOLD = "trap 'exit 0' TERM; while :; do sleep 0.2; done"


def claim(
    name: str,
    storage_class: str,
    size: str = "64Mi",
    *,
    mode: str = "ReadWriteOnce",
    annotations: dict[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """Return a PersistentVolumeClaim."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations or {}},
        "spec": {
            "storageClassName": storage_class,
            "accessModes": [mode],
            "resources": {"requests": {"storage": size}},
            **spec,
        },
    }


def pod(
    name: str,
    claim_name: str,
    *,
    runtime: str = "",
    block: bool = False,
    sub_path: str = "",
    read_only: bool = False,
    command: str = HOLD,
    **spec: Any,
) -> dict[str, Any]:
    """Return a Pod with one claim at /data, or at /dev/data where it is a block device."""
    container: dict[str, Any] = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", command],
    }
    if block:
        container["volumeDevices"] = [{"name": "data", "devicePath": "/dev/data"}]
    else:
        mount = {"name": "data", "mountPath": "/data"}
        container["volumeMounts"] = [mount | ({"subPath": sub_path} if sub_path else {})]
    source = {"claimName": claim_name} | ({"readOnly": True} if read_only else {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "terminationGracePeriodSeconds": 2,
            "containers": [container],
            "volumes": [{"name": "data", "persistentVolumeClaim": source}],
            **({"runtimeClassName": runtime} if runtime else {}),
            **spec,
        },
    }


def storage_class(name: str, driver: str, parameters: dict[str, str], **more: Any) -> dict[str, Any]:
    """Return a StorageClass that binds when its first pod is scheduled."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": driver,
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
        "parameters": parameters,
        **more,
    }


def snapshot(name: str, claim_name: str, snapshot_class: str = "katacsi") -> dict[str, Any]:
    """Return a VolumeSnapshot of a claim."""
    return {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "volumeSnapshotClassName": snapshot_class,
            "source": {"persistentVolumeClaimName": claim_name},
        },
    }


def from_snapshot(name: str) -> dict[str, str]:
    """Return the data source of a claim that restores a snapshot."""
    return {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": name}


def from_claim(name: str) -> dict[str, str]:
    """Return the data source of a claim that clones another."""
    return {"kind": "PersistentVolumeClaim", "name": name}
