"""What the demo needs of the machine, and where it finds room."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Final

from katacsi.host import loop
from katacsi.host.command import ENVIRONMENT, PACKAGES
from katacsi.model import MIB, format_size
from katacsi.testing.leaks import filesystem_of

#: What the driver calls on the demo's way.
_TOOLS: Final = ("mkfs.ext4", "e2fsck", "resize2fs", "blkid")
#: The pool promises three volumes of 64 MiB and their growth; some 30 MiB of it are written.
_ROOM: Final = 400 * MIB
_FOLDERS: Final = (Path("/var/tmp"), Path.home(), Path("/srv"), Path("/tmp"))  # noqa: S108  # a fresh folder below
_NOT_DISKS: Final = ("tmpfs", "ramfs", "overlay")


class NoRoom(Exception):
    """No folder will do; the message says why."""


def missing() -> list[str]:
    """Name what this machine lacks, each with its remedy; nothing: the demo can run."""
    if os.geteuid() != 0:
        return [
            "the demo needs root for loop devices and mounts: run `sudo katacsi demo`, or `sudo make demo`"
        ]
    lacking = []
    reason = loop.available()
    if reason is not None:
        lacking.append(f"loop devices: {reason}")
    packages = sorted({PACKAGES[tool] for tool in _TOOLS if not shutil.which(tool, path=ENVIRONMENT["PATH"])})
    if packages:
        tools = [tool for tool in _TOOLS if PACKAGES[tool] in packages]
        lacking.append(f"tools: {', '.join(tools)} not found: run `apt-get install {' '.join(packages)}`")
    return lacking


def scratch_folder(wished: Path | None) -> Path:
    """Give a folder to make the scratch folder in: the one that was wished, else a disk with room.

    Raises:
        NoRoom: it will not do; or none was found.
    """
    if wished is not None:
        wished = wished.absolute()
        if not wished.is_dir():
            raise NoRoom(f"--scratch {wished}: is no folder; name one that exists")
        if (free := _free(wished)) < _ROOM:
            raise NoRoom(
                f"--scratch {wished}: has {format_size(free)} free, and the demo needs {format_size(_ROOM)}; "
                "name another folder"
            )
        return wished
    usable = [folder for folder in _FOLDERS if folder.is_dir() and _free(folder) >= _ROOM]
    on_disk = [folder for folder in usable if filesystem_of(folder) not in _NOT_DISKS]
    if not usable:
        names = ", ".join(map(str, _FOLDERS))
        raise NoRoom(f"none of {names} has {format_size(_ROOM)} free; give a folder by --scratch DIR")
    return (on_disk or usable)[0]


def _free(folder: Path) -> int:
    if not stat.S_ISDIR(folder.stat().st_mode):
        return 0
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize
