"""Collects the volumes of pools, and where this node has each; nothing is locked, attached or made."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from katacsi.errors import KatacsiError, NotFound
from katacsi.inventory.views import View
from katacsi.model import MalformedId, VolumeId
from katacsi.volumes.publish.marks import Marks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from katacsi.backends.api import Backend, Volume
    from katacsi.settings import Settings
    from katacsi.volumes.pools import Pool, Pools

#: Volumes that are asked of a pool at once.
_PAGE = 500


async def marks_of(settings: Settings) -> Marks:
    """Read the driver's marks of this boot; without any, nothing was staged. Nothing is made here."""
    marks = Marks(settings.state_path)
    await marks.load(view=True)
    return marks


async def views_of(pool: Pool, marks: Marks) -> list[View]:
    """Give all volumes of a pool, in a stable order.

    Raises:
        KatacsiError: the pool cannot be read.
    """
    found, _ = await first_views_of(pool, marks, sys.maxsize)
    return found


async def first_views_of(pool: Pool, marks: Marks, at_most: int) -> tuple[list[View], bool]:
    """Give the first volumes of a pool, in a stable order, and whether they are all.

    Raises:
        KatacsiError: the pool cannot be read.
    """
    backend = await pool.open()
    found: list[View] = []
    cursor = ""
    while len(found) < at_most:
        page = await backend.list(cursor, min(_PAGE, at_most - len(found)))
        found += [view(volume, marks) for volume in page.items]
        cursor = page.next_cursor
        if not cursor:
            return found, True
    return found, False


def view(volume: Volume, marks: Marks) -> View:
    """Give a volume with the places where this node has it."""
    volume_id = str(volume.id)
    return View(volume, marks.stagings_of(volume_id), marks.targets_of(volume_id))


def marked(found: Sequence[View], orphans: frozenset[str] | None) -> list[View]:
    """Give volumes with the word whether they are orphans, by the ids of those that are; None: not known."""
    return [
        replace(one, orphaned=None if orphans is None else str(one.volume.id) in orphans) for one in found
    ]


async def find(pools: Pools, wanted: str) -> tuple[Backend, Volume]:
    """Find a volume by id, or by the name it was created under.

    Raises:
        NotFound: it is proven absent in every pool.
        KatacsiError: it is in none of the pools that can be read, and one cannot.
    """
    try:
        parsed = VolumeId.parse(wanted)
    except MalformedId:
        return await _by_name(pools, wanted)
    backend = await pools.holding(parsed)
    volume = await backend.get(parsed)
    if volume is None:
        raise NotFound(f"volume {wanted}: does not exist; see `katacsi volumes list`")
    return backend, volume


async def _by_name(pools: Pools, wanted: str) -> tuple[Backend, Volume]:
    unread: KatacsiError | None = None
    for pool in pools:
        try:
            backend = await pool.open()
            volume = await backend.find(wanted)
        except KatacsiError as error:
            unread = error
            continue
        if volume is not None:
            return backend, volume
    if unread is not None:
        raise unread
    raise NotFound(f"volume {wanted!r}: no pool has a volume of this name; see `katacsi volumes list`")
