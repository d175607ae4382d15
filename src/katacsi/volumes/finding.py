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
    try:
        backend = await pools.holding(parsed)
    except Precondition as elsewhere:
        raise NotFound(elsewhere.message) from elsewhere
    volume = await backend.get(parsed)
    if volume is None:
        raise NotFound(f"volume {volume_id}: does not exist")
    return backend, volume
