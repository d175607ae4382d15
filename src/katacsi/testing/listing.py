"""Conformance: lists are complete and stable, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from katacsi.errors import InvalidPageToken
from katacsi.testing.kit import ConformanceKit

if TYPE_CHECKING:
    from katacsi.backends.api import Volume
    from katacsi.testing.pools import PoolUnderTest


@pytest.mark.asyncio
class ListingTests(ConformanceKit):
    """list."""

    async def test_an_empty_pool_has_an_empty_list(self, pool: PoolUnderTest) -> None:
        """A new pool lists nothing, and says that nothing follows."""
        page = await pool.backend.list("", 0)
        assert page.items == ()
        assert page.next_cursor == ""

    @pytest.mark.parametrize("limit", [1, 2, 3])
    async def test_pages_are_the_list(self, pool: PoolUnderTest, limit: int) -> None:
        """Pages together hold each volume once, in the order of the whole list, also over a restart."""
        for number in range(self.volumes_at_once):
            await pool.create(f"pvc-{number}")
        whole = await pool.backend.list("", 0)
        assert whole.next_cursor == ""
        assert len(whole.items) == self.volumes_at_once
        found: list[Volume] = []
        cursor = ""
        while True:
            page = await pool.backend.list(cursor, limit)
            assert 0 < len(page.items) <= limit
            found += page.items
            cursor = page.next_cursor
            if not cursor:
                break
            await pool.restart()
        assert tuple(found) == whole.items

    async def test_a_list_goes_on_when_volumes_vanish(self, pool: PoolUnderTest) -> None:
        """A deleted volume costs no other its place: the pages go on, or are refused for a new start."""
        for number in range(self.volumes_at_once):
            await pool.create(f"pvc-{number}")
        whole = (await pool.backend.list("", 0)).items
        page = await pool.backend.list("", 2)
        await pool.delete(page.items[-1].id)
        try:
            rest = await pool.backend.list(page.next_cursor, 0)
        except InvalidPageToken:
            return
        assert rest.items == whole[2:]

    async def test_a_foreign_cursor_is_refused(self, pool: PoolUnderTest) -> None:
        """A cursor that this pool cannot have given out is refused, not taken for a beginning or an end."""
        await pool.create("a")
        with pytest.raises(InvalidPageToken):
            await pool.backend.list("!no cursor/", 0)
