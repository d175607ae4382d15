"""A folder, as katacsi has it: on which filesystem it lies, and whether it is the node's own."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from katacsi.doctor.hostfiles import OWN
from katacsi.errors import KatacsiError
from katacsi.findings import Unread
from katacsi.host import mount

if TYPE_CHECKING:
    from katacsi.doctor.hostfiles import HostFiles


@dataclass(frozen=True, slots=True)
class Mounted:
    """The filesystem on which a path lies.

    Attributes:
        target: its mount point.
        type: such as `tmpfs`.
        read_only: whether it refuses writes here.
        shared: what is mounted below it here is seen by others.
    """

    target: str
    type: str
    read_only: bool = False
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A folder, as katacsi sees it.

    Attributes:
        path: its path.
        exists: whether there is something.
        folder: whether it is a folder.
        mode: its permissions.
        owner: the user's number.
        mounted: the filesystem on which it lies, or would lie; `None`: not known.
        hosts: it is the very folder that the node has at this path; `None`: the same by nature.
    """

    path: str
    exists: bool = True
    folder: bool = True
    mode: int = 0o700
    owner: int = 0
    mounted: Mounted | None = None
    hosts: bool | None = None


def place(path: Path | str, files: HostFiles, *, contained: bool) -> Place | Unread:
    """Look at a folder as this process has it, and whether it is the node's."""
    path = str(path)
    found = OWN.status(path)
    if isinstance(found, Unread):
        return found
    if found is None:
        return Place(path, exists=False, mounted=mounted(path))
    hosts = None
    if contained:
        theirs = files.status(path)
        if isinstance(theirs, Unread):
            return theirs
        hosts = theirs is not None and (theirs.st_dev, theirs.st_ino) == (found.st_dev, found.st_ino)
    return Place(
        path,
        folder=stat.S_ISDIR(found.st_mode),
        mode=stat.S_IMODE(found.st_mode),
        owner=found.st_uid,
        mounted=mounted(path),
        hosts=hosts,
    )


def mounted(path: str) -> Mounted | None:
    """Say on which filesystem a path lies, or would lie."""
    try:
        table = mount.table()
        real = Path(path).resolve()
    except (KatacsiError, OSError):
        return None
    # Of a stack the last one counts.
    over = [entry for entry in table if real.is_relative_to(entry.target)]
    if not over:
        return None
    deepest = max(enumerate(over), key=lambda item: (len(item[1].target.parts), item[0]))[1]
    return Mounted(
        str(deepest.target),
        deepest.fs_type,
        read_only=deepest.read_only,
        shared=any(word.startswith("shared:") for word in deepest.propagation),
    )
