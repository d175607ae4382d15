"""The loopfile backend keeps the contract, on a filesystem that copies bytes and on one that shares blocks."""

import subprocess

import pytest

from katacsi.backends.loopfile import LoopfileBackend, LoopfileSettings
from katacsi.model import MIB
from katacsi.testing import BackendConformance


class LoopfileConformance(BackendConformance):
    """What is the same for all loopfile pools."""

    __test__ = False

    entry_point = "loopfile"
    other_parameters = {"allocation": "thick"}
    illegal_parameters = {"allocation": "thin"}
    settings: dict[str, object] = {}

    @pytest.fixture
    def make_backend(self, pool_folder):
        settings = LoopfileSettings(directory=pool_folder, **self.settings)
        return lambda context: LoopfileBackend(settings, context)


@pytest.fixture
def mounted(scratch):
    """Mount a filesystem of its own for a pool: mounted(type, MiB, mkfs options...)."""
    points = []

    def mount(kind, size_mib, *options):
        image, point = scratch / f"{kind}.img", scratch / f"{kind}-pool"
        with image.open("wb") as file:
            file.truncate(size_mib * MIB)
        subprocess.run([f"mkfs.{kind}", *options, image], check=True, capture_output=True)
        point.mkdir()
        subprocess.run(["mount", "-o", "loop", image, point], check=True)
        points.append(point)
        return point

    yield mount
    for point in points:
        subprocess.run(["umount", point], check=True)


class TestOnExt4(LoopfileConformance):
    """A pool on ext4: sparse, every copy in full."""

    __test__ = True

    @pytest.fixture
    def pool_folder(self, mounted):
        return mounted("ext4", 256, "-q", "-m", "0")

    async def test_copies_are_not_of_one_moment(self, pool):
        """ext4 cannot share blocks, and the pool does not claim that it can."""
        assert not pool.backend.features.atomic_copies


class TestOnReflinkXfs(LoopfileConformance):
    """A pool on XFS that is a mount point, with a quota: sparse, copies share blocks."""

    __test__ = True
    settings = {"require_mount": True, "copies": "reflink", "quota": "256Mi"}

    @pytest.fixture
    def pool_folder(self, mounted):
        return mounted("xfs", 320, "-q", "-m", "reflink=1")

    async def test_copies_are_of_one_moment(self, pool):
        """XFS shares blocks, so the pool says that copies are atomic."""
        assert pool.backend.features.atomic_copies


class TestThick(LoopfileConformance):
    """A pool on reflink XFS whose volumes are thick: copies are full, though cut at one moment."""

    __test__ = True
    other_parameters = {"allocation": "sparse"}
    settings = {"allocation": "thick"}

    @pytest.fixture
    def pool_folder(self, mounted):
        return mounted("xfs", 320, "-q", "-m", "reflink=1")
