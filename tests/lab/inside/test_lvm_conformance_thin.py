"""The lvm backend keeps the contract on real device-mapper with thin volumes, which share their blocks."""

from typing import ClassVar

import pytest

from support import lvm_pools

UDEV = False
SECONDS = 140

volume_group = pytest.fixture(lvm_pools.volume_group, scope="module", name="volume_group")


class TestThin(lvm_pools.LvmConformance):
    """Thin volumes."""

    __test__ = True
    other_parameters: ClassVar = {"type": "linear"}
    settings: ClassVar = {"thin_pool": lvm_pools.THIN_POOL}
