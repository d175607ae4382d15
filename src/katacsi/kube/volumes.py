"""What is read of PersistentVolumes, and of the objects by which nodes tell how much room they have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from katacsi.kube import paths
from katacsi.kube.objects import CLAIM, PERSISTENT_VOLUME, ObjectRef, part, ref_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from katacsi.kube.client import ClusterApi

#: Kept on a volume until its storage is deleted, by the provisioner that can do it.
FINALIZER: Final = "external-provisioner.volume.kubernetes.io/finalizer"

_PROVISIONED_BY: Final = "pv.kubernetes.io/provisioned-by"
#: The label by which a provisioner marks its objects.
_DRIVER: Final = "csi.storage.k8s.io/drivername"
_STORAGE_CAPACITY: Final = "CSIStorageCapacity"


@dataclass(frozen=True, slots=True)
class PersistentVolume:
    """A PersistentVolume.

    Attributes:
        ref: which.
        version: as which version it was read.
        driver: the CSI driver's name; empty where it is no CSI volume.
        handle: the volume's id there.
        provisioner: who made it for a claim; empty where a person wrote it.
        phase: Available, Bound, Released, …
        reclaim: Delete or Retain.
        claim: the claim that it is bound to, or was.
        deleting: whether its deletion was asked for.
        finalizers: who has to agree to that.
        terms: the ways in which it may be reached, of which one suffices: its nodeAffinity.
    """

    ref: ObjectRef
    version: str = ""
    driver: str = ""
    handle: str = ""
    provisioner: str = ""
    phase: str = ""
    reclaim: str = ""
    claim: ObjectRef | None = None
    deleting: bool = False
    finalizers: tuple[str, ...] = ()
    terms: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> PersistentVolume:
        """Read a PersistentVolume."""
        metadata, spec = part(found, "metadata"), part(found, "spec")
        csi, claim = part(spec, "csi"), part(spec, "claimRef")
        return cls(
            ref_of(PERSISTENT_VOLUME, metadata),
            version=str(metadata.get("resourceVersion") or ""),
            driver=str(csi.get("driver") or ""),
            handle=str(csi.get("volumeHandle") or ""),
            provisioner=str(part(metadata, "annotations").get(_PROVISIONED_BY) or ""),
            phase=str(part(found, "status").get("phase") or ""),
            reclaim=str(spec.get("persistentVolumeReclaimPolicy") or ""),
            claim=ref_of(CLAIM, claim) if claim else None,
            deleting=bool(metadata.get("deletionTimestamp")),
            finalizers=tuple(metadata.get("finalizers") or ()),
            terms=tuple(part(part(spec, "nodeAffinity"), "required").get("nodeSelectorTerms") or ()),
        )

    def place(self, topology_key: str) -> str:
        """Give the one value of a topology key with which it can be reached; empty: several, any, or none."""
        values: set[str] = set()
        for term in self.terms:
            named = {
                value
                for each in term.get("matchExpressions") or ()
                if each.get("key") == topology_key and each.get("operator") == "In"
                for value in each.get("values") or ()
            }
            if len(named) != 1:  # this way may lead elsewhere
                return ""
            values |= named
        return values.pop() if len(values) == 1 else ""


@dataclass(frozen=True, slots=True)
class StorageCapacity:
    """A CSIStorageCapacity: how much room a StorageClass has in one place."""

    ref: ObjectRef
    version: str
    labels: Mapping[str, str]

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> StorageCapacity:
        """Read a CSIStorageCapacity."""
        metadata, topology = part(found, "metadata"), part(found, "nodeTopology")
        # An expression may mean more than one place.
        labels = {} if topology.get("matchExpressions") else part(topology, "matchLabels")
        return cls(
            ref_of(_STORAGE_CAPACITY, metadata), str(metadata.get("resourceVersion") or ""), dict(labels)
        )

    def place(self, topology_key: str) -> str:
        """Give the value of a topology key that is all that its place consists of; else nothing."""
        return self.labels[topology_key] if set(self.labels) == {topology_key} else ""


async def volumes_of(api: ClusterApi, driver: str) -> AsyncIterator[PersistentVolume]:
    """Give all PersistentVolumes of a driver: one request for each 500 of the cluster.

    Raises:
        KatacsiError: as `ClusterApi`.
    """
    async for found in api.list(paths.persistent_volumes(), what="the list of PersistentVolumes"):
        volume = PersistentVolume.of(found)
        if volume.driver == driver:
            yield volume


async def capacities_of(api: ClusterApi, driver: str, namespace: str) -> AsyncIterator[StorageCapacity]:
    """Give all CSIStorageCapacity objects that provisioners of a driver made in a namespace.

    Raises:
        KatacsiError: as `ClusterApi`.
    """
    path, what = paths.storage_capacities(namespace), f"the list of {_STORAGE_CAPACITY} of {namespace}"
    async for found in api.list(path, labels=f"{_DRIVER}={driver}", what=what):
        yield StorageCapacity.of(found)
