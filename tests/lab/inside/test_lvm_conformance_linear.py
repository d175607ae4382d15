"""The lvm backend keeps the contract on real device-mapper with linear volumes: zeroed, copied in full."""

from typing import ClassVar

import pytest

from support import lvm_pools

UDEV = False
SECONDS = 260

volume_group = pytest.fixture(lvm_pools.volume_group, scope="module", name="volume_group")


class TestLinear(lvm_pools.LvmConformance):
    """Linear volumes."""

    __test__ = True
    other_parameters: ClassVar = {"type": "striped"}
