"""GetCapacity: what volumes of a StorageClass can still have here, less what is being made at this moment.

The scheduler asks before anybody calls CreateVolume, and a refusal reaches no person: the provisioner then
publishes no capacity, and the scheduler says "not enough free storage", whatever is wrong. So a mistake in a
StorageClass is passed over here, and CreateVolume refuses it in words.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from katacsi.backends.api import Capacity, Reserving
from katacsi.errors import InvalidRequest, OutOfSpace, PoolUnavailable, Precondition
from katacsi.volumes import parameters

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from katacsi.backends.api import Backend
    from katacsi.volumes.context import Context
    from katacsi.volumes.pools import Pool
    from katacsi.volumes.requests import GetCapacity

log = structlog.get_logger(__name__)

_NONE = Capacity(0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Making:
    """A volume that a call in this process is making."""

    pool: str
    csi_name: str
    size_bytes: int


class Room:
    """What the pools can still give, and what of it is spoken for."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._making: set[_Making] = set()

    @contextmanager
    def being_made(self, pool: str, csi_name: str, size_bytes: int) -> Iterator[None]:
        """Keep the room of a volume from others for as long as it is being made."""
        making = _Making(pool, csi_name, size_bytes)
        self._making.add(making)
        try:
            yield
        finally:
            self._making.remove(making)

    async def left(self, request: GetCapacity) -> Capacity:
        """Say how much room there is for volumes of a StorageClass; none where they cannot be.

        A parameter that CreateVolume will refuse is passed over. A pool that is not configured is such a
        mistake, too, since all drivers of a release have the same pools: with 0 on every node the scheduler
        would keep the pod back, and CreateVolume would never say why. The answer is that of the pool with
        the most room.
        """
        if request.topology is not None and not self._context.is_here(request.topology.segments):
            return _NONE
        if not all(capability.access_mode.single_node for capability in request.capabilities):
            return _NONE
        found = [await self._of(pool, request.parameters) for pool in self._meant(request.parameters)]
        return max(found, key=lambda capacity: capacity.maximum_volume_bytes, default=_NONE)

    def _meant(self, raw: Mapping[str, str]) -> Iterable[Pool]:
        try:
            return [self._context.pools.choose(raw.get(parameters.POOL, ""))]
        except (OutOfSpace, Precondition):
            return self._context.pools

    async def _of(self, pool: Pool, raw: Mapping[str, str]) -> Capacity:
        try:
            backend = await pool.open()
            # Before the pool is asked: what it counts by then is taken off twice, rather than not at all.
            spoken_for = await self._spoken_for(pool, backend)
            found = await _forgiving(backend, pool.own_parameters(raw))
        except PoolUnavailable as error:
            log.warning("a pool that cannot be used has no room", pool=pool.name, error=error.message)
            return _NONE
        available = max(0, found.available_bytes - spoken_for)
        return Capacity(available, min(found.maximum_volume_bytes, available), found.minimum_volume_bytes)

    async def _spoken_for(self, pool: Pool, backend: Backend) -> int:
        """Give the bytes of volumes that are being made and that the pool does not count yet."""
        ours = [making for making in self._making if making.pool == pool.name]
        return sum([making.size_bytes for making in ours if not await _counted(backend, making.csi_name)])


async def _counted(backend: Backend, csi_name: str) -> bool:
    if isinstance(backend, Reserving):
        return await backend.reserved(csi_name)
    return await backend.find(csi_name) is not None


async def _forgiving(backend: Backend, own: dict[str, str]) -> Capacity:
    """Ask for the capacity without the parameters that the backend refuses."""
    while True:
        try:
            return await backend.capacity(own)
        except InvalidRequest as error:
            if not own:
                raise
            wrong = {key for key in own if error.field.endswith(f"/{key}")}
            own = {key: value for key, value in own.items() if wrong and key not in wrong}
