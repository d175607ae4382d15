"""A snapshot of a volume that the host has mounted and that is being written is a consistent filesystem."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import threading

import pytest

from katacsi.backends.api import ContentSource
from katacsi.model import MIB
from support import lvm_pools
from support.blockdevices import mounted
from support.lvm_pools import THIN_POOL, ready, request
from support.real_lvm import run

UDEV = False
SECONDS = 55

volume_group = pytest.fixture(lvm_pools.volume_group, scope="module", name="volume_group")
start = pytest.fixture(lvm_pools.start, name="start")


class Writer:
    """Writes files without a pause, and remembers which of them are surely on the disk."""

    def __init__(self, folder):
        self.synced = []
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def _write(self):
        for number in itertools.count():
            if self._stop.is_set():
                return
            # Files come, change their names and go, so that the journal always has something.
            path = self._folder / f"new-{number}"
            with path.open("wb") as file:
                file.write(f"{number}".encode().ljust(8192))
                file.flush()
                os.fsync(file)
            path.rename(self._folder / f"file-{number}")
            folder = os.open(self._folder, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
            self.synced.append(number)
            if number >= 1000:
                (self._folder / f"file-{number - 1000}").unlink()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def check(device, fs_type, folder, synced):
    """See that a copy is a whole filesystem, and has every file that was synced before it was cut."""
    if fs_type == "ext4":
        # Frozen at the cut, so its journal is empty: nothing to recover, nothing to mend.
        said = subprocess.run(
            ["e2fsck", "-f", "-n", device.path], capture_output=True, text=True, check=False
        )
        assert said.returncode == 0, said.stdout
        assert "recover" not in said.stdout + said.stderr
        flags = run("dumpe2fs", "-h", device.path)
        assert "needs_recovery" not in flags
    with mounted(device.path, folder, *(["nouuid"] if fs_type == "xfs" else [])) as root:
        for number in synced:
            assert (root / f"file-{number}").read_bytes() == f"{number}".encode().ljust(8192)
    if fs_type == "xfs":
        run("xfs_repair", "-n", device.path)


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
@pytest.mark.parametrize("kind", ["thin", "linear"])
async def test_a_snapshot_of_a_mounted_volume_is_consistent(start, scratch, kind, fs_type):
    """What was synced before the snapshot is in a restore of it, whose filesystem needs no repair."""
    pool = await start(thin_pool=THIN_POOL if kind == "thin" else None, overprovision_ratio=8)
    volume = await pool.create(request("a", 320 * MIB))
    device = await pool.attach(volume.id, {}, {})
    await asyncio.to_thread(run, f"mkfs.{fs_type}", "-q", device.path)
    with mounted(device.path, scratch / "mount") as root, Writer(root) as writer:
        await lvm_pools.settled(lambda: len(writer.synced) > 20)
        synced = list(writer.synced)[-150:]
        first = await pool.create_snapshot("s", volume.id)
        # What is written from now on is not of its moment, and may not harm it.
        await lvm_pools.settled(lambda: len(writer.synced) > len(synced) + 20)
    await ready(pool, "s", volume)
    copy = await pool.create(request("b", 0, ContentSource(first.id)))
    restored = await pool.attach(copy.id, {}, {})
    await asyncio.to_thread(check, restored, fs_type, scratch / "copy", synced)
