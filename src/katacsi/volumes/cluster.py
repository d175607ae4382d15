"""What the workflows ask of the cluster: the door to `kube`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from katacsi.volumes.publish.mode import PodRuntime

if TYPE_CHECKING:
    from collections.abc import Mapping


class Cluster(Protocol):
    """Knows the pods that volumes are published for."""

    async def pod_runtime(self, volume_context: Mapping[str, str]) -> PodRuntime:
        """Tell the runtime of the pod that a publish is for."""


class NoCluster:
    """Stands where Kubernetes is not asked: only the StorageClass parameter chooses the mode."""

    async def pod_runtime(self, volume_context: Mapping[str, str]) -> PodRuntime:
        """Say that there is no cluster to ask."""
        del volume_context
        return PodRuntime.NO_CLUSTER
