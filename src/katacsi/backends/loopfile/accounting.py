"""What the pool has promised, and so what it can still give; in memory, counted once at the start.

Whoever serves the pool holds its lock, so nobody else changes it, and asking costs the same for one volume
and for ten thousand.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from katacsi.backends.loopfile.settings import SECTOR_SIZE, Allocation
from katacsi.errors import OutOfSpace
from katacsi.model import MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from katacsi.backends.loopfile.layout import ObjectFolder
    from katacsi.backends.loopfile.settings import LoopfileSettings
    from katacsi.host.directories import Room


#: What is spared for the map of a thick file's blocks: so many bytes, or this part of it.
_LEAST_MAP: Final = MIB
_MAPPED: Final = 1024


@dataclass(frozen=True, slots=True)
class _Size:
    promised: int
    allocated: int


class Accounting:
    """The sizes promised to the disks of one pool."""

    def __init__(self, pool: str, settings: LoopfileSettings) -> None:
        self._pool = pool
        self._directory = settings.directory
        self._quota = settings.quota
        self._reserve = settings.reserve
        self._ratio = settings.overprovision_ratio
        self._sizes: dict[Path, int] = {}
        self._promised = 0
        self._unallocated: dict[Path, int] = {}  # thick files that are being written
        self._foreign = 0
        # Not asyncio's: the steps run in threads, and check and promise are one.
        self._lock = threading.Lock()

    def measure_others(self, folders: Iterable[ObjectFolder], room: Room) -> None:
        """Find out what others store on the same filesystem, which cannot be promised.

        Before anything is removed: a filesystem may call bytes used for a while that it is freeing.
        """
        allocated = sum(
            size.allocated for folder in folders for disk in folder.every_disk() if (size := _size(disk))
        )
        with self._lock:
            # Shared blocks count twice in `allocated`, so on a reflink filesystem this is the least that
            # others may have.
            self._foreign = max(0, room.total_bytes - room.available_bytes - allocated)

    def count(self, folders: Collection[ObjectFolder], room: Room) -> None:
        """Begin anew from what lies in the pool."""
        self.measure_others(folders, room)
        self.count_promises(folders)

    def count_promises(self, folders: Iterable[ObjectFolder]) -> None:
        """Say what was promised to whom: a file's length is what its owner was."""
        sizes = {
            disk: size.promised
            for folder in folders
            for disk in map(folder.disk, folder.names())
            if (size := _size(disk)) is not None
        }
        with self._lock:
            self._sizes = sizes
            self._promised = sum(sizes.values())

    def promise(self, disk: Path, size_bytes: int, allocation: Allocation, room: Room) -> None:
        """Promise a disk its size, new or grown.

        Raises:
            OutOfSpace: the pool cannot keep that promise.
        """
        with self._lock:
            growth = size_bytes - self._sizes.get(disk, 0)
            left = self._available(allocation, room)
            if growth > left:
                raise OutOfSpace(
                    f"pool {self._pool!r} ({self._directory}): {format_size(growth)} were asked for, "
                    f"{format_size(left)} can be given to {allocation.value} volumes; "
                    f"{format_size(self._promised)} are promised and {format_size(room.available_bytes)} are "
                    "free on the filesystem; delete volumes, or change quota, reserve or overprovision_ratio"
                )
            self._set(disk, size_bytes)
            if allocation is Allocation.THICK:
                self._unallocated[disk] = growth

    def settle(self, disk: Path, size_bytes: int) -> None:
        """Record the size that a disk has; its bytes, where it is thick, show on the filesystem now."""
        with self._lock:
            self._set(disk, size_bytes)
            self._unallocated.pop(disk, None)

    def release(self, disk: Path) -> None:
        """Take the promise back."""
        self.settle(disk, 0)

    def has(self, disk: Path) -> bool:
        """Say whether a disk is promised its size, also while it is being written."""
        with self._lock:
            return disk in self._sizes

    def available(self, allocation: Allocation, room: Room) -> int:
        """Say how many bytes can be promised now, in whole sectors."""
        with self._lock:
            return self._available(allocation, room) // SECTOR_SIZE * SECTOR_SIZE

    @staticmethod
    def largest(allocation: Allocation, available_bytes: int) -> int:
        """Say how large a single volume can be where so many bytes are available.

        A file whose blocks are reserved takes some more, for the map of its blocks.
        """
        if allocation is Allocation.SPARSE:
            return available_bytes
        spared = max(_LEAST_MAP, available_bytes // _MAPPED)
        return max(0, available_bytes - spared) // SECTOR_SIZE * SECTOR_SIZE

    def _available(self, allocation: Allocation, room: Room) -> int:
        base = room.total_bytes - self._foreign - self._reserve
        if self._quota is not None:
            base = min(base, self._quota)
        promisable = base * self._ratio - self._promised
        free = room.available_bytes - self._reserve - sum(self._unallocated.values())
        if allocation is Allocation.SPARSE:
            free = math.floor(free * self._ratio)
        return max(0, math.floor(min(promisable, free)))

    def _set(self, disk: Path, size_bytes: int) -> None:
        self._promised += size_bytes - self._sizes.pop(disk, 0)
        if size_bytes:
            self._sizes[disk] = size_bytes


def _size(disk: Path) -> _Size | None:
    try:
        status = disk.stat()
    except OSError:
        return None  # a damaged or foreign folder promises nothing; `get` says what is wrong with it
    return _Size(status.st_size, status.st_blocks * 512)
