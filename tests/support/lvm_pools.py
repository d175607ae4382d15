"""The lvm backend in the kit for authors of backends, on the disks of the lab's machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

from katacsi.backends.lvm import LvmBackend, LvmSettings
from katacsi.testing import BackendConformance
from support.real_lvm import VG, run

if TYPE_CHECKING:
    from collections.abc import Iterator

THIN_POOL = "thinpool"
DISKS = [Path(f"/dev/ubd{letter}") for letter in "bcdef"]


def volume_group(thin_pool: str = "256M") -> Iterator[str]:
    """Make a volume group with a thin pool, for a fixture of a module: each command takes long here."""
    run("vgcreate", "--yes", VG, *DISKS)
    run("lvcreate", "--yes", "--type", "thin-pool", "--size", thin_pool, "--name", THIN_POOL, VG)
    yield VG
    run("vgremove", "--force", "--yes", VG)
    run("wipefs", "--all", "--quiet", *DISKS)


class LvmConformance(BackendConformance):
    """What is the same for all LVM pools."""

    __test__ = False

    entry_point = "lvm"
    volumes_at_once: ClassVar = 3  # each command takes this machine half a second
    illegal_parameters: ClassVar = {"type": "mirror"}
    settings: ClassVar = {}

    @pytest.fixture
    def make_backend(self, volume_group):
        settings = LvmSettings(volume_group=volume_group, devices=("/dev/ubd*",), **self.settings)
        return lambda context: LvmBackend(settings, context)

    async def test_copies_are_of_one_moment(self, pool):
        """A snapshot is cut at one moment, and the pool says so."""
        assert pool.backend.features.atomic_copies
