"""Paging through several pools as if they were one; a token says in which pool to go on, and where."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, TypeVar

import structlog

from katacsi.errors import InvalidPageToken, PoolUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from katacsi.backends.api import Backend, Page
    from katacsi.volumes.pools import Pools

T = TypeVar("T")

log = structlog.get_logger(__name__)

#: Entries of a page whose request sets no limit. Encoding one costs some 60 µs, and Go's clients refuse
#: replies above 4 MiB.
LARGEST_PAGE = 500


async def page(
    pools: Pools, token: str, max_entries: int, fetch: Callable[[Backend, str, int], Awaitable[Page[T]]]
) -> tuple[list[T], str]:
    """Give up to `max_entries` (0: as many as fit a reply) entries from a token on, and the next token.

    Pools come in the order of their names; one that cannot be used is left out, so that the others' entries
    can be had.

    Raises:
        InvalidPageToken: not a token of a former page.
    """
    room = min(max_entries or LARGEST_PAGE, LARGEST_PAGE)
    ordered = sorted(pools, key=lambda pool: pool.name)
    start, cursor = _read(token)
    if token and start not in {pool.name for pool in ordered}:
        raise InvalidPageToken(
            f"starting_token {token!r}: not a token of this driver; list again without one"
        )
    found: list[T] = []
    for pool in ordered:
        if pool.name < start:
            continue
        if len(found) == room:
            return found, _token(pool.name, "")
        try:
            backend = await pool.open()
        except PoolUnavailable as error:
            log.warning("pool left out of a list", pool=pool.name, error=error.message)
            continue
        part = await fetch(backend, cursor if pool.name == start else "", room - len(found))
        found += part.items
        if part.next_cursor:
            return found, _token(pool.name, part.next_cursor)
    return found, ""


def _token(pool: str, cursor: str) -> str:
    return base64.urlsafe_b64encode(f"{pool}:{cursor}".encode()).decode()


def _read(token: str) -> tuple[str, str]:
    if not token:
        return "", ""
    try:
        pool, _, cursor = base64.b64decode(token, altchars=b"-_", validate=True).decode().partition(":")
    except (
        ValueError
    ) as error:  # binascii.Error and UnicodeDecodeError are such, and so is a sign beyond ASCII
        raise InvalidPageToken(
            f"starting_token {token!r}: not a token of this driver; list again without one"
        ) from error
    return pool, cursor
