"""The real csi-sanity suite against the driver with an lvm pool: linear volumes that are mounted.

With udev, as on most nodes; what mode and kind have to do with each other is tested on the host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support import lvm_pools, lvm_sanity

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECONDS = 150


@pytest.fixture(scope="module")
def volume_group():
    """A volume group with a thin pool that has room for the suite."""
    yield from lvm_pools.volume_group("1G")


@pytest.mark.timeout(1200)
def test_the_suite_passes(volume_group: str, scratch: Path, gotool: Callable[[str], Path]) -> None:
    """csi-sanity finds nothing wrong with linear volumes that are mounted."""
    lvm_sanity.assert_passes(gotool("csi-sanity"), scratch, volume_group, kind="linear", mode="host")
