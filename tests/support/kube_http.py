"""The API of a cluster, over plain HTTP: objects are the dicts that JSON gives."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.kube_door import NetworkDoor

Object = dict[str, Any]
T = TypeVar("T")

#: Where each kind is, and whether it lies in a namespace.
PATHS = {
    "Namespace": ("api/v1", "namespaces", False),
    "Node": ("api/v1", "nodes", False),
    "Pod": ("api/v1", "pods", True),
    "PersistentVolume": ("api/v1", "persistentvolumes", False),
    "PersistentVolumeClaim": ("api/v1", "persistentvolumeclaims", True),
    "Event": ("api/v1", "events", True),
    "ServiceAccount": ("api/v1", "serviceaccounts", True),
    "ConfigMap": ("api/v1", "configmaps", True),
    "Secret": ("api/v1", "secrets", True),
    "StorageClass": ("apis/storage.k8s.io/v1", "storageclasses", False),
    "CSIDriver": ("apis/storage.k8s.io/v1", "csidrivers", False),
    "CSINode": ("apis/storage.k8s.io/v1", "csinodes", False),
    "CSIStorageCapacity": ("apis/storage.k8s.io/v1", "csistoragecapacities", True),
    "RuntimeClass": ("apis/node.k8s.io/v1", "runtimeclasses", False),
    "ClusterRole": ("apis/rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": ("apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "Role": ("apis/rbac.authorization.k8s.io/v1", "roles", True),
    "RoleBinding": ("apis/rbac.authorization.k8s.io/v1", "rolebindings", True),
    "DaemonSet": ("apis/apps/v1", "daemonsets", True),
    "Deployment": ("apis/apps/v1", "deployments", True),
    "Service": ("api/v1", "services", True),
    "PriorityClass": ("apis/scheduling.k8s.io/v1", "priorityclasses", False),
    "PodDisruptionBudget": ("apis/policy/v1", "poddisruptionbudgets", True),
    "NetworkPolicy": ("apis/networking.k8s.io/v1", "networkpolicies", True),
    "ValidatingAdmissionPolicy": (
        "apis/admissionregistration.k8s.io/v1",
        "validatingadmissionpolicies",
        False,
    ),
    "ValidatingAdmissionPolicyBinding": (
        "apis/admissionregistration.k8s.io/v1",
        "validatingadmissionpolicybindings",
        False,
    ),
    "CustomResourceDefinition": ("apis/apiextensions.k8s.io/v1", "customresourcedefinitions", False),
    "VolumeSnapshotClass": ("apis/snapshot.storage.k8s.io/v1", "volumesnapshotclasses", False),
    "VolumeSnapshot": ("apis/snapshot.storage.k8s.io/v1", "volumesnapshots", True),
    "VolumeSnapshotContent": ("apis/snapshot.storage.k8s.io/v1", "volumesnapshotcontents", False),
}


class ApiError(Exception):
    """The API server refused a request."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Api:
    """A client with one user's token."""

    def __init__(self, door: NetworkDoor, address: tuple[str, int], certificate: Path, token: str) -> None:
        self._door, self._address = door, address
        self._tls = ssl.create_default_context(cafile=str(certificate))
        self._token = token

    @property
    def headers(self) -> dict[str, str]:
        """Return what a request of this user carries."""
        return {"Authorization": f"Bearer {self._token}"}

    def connect(self, timeout_s: float) -> http.client.HTTPSConnection:
        """Return a connection that is open, for several requests or for one whose answer never ends."""
        connection = http.client.HTTPSConnection(*self._address, timeout=timeout_s)
        plain = self._door.connect(self._address, timeout_s)
        # A request is written in two parts; the second would wait 40 ms for the first one's acknowledgement.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock = self._tls.wrap_socket(plain, server_hostname=self._address[0])
        return connection

    def request(
        self,
        method: str,
        path: str,
        content: object = None,
        *,
        kind: str = "application/json",
        timeout_s: float = 60,
    ) -> Any:
        """Send a request, and return what the answer's JSON says, or its text where it is none.

        Raises:
            ApiError: the server refused it.
            OSError: it cannot be reached.
        """
        connection = self.connect(timeout_s)
        try:
            body = None if content is None else json.dumps(content).encode()
            connection.request(method, f"/{path}", body, self.headers | {"Content-Type": kind})
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        try:
            said = json.loads(text)
        except ValueError:
            said = text
        if answer.status >= 300:
            raise ApiError(answer.status, said.get("message", text) if isinstance(said, dict) else text)
        return said

    def get(self, kind: str, name: str, namespace: str = "default") -> Object | None:
        """Return an object, None when there is none of that name."""
        try:
            found: Object = self.request("GET", path_of(kind, name, namespace))
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        return found

    def list(self, kind: str, namespace: str = "") -> list[Object]:
        """Return all objects of a kind, in all namespaces or in one."""
        found: list[Object] = self.request("GET", path_of(kind, "", namespace))["items"]
        return found

    def apply(self, item: Object) -> Object:
        """Create or change an object, as `kubectl apply --server-side` does."""
        metadata = item["metadata"]
        path = path_of(item["kind"], metadata["name"], metadata.get("namespace", "default"))
        query = "?fieldManager=tests&force=true"
        made: Object = self.request("PATCH", path + query, item, kind="application/apply-patch+yaml")
        return made

    def patch(self, kind: str, name: str, change: Object, namespace: str = "default") -> Object:
        """Merge a change into an object."""
        path = path_of(kind, name, namespace)
        made: Object = self.request("PATCH", path, change, kind="application/merge-patch+json")
        return made

    def delete(self, kind: str, name: str, namespace: str = "default", *, force: bool = False) -> None:
        """Ask for an object's end; one that is gone already is fine."""
        options = {"gracePeriodSeconds": 0} if force else None
        try:
            self.request("DELETE", path_of(kind, name, namespace), options)
        except ApiError as error:
            if error.code != 404:
                raise

    def token_of(self, account: str, namespace: str, **wishes: Any) -> str:
        """Return a fresh token of a ServiceAccount, for two hours."""
        path = f"{path_of('ServiceAccount', account, namespace)}/token"
        wanted = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 7200, **wishes},
        }
        return str(self.request("POST", path, wanted)["status"]["token"])

    def events(self, name: str) -> list[str]:
        """Return the events of an object, as `<reason>: <text>`."""
        return [
            f"{event['reason']}: {event.get('message', '')}"
            for event in self.list("Event")
            # One was seen without a name, in a run that had started the kubelet again.
            if event["involvedObject"].get("name") == name
        ]


def path_of(kind: str, name: str, namespace: str) -> str:
    """Return the path of an object, or of all of a kind when no name is given."""
    group, plural, namespaced = PATHS[kind]
    within = f"namespaces/{namespace}/" if namespaced and namespace else ""
    return f"{group}/{within}{plural}{f'/{name}' if name else ''}"


def size_bytes(quantity: str) -> int:
    """Return the bytes of a Kubernetes quantity such as 64Mi, 2G or 1073741824."""
    suffixes = {f"{letter}i": 1 << (10 * at) for at, letter in enumerate("KMGT", start=1)}
    suffixes |= {letter: 1000**at for at, letter in enumerate("kMGT", start=1)}
    number = quantity.rstrip("KMGTik")
    return int(number) * suffixes.get(quantity[len(number) :], 1)


def until(what: str, look: Callable[[], T], limit_s: float = 120) -> T:
    """Look again and again until there is something to see, and return it.

    Raises:
        AssertionError: not within the time; the last look is in the text.
    """
    deadline = time.monotonic() + limit_s
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s:.0f} s: {what}; last seen: {seen!r}")
        time.sleep(0.1)
