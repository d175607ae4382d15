"""Sizes are read as Kubernetes writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katacsi.model import format_size, is_storage_name, parse_size, storage_name


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("1Ki", 1 << 10),
        ("1.5Gi", 3 << 29),
        ("10Ti", 10 << 40),
        ("20G", 20 * 10**9),
        ("3k", 3000),
        ("0.5Ki", 512),
        ("1Ei", 1 << 60),
    ],
)
def test_a_quantity_is_bytes(text, size):
    """Binary and decimal units, and fractions that make whole bytes, are understood."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "Gi", "-1", -1, "1 Gi", "1gi", "1Gib", "0.1", "1.5", True, None, 1.5, "1.0001Ki", "\u0661"],
)
def test_what_is_no_quantity_is_refused(text):
    """Everything else is refused, with an example of what is legal."""
    with pytest.raises(ValueError, match=r"512Mi|whole number"):
        parse_size(text)


@given(st.integers(0, 1 << 62))
def test_a_written_size_is_near_the_size(size):
    """What people read differs from the size by less than the digits that are shown."""
    text = format_size(size)
    if text.endswith("bytes"):
        assert int(text.split()[0]) == size
    else:
        unit = 1024 ** ("KMGTPE".index(text[-2]) + 1)
        assert abs(float(text[:-2]) * unit - size) <= unit / 100


@given(st.text(max_size=128))
def test_every_name_has_a_storage_name(name):
    """Whatever a caller calls a volume, storage has a safe name for it: the same, or a hash."""
    safe = storage_name(name)
    assert is_storage_name(safe)
    assert safe == name or safe.startswith("h-")
