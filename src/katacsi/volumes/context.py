"""What every workflow works with, put together once by the composition root."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from katacsi.model import Topology
from katacsi.volumes.locks import Locks
from katacsi.volumes.volume import NodeVolumes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from katacsi.directvolume.writer import DirectVolumeWriter
    from katacsi.metrics import Metrics
    from katacsi.settings import Settings
    from katacsi.volumes.cluster import Cluster
    from katacsi.volumes.layers import Layer
    from katacsi.volumes.pools import Pools
    from katacsi.volumes.publish.marks import Marks


@dataclass(frozen=True, slots=True)
class Context:
    """The neighbours and the memory that the workflows of one process share."""

    settings: Settings
    node_id: str
    pools: Pools
    marks: Marks
    writer: DirectVolumeWriter
    metrics: Metrics
    cluster: Cluster | None = None
    layers: tuple[Layer, ...] = ()
    locks: Locks = field(default_factory=Locks)
    volumes: NodeVolumes = field(init=False)

    def __post_init__(self) -> None:
        volumes = NodeVolumes(self.pools, self.marks, self.locks, self.layers)
        object.__setattr__(self, "volumes", volumes)

    @property
    def topology(self) -> Topology:
        """Where the volumes of this node's pools can be used."""
        return Topology({self.settings.topology_key: self.node_id})

    def is_here(self, segments: Mapping[str, str]) -> bool:
        """Whether this node is in a place that a topology names."""
        return all(self.topology.segments.get(key) == value for key, value in segments.items())
