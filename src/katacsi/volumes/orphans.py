"""Volumes on this node to which no PersistentVolume of the cluster leads. They are told, and never deleted.

A PersistentVolume that was removed by hand (after Retain, or with its finalizer taken away) leaves its volume
behind, and only a person can say whether the bytes are worth something.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final

import structlog

from katacsi.backends.api import Scope
from katacsi.errors import KatacsiError
from katacsi.volumes import parameters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from katacsi.backends.api import Backend, Volume
    from katacsi.settings import Settings
    from katacsi.volumes.cluster import Cluster
    from katacsi.volumes.context import Context
    from katacsi.volumes.publish.marks import Marks

log = structlog.get_logger(__name__)

#: A younger volume may be one whose PersistentVolume is still being made.
GRACE_S: Final = 3600.0
#: The first look is at a random moment within so many seconds, so that not all nodes ask at once.
_FIRST_WITHIN_S: Final = 600.0
#: Volumes that are asked of a pool at once.
_PAGE: Final = 500


def suspects(volumes: Iterable[Volume], marks: Marks, settings: Settings, now: float) -> Mapping[str, str]:
    """Give the volumes worth a question, by id, with the names that they were made under.

    Not those in use here, nor young ones, nor those that were made for another cluster.
    """
    found = {}
    for volume in volumes:
        volume_id = str(volume.id)
        known = bool(volume.created_at)  # a record that cannot be read says nothing of its cluster
        ours = volume.attributes.get(parameters.CLUSTER, "") == settings.kube.cluster_name
        in_use = marks.stagings_of(volume_id) or marks.targets_of(volume_id)
        if known and ours and not in_use and now - volume.created_at > GRACE_S:
            found[volume_id] = volume.csi_name
    return found


async def among(
    volumes: Iterable[Volume], marks: Marks, settings: Settings, cluster: Cluster
) -> frozenset[str]:
    """Say which of these volumes are orphans, by id.

    Raises:
        KatacsiError: the cluster cannot be asked.
    """
    asked = suspects(volumes, marks, settings, time.time())
    return await cluster.without_persistent_volume(settings.driver_name, asked) if asked else frozenset()


class Orphans:
    """Looks for orphans now and then, as long as the driver serves; sets their metric.

    Attributes:
        known: the orphans' ids, as of the last look; None: nobody has looked yet.
    """

    def __init__(self, context: Context, cluster: Cluster) -> None:
        self.known: frozenset[str] | None = None
        self._context = context
        self._cluster = cluster
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look, where the setting has an interval."""
        if self._context.settings.kube.orphan_interval:
            self._task = asyncio.create_task(self._look_again_and_again())

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> None:
        """Look once. What cannot be read, or asked, leaves what was known of it."""
        found: set[str] = set()
        for pool in self._context.pools:
            if pool.scope is not Scope.LOCAL:
                continue
            try:
                volumes = [volume async for volume in _all(await pool.open())]
                here = await among(volumes, self._context.marks, self._context.settings, self._cluster)
            except KatacsiError as error:
                log.warning("not known which volumes are orphans", pool=pool.name, error=error.message)
                found |= {one for one in self.known or () if one.split(":")[1] == pool.name}
                continue
            self._context.metrics.orphaned_volumes.labels(pool.name).set(len(here))
            found |= here
        if new := sorted(found - (self.known or frozenset())):
            log.warning("volumes without a PersistentVolume; see docs/operations.md", volumes=new)
        self.known = frozenset(found)

    async def _look_again_and_again(self) -> None:
        interval = self._context.settings.kube.orphan_interval
        await asyncio.sleep(random.uniform(0, min(interval, _FIRST_WITHIN_S)))  # noqa: S311  # no secret
        while True:
            try:
                await self.look()
            except Exception:
                # A backend of another package may raise anything; the next look may do better.
                log.exception("looking for orphans failed")
            await asyncio.sleep(interval)


async def _all(backend: Backend) -> AsyncIterator[Volume]:
    cursor = ""
    while True:
        page = await backend.list(cursor, _PAGE)
        for volume in page.items:
            yield volume
        cursor = page.next_cursor
        if not cursor:
            return
