"""The size of a new volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.backends.common import refusals
from katacsi.errors import SizeOutOfRange

if TYPE_CHECKING:
    from katacsi.backends.lvm.layout import Layout
    from katacsi.backends.lvm.report import Group
    from katacsi.model import SizeRange


def fitting_extents(group: Group, layout: Layout, wish: SizeRange, source: int) -> int:
    """Give the smallest number of extents that meets a request and holds its source.

    Raises:
        SizeOutOfRange: there is none.
    """
    refusals.check_holds(wish, source)
    extents = layout.fitting(max(1, group.extents(max(wish.required, source))))
    size_bytes = extents * group.extent_size
    if not wish.admits(size_bytes):
        unit = group.extent_size * layout.stripes
        raise SizeOutOfRange(
            f"no size fits: the limit is {wish.limit} bytes, and the smallest volume for this request has "
            f"{size_bytes} (a {layout.type.value} volume grows in steps of {unit} bytes in volume group "
            f"{group.name})"
        )
    return extents
