"""Looks at the pools of a driver while it serves: in steps, for a bounded time, and never twice at once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from katacsi.errors import KatacsiError
from katacsi.inventory import collecting
from katacsi.model import VolumeId

if TYPE_CHECKING:
    from katacsi.backends.api import Capacity
    from katacsi.inventory.views import View
    from katacsi.volumes.context import Context
    from katacsi.volumes.orphans import Orphans
    from katacsi.volumes.pools import Pool
    from katacsi.volumes.publish.mark import Published, Staged

log = structlog.get_logger(__name__)

#: More volumes than this are not shown at once; `katacsi volumes list` has all.
MOST_VOLUMES = 1000
#: How long a pool may take, in seconds; a page's connection lasts for five.
PATIENCE_S = 3.0


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool, and what is in it.

    Attributes:
        name, backend_name, scope: as configured.
        volumes: the first `MOST_VOLUMES` of them at most.
        complete: whether that is all.
        capacity: the room for more; None: nobody can tell.
        problem: why the pool cannot be used; empty: it can.
    """

    name: str
    backend_name: str
    scope: str
    volumes: tuple[View, ...] = ()
    complete: bool = True
    capacity: Capacity | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a node has, at a moment.

    Attributes:
        driver_name, version, node_id: who tells it.
        taken_at: the moment, in seconds since the epoch.
        pools: by their names.
        unseen: stagings and publishes of this boot whose volume is in no pool that could be read.
    """

    driver_name: str
    version: str
    node_id: str
    taken_at: float
    pools: tuple[PoolView, ...]
    unseen: tuple[Staged | Published, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every volume of every pool is among them."""
        return all(pool.complete and not pool.problem for pool in self.pools)


class Lookout:
    """Takes inventories. A look at a pool that hangs goes on alone, and no second one joins it."""

    def __init__(
        self,
        context: Context,
        version: str,
        *,
        orphans: Orphans | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._context = context
        self._orphans = orphans
        self._version = version
        self._patience_s = patience_s
        self._looks: dict[str, asyncio.Task[PoolView]] = {}

    async def take(self) -> Inventory:
        """Take an inventory; a pool that does not answer in time is named, with what is wrong."""
        pools = sorted(self._context.pools, key=lambda pool: pool.name)
        looks = [self._look(pool) for pool in pools]
        if looks:
            await asyncio.wait(looks, timeout=self._patience_s)
        found = [self._result(pool, look) for pool, look in zip(pools, looks, strict=True)]
        return Inventory(
            driver_name=self._context.settings.driver_name,
            version=self._version,
            node_id=self._context.node_id,
            taken_at=time.time(),
            pools=_within_limit(found),
            unseen=self._unseen(found),
        )

    async def close(self) -> None:
        """Give up the looks that have not ended; what they do in threads ends there."""
        for look in self._looks.values():
            look.cancel()
        await asyncio.gather(*self._looks.values(), return_exceptions=True)

    def _look(self, pool: Pool) -> asyncio.Task[PoolView]:
        look = self._looks.get(pool.name)
        if look is None or look.done():
            look = self._looks[pool.name] = asyncio.create_task(self._pool(pool))
        return look

    async def _pool(self, pool: Pool) -> PoolView:
        try:
            volumes, complete = await collecting.first_views_of(pool, self._context.marks, MOST_VOLUMES)
            capacity = await (await pool.open()).capacity({})
        except KatacsiError as error:
            return _unusable(pool, error.message)
        except Exception as error:
            # A backend of another package may raise anything; the other pools are shown all the same.
            log.exception("pool cannot be shown", pool=pool.name)
            return _unusable(pool, f"pool {pool.name!r}: {type(error).__name__}; see the driver's log")
        if self._orphans is not None:
            volumes = collecting.marked(volumes, self._orphans.known)
        scope = pool.scope.value
        return PoolView(pool.name, pool.backend_name, scope, tuple(volumes), complete, capacity)

    def _result(self, pool: Pool, look: asyncio.Task[PoolView]) -> PoolView:
        if not look.done():
            return _unusable(
                pool,
                f"pool {pool.name!r}: has not answered for {self._patience_s:g} s; see whether its storage "
                "hangs",
            )
        return look.result()

    def _unseen(self, pools: list[PoolView]) -> tuple[Staged | Published, ...]:
        seen = {str(view.volume.id) for pool in pools for view in pool.volumes}
        # A volume of a pool that was cut short may be further down.
        cut_short = tuple(f"{VolumeId.PREFIX}:{pool.name}:" for pool in pools if not pool.complete)
        marks: list[Published | Staged] = [
            *self._context.marks.all_published(),
            *self._context.marks.all_staged(),
        ]
        return tuple(
            mark
            for mark in sorted(marks, key=lambda mark: (mark.volume_id, mark.path))
            if mark.volume_id not in seen and not mark.volume_id.startswith(cut_short)
        )


def _unusable(pool: Pool, problem: str) -> PoolView:
    return PoolView(pool.name, pool.backend_name, pool.scope.value, problem=problem)


def _within_limit(pools: list[PoolView]) -> tuple[PoolView, ...]:
    """Cut the list off after `MOST_VOLUMES` in all."""
    room = MOST_VOLUMES
    kept: list[PoolView] = []
    for pool in pools:
        shown = pool.volumes[:room]
        room -= len(shown)
        complete = pool.complete and len(shown) == len(pool.volumes)
        kept.append(replace(pool, volumes=shown, complete=complete))
    return tuple(kept)
