"""Paging through several pools."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katacsi.backends.api import Page
from katacsi.errors import InvalidPageToken, PoolUnavailable
from katacsi.volumes import listing


class ShelfPool:
    """A pool whose objects are the strings it was given, in their order."""

    def __init__(self, name, items, *, missing=False):
        self.name = name
        self.items = items
        self.missing = missing

    async def open(self):
        if self.missing:
            raise PoolUnavailable(f"pool {self.name}: missing")
        return self


async def fetch(pool, cursor, limit):
    """Give the items behind the cursor, which is the number of those that were given."""
    start = int(cursor or 0)
    part = pool.items[start : start + limit]
    more = start + len(part) < len(pool.items)
    return Page(tuple(part), str(start + len(part)) if more else "")


async def everything(pools, max_entries):
    """Follow the tokens to the end; give the pages."""
    token, pages = "", []
    while True:
        page, token = await listing.page(pools, token, max_entries, fetch)
        pages.append(page)
        assert len(pages) < 1000, "the list has no end"
        if not token:
            return pages


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c", "default"]), st.integers(0, 12), min_size=1),
    st.integers(0, 15),
)
async def test_every_entry_is_shown_once(sizes, max_entries):
    """However the pages are cut, all entries of all pools come once, and no page is too long."""
    pools = [ShelfPool(name, [f"{name}{i}" for i in range(size)]) for name, size in sizes.items()]
    pages = await everything(pools, max_entries)
    assert [entry for page in pages for entry in page] == [
        f"{name}{i}" for name in sorted(sizes) for i in range(sizes[name])
    ]
    if max_entries:
        assert all(len(page) <= max_entries for page in pages)
        assert all(len(page) == max_entries for page in pages[:-1])


async def test_a_page_is_never_larger_than_a_reply():
    """Without a wish, and with a wish that is too large, the list comes in pages that fit."""
    pools = [ShelfPool("a", [str(i) for i in range(listing.LARGEST_PAGE + 1)])]
    for wish in (0, 10**9):
        page, token = await listing.page(pools, "", wish, fetch)
        assert len(page) == listing.LARGEST_PAGE
        assert token


async def test_a_missing_pool_is_left_out():
    """The others' entries can be had meanwhile."""
    pools = [ShelfPool("a", ["a0"]), ShelfPool("b", [], missing=True), ShelfPool("c", ["c0"])]
    assert await everything(pools, 1) == [["a0"], ["c0"]]


@given(st.text() | st.binary().map(lambda data: base64.urlsafe_b64encode(data).decode()))
async def test_a_strange_token_is_refused(token):
    """Whatever somebody sends as a token is refused as one, and nothing else happens."""
    pools = [ShelfPool("pool-a", ["a0"])]
    try:
        page, _ = await listing.page(pools, token, 0, fetch)
    except InvalidPageToken:
        return
    assert not token
    assert page == ["a0"]


async def test_a_token_of_a_pool_that_is_gone_is_refused():
    """A list that was begun under another configuration starts again, instead of leaving entries out."""
    many = [ShelfPool(name, [name + "0", name + "1"]) for name in "abc"]
    _, token = await listing.page(many, "", 3, fetch)
    with pytest.raises(InvalidPageToken, match="without one"):
        await listing.page([many[0], many[2]], token, 3, fetch)
