"""Whether a guest's numbers are those of one device, by what the filesystem on it says of itself.

The superblock is read, not mounted, and only numbers that a guest cannot make look like another volume's by
running normally are compared: ext4's count of inodes changes when it grows, and an xfs's room is what its
superblock counts, less the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from katacsi.errors import HostError
from katacsi.host import block, growth, superblock

if TYPE_CHECKING:
    from katacsi.directvolume.shim import GuestStats
    from katacsi.host.superblock import Superblock


#: More than a last group needs for itself: ext4's inodes, bitmaps, and the copy of its group descriptors with
#: what is reserved for more of them; an xfs needs less.
_MOST_INODE_BYTES = 256
_GROUP_BLOCKS = 1200


@dataclass(frozen=True, slots=True)
class OnDevice:
    """A filesystem and the device that it is on, as the host sees them.

    A guest's growth may reach the superblock only when its journal is written back, so the filesystem may be
    larger by then, as far as the device goes.
    """

    filesystem: Superblock
    device_bytes: int

    def shows(self, stats: GuestStats) -> bool:
        """Whether these can be its numbers."""
        found, may_be_larger = self.filesystem, self.device_bytes > self.filesystem.size_bytes
        if stats.total_bytes > self.device_bytes:
            return False
        if found.inodes:
            grown = stats.total_inodes - found.inodes
            return grown == 0 or (may_be_larger and grown > 0 and grown % found.inodes_per_group == 0)
        room = found.size_bytes - found.log_bytes
        return stats.total_bytes == room or (may_be_larger and stats.total_bytes > room)

    def reached(self, size_bytes: int, before: GuestStats, after: GuestStats) -> bool:
        """Whether a guest's filesystem has grown to fill `size_bytes`, seen from this state before.

        What a filesystem needs for itself grows no faster than the filesystem does, but for the tables of its
        last group. A superblock that was behind already before tells nothing.
        """
        found = self.filesystem
        if before.total_bytes > found.size_bytes:
            return after.total_bytes >= before.total_bytes
        if growth.fills(found, size_bytes):
            return True
        tables = found.inodes_per_group * _MOST_INODE_BYTES + _GROUP_BLOCKS * found.block_size
        in_proportion = after.total_bytes * found.size_bytes >= (size_bytes - tables) * before.total_bytes
        return in_proportion and after.total_bytes > before.total_bytes


def on_device(device: str) -> OnDevice | None:
    """Read what is on a device, or in an image file; `None` when that cannot be told. It blocks."""
    path = Path(device)
    try:
        size = path.stat().st_size if path.is_file() else block.size_bytes(path)
        found = superblock.read(path)
    except (HostError, OSError):
        return None
    return OnDevice(found, size) if found is not None else None
