"""The lvm backend on the disks of the lab's machine, in the kit for authors and in tests of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from katacsi.backends.api import CreateRequest, PoolContext, SizeRange
from katacsi.backends.lvm import LvmBackend, LvmSettings
from katacsi.backends.lvm.group import FRESH_S
from katacsi.model import MIB
from katacsi.testing import BackendConformance, blockio
from support.real_lvm import DEVICES, DISKS, VG, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from katacsi.backends.api import ContentSource, Snapshot, Volume

THIN_POOL = "thinpool"


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
    kill_every: ClassVar = 11  # and test_lvm_crashes kills it at each command
    illegal_parameters: ClassVar = {"type": "mirror"}
    settings: ClassVar = {}

    @pytest.fixture
    def make_backend(self, volume_group):
        settings = LvmSettings(volume_group=volume_group, devices=DEVICES, **self.settings)
        return lambda context: LvmBackend(settings, context)

    @pytest.fixture
    def break_storage(self, volume_group):
        @contextlib.contextmanager
        def renamed():
            run("vgrename", volume_group, "away")
            try:
                known_to_all()
                yield
            finally:
                run("vgrename", "away", volume_group)
                known_to_all()

        return renamed

    @pytest.fixture
    def damage_record(self, volume_group):
        @contextlib.contextmanager
        def torn(volume):
            whole, broken = "katacsi.io/kind=volume", "katacsi.io/kind=nothing"
            lv = f"{volume_group}/kv-{volume.id.name}"
            run("lvchange", "--deltag", whole, "--addtag", broken, lv)
            try:
                known_to_all()
                yield
            finally:
                run("lvchange", "--deltag", broken, "--addtag", whole, lv)
                known_to_all()

        return torn

    async def test_copies_are_of_one_moment(self, pool):
        """A snapshot is cut at one moment, and the pool says so."""
        assert pool.backend.atomic_copies


def known_to_all() -> None:
    """Wait until pools believe no more what they saw before a change by hand."""
    time.sleep(FRESH_S)


def request(
    name: str, size: int = 16 * MIB, source: ContentSource | None = None, **parameters: str
) -> CreateRequest:
    """Ask for a volume."""
    return CreateRequest(name, SizeRange(size), parameters, {"direct": "auto"}, source)


class Started:
    """Pools on the group that were started by a test."""

    def __init__(self) -> None:
        self.backends: list[LvmBackend] = []

    async def __call__(self, **settings: Any) -> LvmBackend:
        """Start a pool with these settings."""
        chosen = LvmSettings.model_validate({"volume_group": VG, "devices": DEVICES, **settings})
        backend = LvmBackend(chosen, PoolContext("pool", "test.katacsi.io", "node-1"))
        await backend.start()
        self.backends.append(backend)
        return backend


async def start(volume_group: str) -> AsyncIterator[Started]:
    """Start pools, for a fixture; what is left in the last one at the end is deleted."""
    started = Started()
    yield started
    backend = started.backends[-1]
    await clear(backend)
    await backend.close()


async def clear(pool: LvmBackend) -> None:
    """Delete all that a pool has."""
    for snapshot in (await pool.list_snapshots("", 0)).items:
        await pool.delete_snapshot(snapshot.id)
    for volume in (await pool.list("", 0)).items:
        await pool.detach(volume.id)
        await pool.delete(volume.id)


async def write(pool: LvmBackend, volume: Volume, data: bytes, offset: int = 0) -> None:
    """Write to a volume, attached for that and detached again."""
    device = await pool.attach(volume.id, {}, {})
    await asyncio.to_thread(blockio.write, device, data, offset)
    await pool.detach(volume.id)


async def read(pool: LvmBackend, volume: Volume, length: int, offset: int = 0) -> bytes:
    """Read from a volume, attached for that and detached again."""
    device = await pool.attach(volume.id, {}, {})
    data = await asyncio.to_thread(blockio.read, device, length, offset)
    await pool.detach(volume.id)
    return data


async def fill(pool: LvmBackend, volume: Volume) -> None:
    """Write all over a volume."""
    device = await pool.attach(volume.id, {}, {})
    await asyncio.to_thread(blockio.fill, device, b"\xa5")
    await pool.detach(volume.id)


async def ready(pool: LvmBackend, name: str, volume: Volume) -> Snapshot:
    """Cut a snapshot, and wait until its bytes are there."""
    for _ in range(600):
        if (snapshot := await pool.create_snapshot(name, volume.id)).ready:
            return snapshot
        await asyncio.sleep(0.2)
    raise AssertionError(f"snapshot {name} is not ready")


async def settled(condition: Callable[[], bool]) -> None:
    """Wait until something is so, while the pool goes on."""
    for _ in range(120):
        if await asyncio.to_thread(condition):
            return
        await asyncio.sleep(0.3)
    raise AssertionError("it did not come about")


def names() -> set[str]:
    """Give the names of all LVs but the thin pool."""
    return set(run("lvs", "--noheadings", "--options", "lv_name", VG).split()) - {THIN_POOL}
