"""What the loop devices of a pool say of themselves, for when their files cannot be asked any more.

A label names the pool's storage, the place where the pool lies, and the volume, in the 63 bytes that a loop
device has for it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.host.looprelease import Found
    from katacsi.model import VolumeId

_MARK = "katacsi"


def place(node_id: str, directory: Path) -> str:
    """Give what tells the folder of a pool from any other, also on another node that shares the kernel."""
    return hashlib.sha256(f"{node_id}\0{directory}".encode()).hexdigest()[:8]


def label(where: str, volume_id: VolumeId) -> str:
    """Give the label of a volume's device; `where` is a `place`."""
    return f"{_MARK}:{volume_id.pool_uid}:{where}:{_name(volume_id)}"


def is_of_volume(found: Found, disk: Path, volume_id: VolumeId, remembered: Path | None) -> bool:
    """Whether a loop device is provably this volume's.

    Its label decides. One without, that somebody else made, has an image of the pool's own path (`disk`). One
    whose filesystem answers nothing has only a path: the whole, or, if it is the device that the node
    remembers, the end of it; the beginning shows where the filesystem is mounted for whoever looks.
    """
    mark, uid, _, name = _parts(found.label)
    if mark == _MARK:
        return (uid, name) == (volume_id.pool_uid, _name(volume_id))
    if found.is_of(disk):
        return True
    end = "/" + "/".join(disk.parts[-3:])
    return found.label is None and found.path == remembered and found.shown.endswith(end)


def is_at(found: Found, where: str, directory: Path) -> bool:
    """Whether a loop device is of a volume of a pool that lies, or lay, in this place."""
    if found.label is None:
        return found.shown.startswith(f"{directory}/volumes/")
    mark, _, there, _ = _parts(found.label)
    return (mark, there) == (_MARK, where)


def _parts(text: str | None) -> tuple[str, str, str, str]:
    parts = (text or "").split(":")
    return (parts[0], parts[1], parts[2], parts[3]) if len(parts) == 4 else ("", "", "", "")


def _name(volume_id: VolumeId) -> str:
    return hashlib.sha256(volume_id.name.encode()).hexdigest()[:32]
