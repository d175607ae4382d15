"""The lvm backend keeps the contract on real device-mapper with thin volumes, which share their blocks.

On a distribution's kernel, so that not all of LVM is tested on one that is made for another purpose.
"""

from typing import ClassVar

import pytest

from support import lvm_pools

UDEV = False
SECONDS = 560
ENGINE = "qemu"

volume_group = pytest.fixture(lvm_pools.volume_group, scope="module", name="volume_group")


class TestThin(lvm_pools.LvmConformance):
    """Thin volumes."""

    __test__ = True
    other_parameters: ClassVar = {"type": "linear"}
    kill_every: ClassVar = 33  # this engine takes three times as long as the other for a step
    settings: ClassVar = {"thin_pool": lvm_pools.THIN_POOL}
    # Names are LVM's business in the same way for all types: once is enough, as each takes long here.
    test_any_name_is_safe: ClassVar = None
