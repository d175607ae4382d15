"""The paths of objects in the Kubernetes API, by the names that people use."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from katacsi.errors import Precondition

_NAME: Final = re.compile(r"[a-zA-Z0-9]([-._:a-zA-Z0-9]{0,251}[a-zA-Z0-9])?")


def pod(namespace: str, name: str) -> str:
    """Give the path of a pod."""
    return _core("pods", name, namespace)


def claim(namespace: str, name: str) -> str:
    """Give the path of a PersistentVolumeClaim."""
    return _core("persistentvolumeclaims", name, namespace)


def persistent_volume(name: str) -> str:
    """Give the path of a PersistentVolume."""
    return _core("persistentvolumes", name)


def persistent_volumes() -> str:
    """Give the path of all PersistentVolumes."""
    return "/api/v1/persistentvolumes"


def node(name: str) -> str:
    """Give the path of a Node."""
    return _core("nodes", name)


def nodes() -> str:
    """Give the path of all Nodes."""
    return "/api/v1/nodes"


def storage_capacities(namespace: str, name: str = "") -> str:
    """Give the path of a namespace's CSIStorageCapacity objects, or of one of them."""
    every = f"/apis/storage.k8s.io/v1/namespaces/{_segment(namespace)}/csistoragecapacities"
    return f"{every}/{_segment(name)}" if name else every


def runtime_class(name: str) -> str:
    """Give the path of a RuntimeClass."""
    return f"/apis/node.k8s.io/v1/runtimeclasses/{_segment(name)}"


def events(namespace: str, name: str = "") -> str:
    """Give the path of a namespace's Events, or of one of them."""
    every = f"/apis/events.k8s.io/v1/namespaces/{_segment(namespace)}/events"
    return f"{every}/{_segment(name)}" if name else every


def access_reviews() -> str:
    """Give the path where one asks what one may do."""
    return "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


def _core(plural: str, name: str, namespace: str = "") -> str:
    below = f"namespaces/{_segment(namespace)}/" if namespace else ""
    return f"/api/v1/{below}{plural}/{_segment(name)}"


def _segment(text: str) -> str:
    # A name comes from a request: it must not lead elsewhere.
    if not _NAME.fullmatch(text):
        raise Precondition(f"{text!r} cannot be the name of an object in Kubernetes")
    return quote(text, safe="")
