"""Pages of a list, in the order of storage names."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, TypeVar

from katacsi.backends.api import Page
from katacsi.errors import InvalidPageToken
from katacsi.model import is_storage_name

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")


def page(items: Mapping[str, T], cursor: str, limit: int) -> Page[T]:
    """Give the items whose names come after the cursor, which is the last name of the former page.

    Raises:
        InvalidPageToken: the cursor is none of ours.
    """
    if cursor and not is_storage_name(cursor):
        raise InvalidPageToken(f"{cursor!r} is no position in this pool; start again without a token")
    names = sorted(items)
    names = names[bisect.bisect_right(names, cursor) :]
    if limit and len(names) > limit:
        return Page(tuple(items[name] for name in names[:limit]), next_cursor=names[limit - 1])
    return Page(tuple(items[name] for name in names))
