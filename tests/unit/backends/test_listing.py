"""Pages of names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katacsi.backends.tools.listing import page
from katacsi.errors import InvalidPageToken

NAMES = st.sets(st.text("abc-1", min_size=1, max_size=4).map(lambda text: "x" + text))


@given(NAMES, NAMES, st.integers(1, 4))
def test_pages_hold_each_object_once(names, vanished, limit):
    """Pages together are the sorted names, without those that vanished after the scan."""
    found, cursor = [], ""
    while True:
        part = page(names, cursor, limit, lambda name: None if name in vanished else name)
        assert len(part.items) <= limit
        found += part.items
        cursor = part.next_cursor
        if not cursor:
            break
    assert found == sorted(names - vanished)


def test_a_page_looks_at_its_own_objects_only():
    """A page of ten thousand costs its own records, and one more to know whether it is the last."""
    looked = []
    names = [f"pvc-{number:05}" for number in range(10_000)]
    page(names, "pvc-05000", 10, lambda name: looked.append(name) or name)
    assert looked == names[5001:5012]


def test_a_cursor_of_another_kind_is_refused():
    """A cursor that is no storage name was not given out here."""
    with pytest.raises(InvalidPageToken):
        page(["a"], "../a", 0, str)
