"""The size of a new volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.backends.common import refusals
from katacsi.backends.loopfile.settings import SECTOR_SIZE
from katacsi.errors import SizeOutOfRange

if TYPE_CHECKING:
    from katacsi.model import SizeRange


def fitting_size(wish: SizeRange, minimum: int, source: int) -> int:
    """Give the smallest size in whole sectors that meets a request and holds its source.

    Raises:
        SizeOutOfRange: there is none.
    """
    refusals.check_holds(wish, source)
    least = max(wish.required, minimum, source)
    size_bytes = in_sectors(least)
    if not wish.admits(size_bytes):
        raise SizeOutOfRange(
            f"no size fits: the limit is {wish.limit} bytes, and the smallest volume for this request has "
            f"{size_bytes} (whole sectors of {SECTOR_SIZE} bytes, at least {minimum})"
        )
    return size_bytes


def in_sectors(size_bytes: int) -> int:
    """Round up to whole sectors."""
    return -(-size_bytes // SECTOR_SIZE) * SECTOR_SIZE
