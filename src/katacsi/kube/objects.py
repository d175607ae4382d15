"""What is read of Kubernetes' objects: a few facts each, out of the dicts that the API server gives."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

POD: Final = "Pod"
CLAIM: Final = "PersistentVolumeClaim"
PERSISTENT_VOLUME: Final = "PersistentVolume"
SNAPSHOT: Final = "VolumeSnapshot"
SNAPSHOT_CONTENT: Final = "VolumeSnapshotContent"

_SPOKEN: Final = {POD: "pod", CLAIM: "PVC", PERSISTENT_VOLUME: "PV"}
_SNAPSHOTS: Final = "snapshot.storage.k8s.io/v1"
_API_VERSIONS: Final = {SNAPSHOT: _SNAPSHOTS, SNAPSHOT_CONTENT: _SNAPSHOTS}

_UID: Final = re.compile(r".*?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\Z")


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """Which object, as its Events name it; `uid` is empty where it is not known."""

    kind: str
    namespace: str
    name: str
    uid: str = ""

    @property
    def api_version(self) -> str:
        """Which API the object is of."""
        return _API_VERSIONS.get(self.kind, "v1")

    def __str__(self) -> str:
        below = f"{self.namespace}/" if self.namespace else ""
        return f"{_SPOKEN.get(self.kind, self.kind)} {below}{self.name}"


@dataclass(frozen=True, slots=True)
class Claim:
    """A PersistentVolumeClaim and what a person wrote on it."""

    ref: ObjectRef
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Claim:
        """Read a PersistentVolumeClaim."""
        metadata = part(found, "metadata")
        annotations = {str(key): str(value) for key, value in part(metadata, "annotations").items()}
        return cls(ref_of(CLAIM, metadata), annotations)


@dataclass(frozen=True, slots=True)
class Pod:
    """What a pod says about how its volumes have to reach it.

    Attributes:
        ref: which pod.
        runtime_class: its RuntimeClass; empty: the runtime that the node runs by default.
        fs_group_change_policy: "OnRootMismatch", "Always", or empty where the pod says nothing.
        claims: the claim behind each volume of the pod that has one, by the volume's name.
        sub_paths: the names of the volumes of which a container mounts a part only.
    """

    ref: ObjectRef
    runtime_class: str = ""
    fs_group_change_policy: str = ""
    claims: Mapping[str, str] = field(default_factory=dict)
    sub_paths: frozenset[str] = frozenset()

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Pod:
        """Read a pod."""
        ref = ref_of(POD, part(found, "metadata"))
        spec = part(found, "spec")
        return cls(
            ref,
            str(spec.get("runtimeClassName") or ""),
            str(part(spec, "securityContext").get("fsGroupChangePolicy") or ""),
            _claims(ref.name, spec),
            frozenset(_sub_paths(spec)),
        )


def _claims(pod: str, spec: Mapping[str, Any]) -> dict[str, str]:
    claims = {}
    for volume in spec.get("volumes") or ():
        if named := part(volume, "persistentVolumeClaim").get("claimName"):
            claims[volume["name"]] = str(named)
        elif volume.get("ephemeral") is not None:
            # A generic ephemeral volume's claim; Kubernetes names it so, and refuses the pod otherwise.
            claims[volume["name"]] = f"{pod}-{volume['name']}"
    return claims


def _sub_paths(spec: Mapping[str, Any]) -> set[str]:
    return {
        mount["name"]
        for kind in ("initContainers", "containers", "ephemeralContainers")
        for container in spec.get(kind) or ()
        for mount in container.get("volumeMounts") or ()
        if mount.get("subPath") or mount.get("subPathExpr")
    }


def ref_of(kind: str, metadata: Mapping[str, Any]) -> ObjectRef:
    """Give the reference of an object from its metadata, or from another's reference to it."""
    return ObjectRef(
        kind,
        str(metadata.get("namespace") or ""),
        str(metadata.get("name") or ""),
        str(metadata.get("uid") or ""),
    )


def uid_in(name: str) -> str:
    """Give the UID at the end of a name, empty where there is none.

    Sidecars name a volume after the UID of its claim, a snapshot after that of its VolumeSnapshot.
    """
    found = _UID.match(name)
    return found[1] if found else ""


def part(found: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Give a part that is a mapping, empty where it is left out."""
    # Kubernetes leaves out what is empty, and other servers write null.
    return found.get(key) or {}
