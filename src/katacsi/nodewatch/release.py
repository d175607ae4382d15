"""Deletes, of a node that is gone, the objects in the API that nobody else can ever delete.

Every write names the object by UID and version, as it was read a moment before, so that it does nothing to
what another watcher, a person, or a controller has changed or made anew. Storage is never touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from katacsi.errors import NotFound, OperationPending
from katacsi.kube import paths
from katacsi.kube.volumes import FINALIZER, PersistentVolume
from katacsi.nodewatch.decision import Verdict
from katacsi.nodewatch.presence import is_absent

if TYPE_CHECKING:
    from katacsi.kube.client import ClusterApi
    from katacsi.kube.volumes import StorageCapacity
    from katacsi.metrics import NodeWatchMetrics
    from katacsi.nodewatch.decision import Rules

log = structlog.get_logger(__name__)

#: Kubernetes' own protection of the volume goes when its deletion begins, which changes the version once.
_ATTEMPTS: Final = 3


class Releaser:
    """Releases what a gone node left in the API; what changed meanwhile is left for the next look.

    Every method may raise `KatacsiError`, as `ClusterApi` does.

    Args:
        api: the client.
        rules: by what is decided.
        metrics: what is counted.
    """

    def __init__(self, api: ClusterApi, rules: Rules, metrics: NodeWatchMetrics) -> None:
        self._api = api
        self._rules = rules
        self._metrics = metrics

    async def volume(self, seen: PersistentVolume, node: str, absent_s: float) -> None:
        """Delete a PersistentVolume object, if all that spoke for it is still so."""
        fresh = await self._read(seen)
        if fresh is None or self._rules.node_of(fresh) != node:
            return
        if self._rules.verdict(fresh, absent_s) is not Verdict.RELEASE:
            return
        if not await is_absent(self._api, self._rules.topology_key, node):
            return
        path, what = paths.persistent_volume(fresh.ref.name), str(fresh.ref)
        try:
            # First: a provisioner puts its finalizer on again, but never where the deletion has begun.
            if not fresh.deleting:
                await self._api.delete(path, uid=fresh.ref.uid, version=fresh.version, what=what)
            await self._let_go(fresh)
        except (NotFound, OperationPending) as error:
            log.info("volume changed while it was released", volume=fresh.ref.name, error=error.message)
            return
        self._metrics.released.labels(fresh.ref.kind).inc()
        log.warning(
            "volume of a gone node released",
            persistent_volume=fresh.ref.name,
            volume_id=fresh.handle,
            node=node,
            claim=str(fresh.claim or ""),
        )

    async def capacity(self, seen: StorageCapacity, node: str) -> None:
        """Delete a CSIStorageCapacity object; the node's provisioner makes it again, should it come back."""
        if not await is_absent(self._api, self._rules.topology_key, node):
            return
        path = paths.storage_capacities(seen.ref.namespace, seen.ref.name)
        try:
            await self._api.delete(path, uid=seen.ref.uid, version=seen.version, what=str(seen.ref))
        except (NotFound, OperationPending):
            return
        self._metrics.released.labels(seen.ref.kind).inc()
        log.info("capacity of a gone node deleted", capacity=seen.ref.name, node=node)

    async def _let_go(self, volume: PersistentVolume) -> None:
        """Take the provisioner's finalizer off a volume whose deletion has begun; other finalizers stay."""
        for attempt in range(1, _ATTEMPTS + 1):
            now = await self._read(volume)
            if now is None or FINALIZER not in now.finalizers:
                return
            kept = [each for each in now.finalizers if each != FINALIZER]
            only = {"uid": now.ref.uid, "resourceVersion": now.version}
            try:
                await self._api.patch(
                    paths.persistent_volume(now.ref.name),
                    {"metadata": {**only, "finalizers": kept}},
                    what=str(now.ref),
                )
            except OperationPending:
                if attempt == _ATTEMPTS:
                    raise
            else:
                return

    async def _read(self, volume: PersistentVolume) -> PersistentVolume | None:
        """Read a volume; None: it is gone, or another one has its name."""
        path = paths.persistent_volume(volume.ref.name)
        try:
            now = PersistentVolume.of(await self._api.get(path, what=str(volume.ref)))
        except NotFound:
            return None
        return now if now.ref.uid == volume.ref.uid else None
