"""The size of a new volume, whatever its pool is made of."""

import pytest

from katacsi.backends.tools import sizes
from katacsi.errors import SizeOutOfRange
from katacsi.model import MIB, SizeRange


@pytest.mark.parametrize(
    ("wish", "source", "size"),
    [
        (SizeRange(), 0, MIB),
        (SizeRange(1), 0, MIB),
        (SizeRange(MIB + 1), 0, MIB + 4096),
        (SizeRange(3 * MIB, 3 * MIB), 0, 3 * MIB),
        (SizeRange(), 5 * MIB, 5 * MIB),
        (SizeRange(6 * MIB), 5 * MIB, 6 * MIB),
        (SizeRange(0, MIB - 1), 0, None),
        (SizeRange(MIB + 1, MIB + 4095), 0, None),
        (SizeRange(4 * MIB), 5 * MIB, None),
        (SizeRange(0, 4 * MIB), 5 * MIB, None),
    ],
)
def test_a_size_is_x_within_the_wish(wish, source, size):
    """Sizes are rounded up to whole units, never above the limit, never below the source."""
    if size is None:
        with pytest.raises(SizeOutOfRange, match=r"why|ask for the"):
            sizes.fitting(wish, source, MIB, 4096, "why")
    else:
        assert sizes.fitting(wish, source, MIB, 4096, "why") == size
