"""Pages of a list, in the order of storage names; a page costs its own records and a scan of names."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, TypeVar

from katacsi.backends.api import Page
from katacsi.errors import InvalidPageToken
from katacsi.model import is_storage_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")


def page(names: Iterable[str], cursor: str, limit: int, look: Callable[[str], T | None]) -> Page[T]:
    """Give the objects after the cursor, which is the last name of the former page.

    A name that vanished between the pages, or since the scan, is passed over; none is shown twice.

    Raises:
        InvalidPageToken: the cursor is none of ours.
    """
    if cursor and not is_storage_name(cursor):
        raise InvalidPageToken(f"{cursor!r} is no position in this pool; start again without a token")
    ordered = sorted(names)
    items: list[T] = []
    last = cursor
    for position in range(bisect.bisect_right(ordered, cursor), len(ordered)):
        item = look(ordered[position])
        if item is None:
            continue
        if limit and len(items) == limit:
            return Page(tuple(items), next_cursor=last)
        items.append(item)
        last = ordered[position]
    return Page(tuple(items))
