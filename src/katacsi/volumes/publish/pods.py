"""The pod that a volume is published for: how it runs, and how it uses the volume."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from katacsi.errors import Precondition
from katacsi.kube.objects import POD, ObjectRef
from katacsi.volumes.publish.mode import PodRuntime

if TYPE_CHECKING:
    from collections.abc import Mapping

    from katacsi.kube.objects import Pod
    from katacsi.volumes.context import Context

#: What the kubelet adds to the volume context where the CSIDriver object says `podInfoOnMount: true`.
NAME: Final = "csi.storage.k8s.io/pod.name"
NAMESPACE: Final = "csi.storage.k8s.io/pod.namespace"
UID: Final = "csi.storage.k8s.io/pod.uid"


def reference(context: Mapping[str, str]) -> ObjectRef | None:
    """Say which pod a publish is for; None where the caller does not."""
    name, namespace, uid = (context.get(key) for key in (NAME, NAMESPACE, UID))
    return ObjectRef(POD, namespace, name, uid) if name and namespace and uid else None


class PodReader:
    """Asks the cluster about the pod of a publish, and no more than the publish needs."""

    def __init__(self, context: Context) -> None:
        if context.cluster is None:
            raise ValueError("there is no cluster to ask")
        self._cluster = context.cluster
        self._settings = context.settings.kube
        self._driver_name = context.settings.driver_name

    async def pod(self, context: Mapping[str, str], volume: str) -> Pod:
        """Read the pod that a publish is for.

        Raises:
            Precondition: the caller does not say which, or it is gone.
            Unavailable: it cannot be read now.
        """
        ref = reference(context)
        if ref is None:
            raise Precondition(
                f"{volume}: the kubelet does not say which pod it is for; set podInfoOnMount: true in the "
                f"CSIDriver object {self._driver_name}, or choose the mode without the pod's runtime: "
                'katacsi.io/direct: "false" in the StorageClass, or kube.enabled: false'
            )
        return await self._cluster.pod(ref)

    async def runtime_of(self, pod: Pod) -> PodRuntime:
        """Tell whether a pod runs in Kata.

        Raises:
            Precondition: its RuntimeClass does not exist.
            Unavailable: it cannot be read now.
        """
        if not pod.runtime_class:
            return PodRuntime.KATA if self._settings.default_runtime_is_kata else PodRuntime.OTHER
        handler = await self._cluster.runtime_handler(pod)
        kata = any(fnmatchcase(handler, pattern) for pattern in self._settings.kata_handlers)
        return PodRuntime.KATA if kata else PodRuntime.OTHER

    async def require_whole(self, pod: Pod, target_path: str) -> None:
        """Refuse a pod that mounts a part of the volume: Kata finds a record by the whole volume's path.

        Only where the pod has several claims has the volume's own to be asked for.

        Raises:
            Precondition: a container uses the volume by subPath or subPathExpr.
        """
        parts = {pod.claims[volume] for volume in pod.sub_paths if volume in pod.claims}
        if not parts:
            return
        if len(set(pod.claims.values())) > 1:
            # The kubelet's targets end in <PersistentVolume>/mount.
            parts &= {await self._cluster.claim_of(PurePosixPath(target_path).parent.name)}
        if parts:
            raise Precondition(
                f"{pod.ref}: a container mounts PVC {parts.pop()} by subPath or subPathExpr, which a direct "
                "volume cannot serve: the guest gets the whole device. Mount the volume without subPath, or "
                'set katacsi.io/direct to "false" (annotation of the PVC, or parameter of its StorageClass)'
            )
