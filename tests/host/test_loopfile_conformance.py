"""The loopfile backend keeps the contract, on a filesystem that copies and on one that shares blocks."""

import contextlib
import subprocess
from typing import ClassVar

import pytest

from katacsi.backends.loopfile import LoopfileBackend, LoopfileSettings
from katacsi.backends.tools import poollock
from katacsi.testing import BackendConformance
from support.pools import mounted_filesystem

GATES = {
    "volume-id-in-unsafe-characters": BackendConformance.test_any_name_is_safe,
    "sizes-round-up": BackendConformance.test_odd_sizes_are_rounded_up,
    "restage-keeps-bytes": BackendConformance.test_bytes_survive_detaching_and_restarts,
    "create-twice-equal-context": BackendConformance.test_creating_twice_gives_the_same_volume,
    "delete-frees-storage": BackendConformance.test_deleting_frees_the_bytes,
}
for gate, promise in GATES.items():
    # The kit knows no gates: its users have none.
    pytest.mark.gate(gate)(promise)


class LoopfileConformance(BackendConformance):
    """What is the same for all loopfile pools."""

    __test__ = False

    entry_point = "loopfile"
    other_parameters: ClassVar = {"allocation": "thick"}
    illegal_parameters: ClassVar = {"allocation": "thin"}
    settings: ClassVar = {}

    @pytest.fixture
    def make_backend(self, pool_folder, monkeypatch):
        # Who is refused need not wait as long as the pod of a release that ends.
        monkeypatch.setattr(poollock, "TIMEOUT_S", 0.2)
        settings = LoopfileSettings(directory=pool_folder, **self.settings)
        return lambda context: LoopfileBackend(settings, context)

    @pytest.fixture
    def break_storage(self, pool_folder):
        @contextlib.contextmanager
        def hidden():
            # The pool's lock keeps its filesystem busy; what lies under a mount is as good as unmounted.
            subprocess.run(["mount", "-t", "tmpfs", "nothing", pool_folder], check=True)
            try:
                yield
            finally:
                subprocess.run(["umount", pool_folder], check=True)

        return hidden

    @pytest.fixture
    def break_disk(self, pool_folder):
        @contextlib.contextmanager
        def removed(volume):
            disk = pool_folder / "volumes" / volume.id.name / "disk.img"
            disk.rename(pool_folder / "disk.img")
            try:
                yield
            finally:
                (pool_folder / "disk.img").rename(disk)

        return removed

    @pytest.fixture
    def damage_record(self, pool_folder):
        @contextlib.contextmanager
        def torn(volume):
            record = pool_folder / "volumes" / volume.id.name / "volume.json"
            whole = record.read_bytes()
            record.write_bytes(whole[: len(whole) // 2])
            try:
                yield
            finally:
                record.write_bytes(whole)

        return torn


class TestOnExt4(LoopfileConformance):
    """A pool on ext4: sparse, every copy in full."""

    __test__ = True

    @pytest.fixture
    def pool_folder(self, scratch):
        with mounted_filesystem(scratch, "ext4", 256, "-m", "0") as point:
            yield point

    async def test_copies_are_not_of_one_moment(self, pool):
        """ext4 cannot share blocks, and the pool does not claim that it can."""
        assert not pool.backend.atomic_copies


class TestOnReflinkXfs(LoopfileConformance):
    """A pool on XFS that is a mount point, with a quota: sparse, copies share blocks."""

    __test__ = True
    settings: ClassVar = {"require_mount": True, "copies": "reflink", "quota": "256Mi"}

    @pytest.fixture
    def pool_folder(self, scratch):
        with mounted_filesystem(scratch, "xfs", 320, "-m", "reflink=1") as point:
            yield point

    async def test_copies_are_of_one_moment(self, pool):
        """XFS shares blocks, so the pool says that copies are atomic."""
        assert pool.backend.atomic_copies


class TestThick(LoopfileConformance):
    """A pool on reflink XFS whose volumes are thick: copies are full, though cut at one moment."""

    __test__ = True
    other_parameters: ClassVar = {"allocation": "sparse"}
    settings: ClassVar = {"allocation": "thick"}

    @pytest.fixture
    def pool_folder(self, scratch):
        with mounted_filesystem(scratch, "xfs", 320, "-m", "reflink=1") as point:
            yield point
