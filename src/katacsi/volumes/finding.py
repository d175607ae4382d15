"""Looking up what an id names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.errors import NotFound, Precondition
from katacsi.model import VolumeId
from katacsi.volumes.pools import parse_id

if TYPE_CHECKING:
    from katacsi.backends.api import Backend, Volume
    from katacsi.volumes.pools import Pools


async def find_volume(pools: Pools, volume_id: str) -> tuple[Backend, Volume]:
    """Give a volume and the backend that holds it.

    Raises:
        NotFound: malformed, proven absent, or in a pool that is not on this node.
    """
    parsed = parse_id(VolumeId, volume_id)
    backend = await backend_of(pools, parsed)
    return backend, await look_up(backend, parsed)


async def backend_of(pools: Pools, volume_id: VolumeId) -> Backend:
    """Give the backend that holds a volume, if there is one.

    Raises:
        NotFound: its pool is not on this node.
    """
    try:
        return await pools.holding(volume_id)
    except Precondition as elsewhere:
        raise NotFound(elsewhere.message) from elsewhere


async def look_up(backend: Backend, volume_id: VolumeId) -> Volume:
    """Give a volume of a backend.

    Raises:
        NotFound: it is proven absent.
    """
    volume = await backend.get(volume_id)
    if volume is None:
        raise NotFound(f"volume {volume_id}: does not exist")
    return volume
