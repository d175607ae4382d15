"""The size of a new volume: the smallest that meets a request and holds its source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.errors import SizeOutOfRange

if TYPE_CHECKING:
    from katacsi.model import SizeRange


def fitting(wish: SizeRange, source: int, minimum: int, unit: int, steps: str) -> int:
    """Give the smallest multiple of `unit` bytes, but at least `minimum` (itself one), for a request.

    `source` is the size of what the volume is a copy of, or 0; `steps` says in words why sizes are so.

    Raises:
        SizeOutOfRange: there is none, or a size below the source's was asked for.
    """
    if 0 < wish.required < source:
        raise SizeOutOfRange(
            f"{wish.required} bytes were asked for; ask for the {source} of the source, or more"
        )
    size_bytes = in_units(max(wish.required, source, minimum), unit)
    if not wish.admits(size_bytes):
        raise SizeOutOfRange(
            f"no size fits: the limit is {wish.limit} bytes, and the smallest volume for this request has "
            f"{size_bytes} ({steps})"
        )
    return size_bytes


def in_units(size_bytes: int, unit: int) -> int:
    """Round up to whole units."""
    return -(-size_bytes // unit) * unit
