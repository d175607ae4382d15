"""One look at the cluster after another: which nodes are gone, and what that means for their volumes."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from katacsi.errors import KatacsiError
from katacsi.kube.volumes import capacities_of, volumes_of
from katacsi.nodewatch.absences import Absences
from katacsi.nodewatch.decision import Verdict
from katacsi.nodewatch.presence import is_absent, present_nodes
from katacsi.nodewatch.release import Releaser
from katacsi.nodewatch.telling import Teller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from katacsi.kube.client import ClusterApi
    from katacsi.kube.volumes import PersistentVolume, StorageCapacity
    from katacsi.metrics import NodeWatchMetrics
    from katacsi.nodewatch.decision import Rules
    from katacsi.nodewatch.telling import Tell

log = structlog.get_logger(__name__)

#: Each is 0 on the page, rather than missing, when there is none.
_PHASES = ("Available", "Bound", "Released", "Failed", "Pending")


@dataclass(slots=True)
class _OnNode:
    """What the API has of one node."""

    volumes: list[PersistentVolume] = field(default_factory=list)
    capacities: list[StorageCapacity] = field(default_factory=list)


class NodeWatcher:
    """Watches the nodes that volumes of one driver are on.

    Args:
        api: the client.
        rules: by what is decided.
        interval_s: how far looks are apart, as a rule.
        namespace: where the provisioners' capacity objects are.
        tell: writes an Event on an object.
        metrics: what is counted.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        api: ClusterApi,
        rules: Rules,
        *,
        interval_s: float,
        namespace: str,
        tell: Tell,
        metrics: NodeWatchMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._rules = rules
        self._namespace = namespace
        self._metrics = metrics
        self._clock = clock
        self._absences = Absences(longest_s=2 * interval_s)
        self._teller = Teller(tell, release=rules.release)
        self._releaser = Releaser(api, rules, metrics)

    async def look(self) -> None:
        """Look once, tell what there is to be told, and release what may be.

        Raises:
            KatacsiError: the API could not be asked, or does not permit it; nothing is concluded from that.
        """
        try:
            # The nodes last: what is made on a new node meanwhile is not taken for a gone one's.
            known = await self._known()
            present = await present_nodes(self._api, self._rules.topology_key)
        except KatacsiError:
            self._absences.could_not_look()
            raise
        absent = known.keys() - present
        for node in sorted(node for node in absent if self._absences.of(node) is None):
            log.warning("node is absent", node=node, volumes=len(known[node].volumes))
        self._absences.saw(absent, self._clock())
        gone = {node: known[node] for node in sorted(absent) if await self._is_gone(node)}
        self._show(gone)
        self._teller.tell(self._waiting(gone), self._clock())
        for node, there in gone.items():
            await self._release(node, there)
        self._metrics.last_look.set_to_current_time()

    async def _known(self) -> dict[str, _OnNode]:
        """Give the nodes that the API has something of."""
        known: dict[str, _OnNode] = {}
        async for volume in volumes_of(self._api, self._rules.driver):
            if node := self._rules.node_of(volume):
                known.setdefault(node, _OnNode()).volumes.append(volume)
        if self._rules.release:
            async for capacity in capacities_of(self._api, self._rules.driver, self._namespace):
                if node := capacity.place(self._rules.topology_key):
                    known.setdefault(node, _OnNode()).capacities.append(capacity)
        return known

    async def _is_gone(self, node: str) -> bool:
        """Whether a node was absent for the grace period, and is so now."""
        absent_s = self._absences.of(node)
        if absent_s is None or absent_s < self._rules.grace_s:
            return False
        if await is_absent(self._api, self._rules.topology_key, node):
            return True
        self._absences.is_back(node)
        return False

    def _waiting(self, gone: dict[str, _OnNode]) -> Iterator[tuple[PersistentVolume, str]]:
        for node, there in gone.items():
            for volume in there.volumes:
                if self._rules.verdict(volume, self._absences.of(node)) is Verdict.TELL:
                    yield volume, node

    async def _release(self, node: str, there: _OnNode) -> None:
        for volume in there.volumes:
            absent_s = self._absences.of(node)
            if self._rules.verdict(volume, absent_s) is Verdict.RELEASE and absent_s is not None:
                await self._releaser.volume(volume, node, absent_s)
        for capacity in there.capacities:
            await self._releaser.capacity(capacity, node)

    def _show(self, gone: dict[str, _OnNode]) -> None:
        self._metrics.nodes_gone.set(len(gone))
        phases = Counter(volume.phase for there in gone.values() for volume in there.volumes)
        for phase in _PHASES:
            self._metrics.volumes_of_gone_nodes.labels(phase).set(phases[phase])
