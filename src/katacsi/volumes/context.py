"""What every workflow works with, put together once by the composition root."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from katacsi.model import Topology
from katacsi.volumes.locks import Locks
from katacsi.volumes.publish.mode import PodRuntime

if TYPE_CHECKING:
    from collections.abc import Mapping

    from katacsi.directvolume.writer import DirectVolumeWriter
    from katacsi.metrics import Metrics
    from katacsi.settings import Settings
    from katacsi.volumes.pools import Pools
    from katacsi.volumes.publish.marks import Marks


class Cluster(Protocol):
    """What the workflows ask of the cluster."""

    async def pod_runtime(self, volume_context: Mapping[str, str]) -> PodRuntime:
        """Tell the runtime of the pod that a publish is for."""

    async def direct_annotation(self, parameters: Mapping[str, str]) -> str:
        """Give what the PVC's annotation asks for (`true`, `false`), or "" where it has none."""


class NoCluster:
    """Stands where Kubernetes is not asked: only the StorageClass parameter chooses the mode."""

    async def pod_runtime(self, volume_context: Mapping[str, str]) -> PodRuntime:
        """Say that there is no cluster to ask."""
        del volume_context
        return PodRuntime.NO_CLUSTER

    async def direct_annotation(self, parameters: Mapping[str, str]) -> str:
        """Say that nothing was annotated."""
        del parameters
        return ""


@dataclass(frozen=True, slots=True)
class Context:
    """The neighbours and the memory that the workflows of one process share."""

    settings: Settings
    node_id: str
    pools: Pools
    marks: Marks
    writer: DirectVolumeWriter
    metrics: Metrics
    cluster: Cluster = field(default_factory=NoCluster)
    locks: Locks = field(default_factory=Locks)

    @property
    def topology(self) -> Topology:
        """Where the volumes of this node's pools can be used."""
        return Topology({self.settings.topology_key: self.node_id})
